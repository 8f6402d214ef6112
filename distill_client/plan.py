"""Who spends what, drawn before the first query: the pairs, lambdas and z of every synthetic image.

Nothing here looks at a pixel, so a run's exact cost is known before anything is bought.
"""

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from distill_client.config import ActiveConfig, CvaeConfig, MixupConfig, RunConfig, SynthesisConfig
from distill_client.errors import ConfigError
from distill_client.randomness import numpy_generator
from distill_client.synthesis.view_plan import ViewPlan, draw_views

# Each round replaces every clashing pair by a fresh one. One round is nearly always enough; this many fail only
# when the pool has hardly more different blends than are asked for.
_REDRAW_ROUNDS = 200

# Phases that may be bought in rounds.
_IN_ROUNDS = ("views", "active")


@dataclass(frozen=True)
class PlanCost:
    """Images that each phase buys; an image is one query.

    Of ``views`` and ``active`` every one of ``rounds`` is a phase of its own; with 0 rounds they are bought at once.
    """

    pool: int
    mixup: int = 0
    second_pool: int = 0
    cvae: int = 0
    views: int = 0
    active: int = 0
    gan: int = 0
    rounds: int = 0

    @property
    def total(self) -> int:
        """Images bought by the whole run."""
        return sum(self.phases().values())

    @property
    def real(self) -> int:
        """Real images that the run touches: its pool, and what of a second one is not in it."""
        return self.pool + self.second_pool

    @property
    def taught(self) -> int:
        """Images that our student may learn from; a second pool is the CVAE's alone."""
        return self.total - self.second_pool

    def phases(self) -> dict[str, int]:
        """What each phase that buys anything buys, in the order of buying."""
        images_by_phase = asdict(self)
        rounds, in_rounds = images_by_phase.pop("rounds"), self.of_rounds()
        at_once = {phase: images for phase, images in images_by_phase.items() if not (rounds and phase in _IN_ROUNDS)}
        return {phase: images for phase, images in {**at_once, **in_rounds}.items() if images}

    def of_rounds(self) -> dict[str, int]:
        """What each round buys, by its phase's name; as equal as can be, and empty where all is bought at once."""
        return {
            f"{phase}-{number}": images * number // self.rounds - images * (number - 1) // self.rounds
            for phase in _IN_ROUNDS
            if (images := getattr(self, phase))
            for number in range(1, self.rounds + 1)
        }


@dataclass(frozen=True)
class Plan:
    """One row per synthetic image, in the order they are rendered and bought.

    Mixed: lambda_n float64 times pool image first_n plus the rest of pool image second_n (int64 indices).
    Generated: decoded from z_nd float32 under the condition classes_n int64. Mixed views: as ``views`` says.
    Active: so many, chosen by what students think of them. These and views are bought in ``rounds``, if not 0. GAN:
    so many, chosen by a student too.
    ``second_pool_images`` real images are bought beside them, for the CVAE to learn from.
    """

    pool_images: int
    first_n: NDArray[np.int64]
    second_n: NDArray[np.int64]
    lambda_n: NDArray[np.float64]
    z_nd: NDArray[np.float32]
    classes_n: NDArray[np.int64]
    views: ViewPlan
    second_pool_images: int = 0
    active_images: int = 0
    gan_images: int = 0
    rounds: int = 0

    @property
    def cost(self) -> PlanCost:
        """What following this plan buys."""
        return PlanCost(
            self.pool_images,
            mixup=len(self.lambda_n),
            second_pool=self.second_pool_images,
            cvae=len(self.classes_n),
            views=len(self.views),
            active=self.active_images,
            gan=self.gan_images,
            rounds=self.rounds,
        )


def draw_plan(
    config: SynthesisConfig,
    *,
    pool_images: int,
    classes: int,
    seed: int,
    second_pool_images: int = 0,
    rounds: int = 0,
) -> Plan:
    """Plan exactly ``config.images`` synthetic images over a pool, FS-BBT's (sections 3.1 and 3.2) or another's.

    Where a CVAE is to learn from a second pool, its ``second_pool_images`` that are not in the first are bought too.
    Raises ConfigError when the pool is too small for that many different blends.
    """
    by_method = {"fs-bbt": 0, "mixed-views": 0, "active-mixup": 0, "wgan-gp": 0, config.method: config.images}
    active = by_method["active-mixup"]
    _require_pairs(config.active, active, pool_images)
    blends = by_method["fs-bbt"]
    first_n, second_n, lambda_n = _draw_mixup(config.mixup, blends, pool_images, numpy_generator(seed, "plan.mixup"))
    generated = blends - len(lambda_n)
    z_nd, classes_n = _draw_cvae(config.cvae, generated, classes, numpy_generator(seed, "plan.cvae"))
    views = draw_views(config.views, by_method["mixed-views"], pool_images, numpy_generator(seed, "plan.views"))
    return Plan(
        *(pool_images, first_n, second_n, lambda_n, z_nd, classes_n, views),
        second_pool_images=second_pool_images if generated else 0,
        active_images=active,
        gan_images=by_method["wgan-gp"],
        rounds=rounds,
    )


def draw_held_out(config: RunConfig, bought: int) -> NDArray[np.bool_]:
    """Which bought answers no contender trains on, as a mask over all of them; agreement is measured there.

    In a run that buys in rounds, each answer by itself: what is held out once stays so when more is bought.
    """
    if config.buys_in_rounds:
        is_below: NDArray[np.bool_] = (
            numpy_generator(config.seed, "held-out").random(bought) < config.evaluation.held_out_fraction
        )
        return is_below
    held_out = np.zeros(bought, dtype=bool)
    count = round(bought * config.evaluation.held_out_fraction)
    held_out[numpy_generator(config.seed, "held-out").choice(bought, count, replace=False)] = True
    return held_out


def draw_watched(config: RunConfig, views: ViewPlan) -> NDArray[np.bool_]:
    """Which real images interim students are kept from, and which ``views`` show one of them: the pool, then these.

    What a round added is measured on those real images. On views that were bought it would look larger than it is: a
    student that has learnt other views of an image knows it, and new images are no views.
    """
    watched = np.zeros(config.pool.images, dtype=bool)
    count = round(len(watched) * config.budget.watched_fraction)
    watched[numpy_generator(config.seed, "watched").choice(len(watched), count, replace=False)] = True
    shown = watched[views.first_n] | (watched[views.second_n] & (views.share_n < 1))
    return np.concatenate([watched, shown])


def check_affordable(cost: PlanCost, budget_images: int) -> None:
    """Raise ConfigError when the plan needs more than the budget."""
    if cost.total > budget_images:
        raise ConfigError(
            f"budget_images is {budget_images}; the plan buys {cost.total} ("
            + ", ".join(f"{images} {phase}" for phase, images in cost.phases().items())
            + f"), so at least {cost.total} is needed"
        )


def _require_pairs(config: ActiveConfig, images: int, pool_images: int) -> None:
    """Raise ConfigError where there are fewer pairs than images to be chosen of them; each is chosen once at most."""
    pairs = pool_images * (pool_images - 1) // 2
    most = min(pairs, config.candidates)
    if images > most:
        raise ConfigError(
            f"synthesis.images is {images}; a pool of pool.images = {pool_images} has {pairs} pairs, and "
            f"synthesis.active.candidates is {config.candidates}: at most {most} can be chosen"
        )


def _draw_mixup(
    config: MixupConfig, images: int, pool_images: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Draw pairs from the pool tiled to ``images`` and shuffled twice; keep those whose lambda is a real blend."""
    first = rng.permutation(_tile(images, pool_images, rng))
    second = rng.permutation(_tile(images, pool_images, rng))
    scale = 10**config.lambda_decimals
    # Lambdas are whole numbers of 1 / scale, so that equal ones are equal. 1e-9: 0.29 * 100 is 28.999...96.
    lowest = math.floor(config.original_within * scale + 1e-9) + 1
    units = np.rint(rng.beta(config.alpha, config.alpha, size=images) * scale).astype(np.int64)
    blends = (units >= lowest) & (units <= scale - lowest)
    first, second, units = first[blends], second[blends], units[blends]

    for _ in range(_REDRAW_ROUNDS):
        clashing = _clashing(first, second, units, pool_images, scale)
        count = len(clashing)
        if count == 0:
            return first, second, units / scale
        if pool_images < 2:
            break
        first[clashing] = rng.integers(pool_images, size=count)
        second[clashing] = (first[clashing] + rng.integers(1, pool_images, size=count)) % pool_images
        units[clashing] = rng.choice(units, size=count)
    most = pool_images * (pool_images - 1) // 2 * (scale - 2 * lowest + 1)
    raise ConfigError(
        f"synthesis.images is {images}, about {len(units)} of them blends; a pool of pool.images = {pool_images} has "
        f"only {most} different ones, and fewer can be found at random: enlarge the pool or buy less"
    )


def _tile(images: int, pool_images: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Every pool image equally often; where ``images`` is no multiple of the pool, the rest is a random draw."""
    whole, rest = divmod(images, pool_images)
    return np.concatenate([np.tile(np.arange(pool_images), whole), rng.permutation(pool_images)[:rest]])


def _clashing(
    first: NDArray[np.int64], second: NDArray[np.int64], units: NDArray[np.int64], pool_images: int, scale: int
) -> NDArray[np.int64]:
    """Rows that pair an image with itself or repeat an earlier row; (i, j, l) and (j, i, 1 - l) are one image."""
    swapped = first > second
    low, high = np.where(swapped, second, first), np.where(swapped, first, second)
    keys = (low * pool_images + high) * (scale + 1) + np.where(swapped, scale - units, units)
    clashes = np.ones(len(keys), dtype=bool)
    clashes[np.unique(keys, return_index=True)[1]] = False
    return np.flatnonzero(clashes | (first == second))


def _draw_cvae(
    config: CvaeConfig, count: int, classes: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw z and class conditions, classes balanced within each distribution of z, or laid out as released.

    The released code has the classes in order and z by halves, so the first classes see only Gaussian z.
    """
    row = np.arange(count)
    is_by_class = config.layout == "by-class"
    classes_n = row * classes // max(1, count) if is_by_class else rng.permutation(classes)[row % classes]
    shape = (count, config.latent)
    gaussian = rng.standard_normal(shape)
    uniform = rng.uniform(-config.z_uniform_bound, config.z_uniform_bound, shape)
    if config.z == "hybrid":
        # A checkerboard over (round, class): halves overall and within each class, both to within one image.
        is_gaussian = row < count // 2 if is_by_class else (row // classes + row % classes) % 2 == 0
        z = np.where(is_gaussian[:, None], gaussian, uniform)
    else:
        z = gaussian if config.z == "gaussian" else uniform
    return z.astype(np.float32), classes_n.astype(np.int64)
