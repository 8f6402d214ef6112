"""What a run works with before its first query: real images, the plan, and whether they fit the teacher."""

from typing import Literal

from distill_client.config import RunConfig
from distill_client.errors import BudgetExhausted, ConfigError
from distill_client.plan import Plan, PlanCost, check_affordable, draw_held_out, draw_plan
from distill_client.pool import Pool, draw_pool
from distill_client.randomness import numpy_generator, torch_generator
from shared.datasets import Dataset, DatasetUnavailable, load_dataset
from shared.wire.contracts import TeacherCard
from shared.wire.images import image_digests


class Material:
    """Drawn from data on the disk and the seed alone, so that the cost is known and the same on every resumption."""

    def __init__(self, config: RunConfig) -> None:
        self.test = load_split(config.evaluation.dataset, "test", "evaluation.dataset")
        self.forbidden = frozenset(image_digests(self.test.images_nhwc))
        source = load_split(config.pool.dataset, "train", "pool.dataset")
        if source.class_names != self.test.class_names:
            raise ConfigError(f"evaluation.dataset is {self.test.name}: its classes are not those of {source.name}")
        self.pool: Pool = draw_pool(config.pool, source, self.forbidden, numpy_generator(config.seed, "pool"))
        self.plan: Plan = draw_plan(
            config.synthesis,
            pool_images=len(self.pool.images_nhwc),
            classes=len(self.pool.class_names),
            seed=config.seed,
        )
        check_affordable(self.plan.cost, config.budget_images)
        self._check_held_out(config)
        self._check_networks(config)

    @property
    def cost(self) -> PlanCost:
        """What the plan buys, phase by phase."""
        return self.plan.cost

    def _check_held_out(self, config: RunConfig) -> None:
        """Refuse to hold out every answer that standard-kd would learn from."""
        if config.baselines.standard_kd and draw_held_out(config, self.cost.total)[: self.cost.pool].all():
            raise ConfigError(
                f"evaluation.held_out_fraction is {config.evaluation.held_out_fraction}, which holds out all of "
                f"pool.images = {self.cost.pool}; nothing is left for standard-kd to learn from"
            )

    def _check_networks(self, config: RunConfig) -> None:
        """Refuse networks that are unknown or made for other images, before an answer is bought for them."""
        from distill_client.student.networks import create_student
        from distill_client.synthesis.cvae import create_cvae

        height, width, channels = self.pool.images_nhwc.shape[1:]
        image_hwc, classes = (height, width, channels), len(self.pool.class_names)
        generator = torch_generator(config.seed, "check")
        create_student(config.student.network, image_hwc=image_hwc, classes=classes, generator=generator)
        if self.cost.cvae:
            create_cvae(config.synthesis.cvae, image_hwc=image_hwc, classes=classes, generator=generator)


def check_card(config: RunConfig, card: TeacherCard, pool: Pool) -> None:
    """Raise ConfigError when the pool's images or classes are not the teacher's."""
    wanted = (card.input.height, card.input.width, card.input.channels)
    if pool.images_nhwc.shape[1:] != wanted:
        raise ConfigError(
            f"pool.dataset is {config.pool.dataset} with images of {pool.images_nhwc.shape[1:]}; "
            f"teacher {card.name} takes {wanted} (height, width, channels)"
        )
    if tuple(card.classes) != pool.class_names:
        raise ConfigError(
            f"pool.dataset is {config.pool.dataset} with classes {list(pool.class_names)}; "
            f"teacher {card.name} answers in {card.classes}"
        )


def check_budget(cost: PlanCost, card: TeacherCard) -> None:
    """Raise BudgetExhausted when a key that has bought nothing of the plan yet cannot pay for it."""
    if cost.total > card.budget.remaining:
        left = f"{card.budget.remaining} of {card.budget.granted} are left on this key"
        raise BudgetExhausted(
            f"the plan buys {cost.total} images; {left}; ask the owner for a grant, or plan for less",
            granted=card.budget.granted,
            spent=card.budget.spent,
        )


def load_split(name: str, split: Literal["train", "test"], key: str) -> Dataset:
    """Load one split of a data set that the configuration names under ``key``. Raises ConfigError."""
    try:
        return load_dataset(name, split)
    except (ValueError, DatasetUnavailable) as error:
        raise ConfigError(f"{key}: {error}") from error
