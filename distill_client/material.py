"""What a run works with before its first query: real images, the plan, and whether they fit the teacher."""

from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from distill_client.config import RunConfig
from distill_client.errors import BudgetExhausted, ConfigError, RunStoreError
from distill_client.plan import Plan, PlanCost, check_affordable, draw_held_out, draw_plan, draw_watched
from distill_client.pool import (
    Candidates,
    Pool,
    draw_pool,
    images_digest,
    keep_pool,
    pool_input,
    read_candidates,
    read_kept_pool,
)
from distill_client.randomness import numpy_generator, torch_generator
from distill_client.run_folder import RunFolder
from distill_client.teachers.paid.buying import images_per_request
from distill_client.teachers.protocol import Capabilities
from shared.datasets import Dataset, DatasetUnavailable, load_dataset
from shared.wire.contracts import Resize, TeacherCard
from shared.wire.images import image_digests

# Stands for a teacher's classes where a plan is drawn without one: what a plan costs does not depend on them.
_UNKNOWN_CLASSES = 2


class Material:
    """Drawn from data on the disk and the seed alone, so that the cost is known and the same on every resumption.

    ``test`` is None where no test set is configured.
    """

    def __init__(self, config: RunConfig, card: TeacherCard | None = None, kept: Pool | None = None) -> None:
        """Read and draw the pool for ``card``'s teacher, or take the one that a run has ``kept``.

        Without a card nothing is known of the teacher but what the configuration says. Raises ConfigError.
        """
        rule: Resize = "crop"
        if kept is None:
            spec = pool_input(config.pool, card)
            candidates = _relabel(read_candidates(config.pool, spec), card)
            image_hwc, class_names = candidates.images_nhwc.shape[1:], candidates.class_names
            rule = spec.resize if spec is not None else rule
            if class_names is None and card is not None:
                class_names = tuple(card.classes)
        else:
            image_hwc, class_names = kept.images_nhwc.shape[1:], kept.class_names
            rule = config.pool.resize or (card.input.resize if card is not None else rule)
        self.test = _load_test(config, image_hwc, rule, class_names)
        self.forbidden = frozenset(image_digests(self.test.images_nhwc)) if self.test else frozenset[bytes]()
        if kept is None:
            names = class_names or (self.test.class_names if self.test else ())
            kept = _draw_pools(config, candidates, names, self.forbidden)
        self.pool: Pool = kept
        self.plan: Plan = draw_plan(
            config.synthesis,
            pool_images=len(self.pool.images_nhwc),
            classes=len(self.pool.class_names) or _UNKNOWN_CLASSES,
            seed=config.seed,
            second_pool_images=self.pool.second_images,
            rounds=config.budget.rounds if config.buys_in_rounds else 0,
        )
        check_affordable(self.plan.cost, config.budget_images)
        self._check_held_out(config)
        self._check_networks(config)

    @classmethod
    def of_run(cls, folder: RunFolder) -> Self:
        """The material of a run that was begun. Raises RunStoreError when its test set is another than then."""
        found = read_kept_pool(folder.path)
        if found is None:
            return cls(folder.config, folder.record.teacher)
        pool, test_digest = found
        material = cls(folder.config, folder.record.teacher, pool)
        if test_digest != (material.test and images_digest(material.test.images_nhwc)):
            raise RunStoreError(
                f"{folder.path}: evaluation.dataset {folder.config.evaluation.dataset} has changed since the run "
                "began; bring back its files as they were"
            )
        return material

    def keep(self, path: Path) -> None:
        """Write what a resumption starts from into a new run's folder. Raises OSError."""
        keep_pool(path, self.pool, self.test)

    @property
    def cost(self) -> PlanCost:
        """What the plan buys, phase by phase."""
        return self.plan.cost

    def _check_held_out(self, config: RunConfig) -> None:
        """Refuse to hold out every answer that standard-kd would learn from, or to watch no real image in rounds."""
        if config.baselines.standard_kd and draw_held_out(config, self.cost.taught)[: self.cost.pool].all():
            raise ConfigError(
                f"evaluation.held_out_fraction is {config.evaluation.held_out_fraction}, which holds out all of "
                f"pool.images = {self.cost.pool}; nothing is left for standard-kd to learn from"
            )
        if config.budget.policy == "until-flat" and not draw_watched(config, self.plan.views)[: self.cost.pool].any():
            raise ConfigError(
                f"budget.watched_fraction is {config.budget.watched_fraction}, which is none of pool.images = "
                f"{self.cost.pool}; what a round adds could not be measured"
            )

    def _check_networks(self, config: RunConfig) -> None:
        """Refuse networks that are unknown or made for other images, before an answer is bought for them."""
        from distill_client.student.networks import create_student
        from distill_client.synthesis.cvae_networks import create_cvae

        height, width, channels = self.pool.images_nhwc.shape[1:]
        image_hwc, classes = (height, width, channels), len(self.pool.class_names) or _UNKNOWN_CLASSES
        generator = torch_generator(config.seed, "check")
        create_student(config.student.network, image_hwc=image_hwc, classes=classes, generator=generator)
        if self.cost.cvae:
            create_cvae(config.synthesis.cvae, image_hwc=image_hwc, classes=classes, generator=generator)


def _draw_pools(
    config: RunConfig, candidates: Candidates, class_names: tuple[str, ...], forbidden: frozenset[bytes]
) -> Pool:
    """The pool, with a second draw from the same candidates where the CVAE is to learn from another one."""

    def draw(stage: str) -> Pool:
        generator = numpy_generator(config.seed, stage)
        return draw_pool(config.pool, candidates, class_names, forbidden, generator)

    pool = draw("pool")
    return replace(pool, second_nhwc=draw("second-pool").images_nhwc) if config.synthesis.has_second_pool else pool


def check_card(config: RunConfig, card: TeacherCard, pool: Pool) -> None:
    """Raise ConfigError when the pool's images or classes are not the teacher's, or no request can hold one."""
    wanted = (card.input.height, card.input.width, card.input.channels)
    if pool.images_nhwc.shape[1:] != wanted:
        raise ConfigError(
            f"{config.pool.source} with images of {pool.images_nhwc.shape[1:]}; "
            f"teacher {card.name} takes {wanted} (height, width, channels)"
        )
    images_per_request(config.teacher.images_per_request, card)
    if pool.class_names and tuple(card.classes) != pool.class_names:
        raise ConfigError(
            f"{config.pool.source} with classes {list(pool.class_names)}; "
            f"teacher {card.name} answers in {card.classes}; "
            "pool.labels = 'ignore' uses the images without their labels"
        )


def check_budget(cost: PlanCost, card: Capabilities) -> None:
    """Raise BudgetExhausted when a budget of which nothing of the plan is bought yet cannot pay for it."""
    if cost.total > card.budget.remaining:
        left = f"{card.budget.remaining} of {card.budget.granted} are left"
        left += " on this key" if card.reports_usage else ""
        raise BudgetExhausted(
            f"the plan buys {cost.total} images; {left}; "
            f"{card.how_to_get(cost.total - card.budget.remaining)}, or plan for less",
            granted=card.budget.granted,
            spent=card.budget.spent,
        )


def load_test(config: RunConfig, card: TeacherCard) -> Dataset | None:
    """The configured test set at the teacher's input, its truth in the teacher's classes; None for none.

    Raises ConfigError when it is not to be had, or has classes that the teacher does not answer in.
    """
    spec = pool_input(config.pool, card) or card.input
    return _load_test(config, (spec.height, spec.width, spec.channels), spec.resize, tuple(card.classes))


def _load_test(
    config: RunConfig, image_hwc: tuple[int, ...], resize: Resize, class_names: tuple[str, ...] | None
) -> Dataset | None:
    name = config.evaluation.dataset
    if name is None:
        return None
    height, width, channels = image_hwc
    try:
        test = load_dataset(name, "test", size=(height, width, channels), resize=resize)
    except (ValueError, DatasetUnavailable) as error:
        raise ConfigError(f"evaluation.dataset: {error}") from error
    if class_names is None or test.class_names == class_names:
        return test
    truth_n = _truth_in(class_names, test.class_names, test.truth_n)
    if truth_n is None:
        unknown = [name for name in test.class_names if name not in class_names]
        raise ConfigError(
            f"evaluation.dataset is {test.name}: its classes are not those of {config.pool.source} or of the teacher "
            f"({', '.join(map(repr, unknown[:5]))} is not one of theirs)"
        )
    return replace(test, truth_n=truth_n, class_names=class_names)


def _relabel(candidates: Candidates, card: TeacherCard | None) -> Candidates:
    """Truth in the teacher's classes, where it has them all; else as it is, for ``check_card`` to refuse."""
    if card is None or candidates.truth_n is None or candidates.class_names is None:
        return candidates
    truth_n = _truth_in(tuple(card.classes), candidates.class_names, candidates.truth_n)
    return candidates if truth_n is None else replace(candidates, truth_n=truth_n, class_names=tuple(card.classes))


def _truth_in(
    wanted: tuple[str, ...], given: tuple[str, ...], truth_n: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Truth that indexes ``given`` as indices into ``wanted``, by name; None when a name is not there."""
    if not set(given) <= set(wanted):
        return None
    return np.array([wanted.index(name) for name in given], dtype=np.int64)[truth_n]
