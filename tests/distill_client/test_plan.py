from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_client.config import CvaeConfig, MixupConfig, SynthesisConfig
from distill_client.errors import ConfigError
from distill_client.plan import Plan, PlanCost, check_affordable, draw_plan


def rendered_pairs(plan: Plan) -> list[tuple[int, int, int]]:
    """Each blend as (lower index, higher index, its lambda in millionths): equal rows would be equal images."""
    rows = zip(plan.first_n.tolist(), plan.second_n.tolist(), plan.lambda_n.tolist(), strict=True)
    return [(i, j, round(share * 1e6)) if i <= j else (j, i, 1_000_000 - round(share * 1e6)) for i, j, share in rows]


@given(
    images=st.integers(0, 700),
    pool_images=st.integers(12, 300),
    classes=st.integers(1, 11),
    alpha=st.sampled_from([0.2, 1.0, 4.0]),
    within=st.sampled_from([0.0, 0.05, 0.055, 0.3]),
    seed=st.integers(0, 2**63 - 1),
)
@settings(max_examples=60, deadline=None)
def test_every_plan_costs_exactly_what_was_asked(
    images: int, pool_images: int, classes: int, alpha: float, within: float, seed: int
) -> None:
    mixup = MixupConfig(alpha=alpha, original_within=within)
    config = SynthesisConfig(images=images, mixup=mixup, cvae=CvaeConfig(latent=3))
    plan = draw_plan(config, pool_images=pool_images, classes=classes, seed=seed)

    assert plan.cost == PlanCost(pool_images, mixup=len(plan.first_n), cvae=len(plan.z_nd))
    assert plan.cost.total == pool_images + images
    pairs = rendered_pairs(plan)
    assert len(set(pairs)) == len(pairs)
    assert not np.any(plan.first_n == plan.second_n)
    assert all(0 <= index < pool_images for pair in pairs for index in pair[:2])
    assert np.array_equal(plan.lambda_n, np.round(plan.lambda_n, 2))
    assert np.all((plan.lambda_n > within) & (plan.lambda_n < 1 - within))
    assert plan.z_nd.shape == (len(plan.classes_n), 3)
    assert plan.z_nd.dtype == np.float32
    per_class = np.bincount(plan.classes_n, minlength=classes)
    assert per_class.max() - per_class.min() <= 1


def test_published_proportions() -> None:
    plan = draw_plan(SynthesisConfig(images=48_000), pool_images=2_000, classes=10, seed=1)
    assert 5_000 < plan.cost.cvae < 5_560  # 11 % of 48,000, five standard deviations
    uses = np.bincount(np.concatenate([plan.first_n, plan.second_n]), minlength=2_000)
    assert uses.sum() == 2 * plan.cost.mixup
    assert np.ptp(uses) < 30  # tiled: 48 uses less the replaced, far from a Poisson draw's spread


def test_equal_seeds_plan_equal_runs() -> None:
    config = SynthesisConfig(images=500)
    one, same, other = (draw_plan(config, pool_images=50, classes=10, seed=seed) for seed in (3, 3, 4))
    assert rendered_pairs(one) == rendered_pairs(same)
    assert np.array_equal(one.z_nd, same.z_nd)
    assert rendered_pairs(one) != rendered_pairs(other)


@pytest.mark.parametrize("classes", [2, 3, 10, 11])
def test_class_conditions_do_not_depend_on_the_distribution_of_z(classes: int) -> None:
    bound = 1e-6  # a uniform row is one whose numbers are all tiny
    config = SynthesisConfig(images=1_500, cvae=CvaeConfig(latent=4, z_uniform_bound=bound))
    plan = draw_plan(config, pool_images=400, classes=classes, seed=5)
    uniform = np.all(np.abs(plan.z_nd) <= bound, axis=1)
    assert abs(2 * uniform.sum() - len(uniform)) <= 1
    of_class = Counter(plan.classes_n.tolist())
    for label, count in of_class.items():
        assert abs(2 * uniform[plan.classes_n == label].sum() - count) <= 1


def test_z_can_be_all_of_one_distribution() -> None:
    gaussian, uniform = (
        draw_plan(
            SynthesisConfig(images=9_000, cvae=CvaeConfig(z=name, z_uniform_bound=2.0)),
            pool_images=900,
            classes=10,
            seed=1,
        ).z_nd
        for name in ("gaussian", "uniform")
    )
    assert np.abs(gaussian).max() > 2.0 >= np.abs(uniform).max()
    assert abs(gaussian.std() - 1) < 0.1
    assert abs(uniform.std() - 4 / 12**0.5) < 0.1


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_z_as_released_is_gaussian_for_the_first_classes_and_uniform_for_the_last(classes: int) -> None:
    bound = 1e-6  # a uniform row is one whose numbers are all tiny
    cvae = CvaeConfig(latent=4, z_uniform_bound=bound, layout="by-class")
    plan = draw_plan(SynthesisConfig(images=3_000, cvae=cvae), pool_images=400, classes=classes, seed=5)
    uniform = np.all(np.abs(plan.z_nd) <= bound, axis=1)
    count = len(uniform)
    assert np.array_equal(uniform, np.arange(count) >= count // 2)
    assert np.all(np.diff(plan.classes_n) >= 0)
    per_class = np.bincount(plan.classes_n, minlength=classes)
    assert per_class.max() - per_class.min() <= 1


def test_a_gan_makes_all_that_is_not_of_the_pool() -> None:
    plan = draw_plan(SynthesisConfig(images=600, method="wgan-gp"), pool_images=40, classes=10, seed=5)
    assert plan.cost.phases() == {"pool": 40, "gan": 600}
    assert plan.cost.total == plan.cost.taught == 640


def test_a_second_pool_is_bought_only_where_a_cvae_learns_from_it() -> None:
    def cost(images: int) -> PlanCost:
        config = SynthesisConfig(images=images, cvae=CvaeConfig(pool="second"))
        return draw_plan(config, pool_images=400, classes=10, seed=5, second_pool_images=390).cost

    assert (cost(0).total, cost(0).real) == (400, 400)
    assert (cost(600).total, cost(600).real, cost(600).taught) == (1_390, 790, 1_000)
    assert list(cost(600).phases()) == ["pool", "mixup", "second_pool", "cvae"]


def test_nothing_synthetic_costs_the_pool_alone() -> None:
    assert draw_plan(SynthesisConfig(images=0), pool_images=1, classes=10, seed=1).cost == PlanCost(1)


@pytest.mark.parametrize("pool_images", [1, 2, 5])
def test_a_pool_without_enough_different_blends_is_refused(pool_images: int) -> None:
    with pytest.raises(ConfigError, match=rf"synthesis\.images is 2000, .* pool\.images = {pool_images} "):
        draw_plan(SynthesisConfig(images=2_000), pool_images=pool_images, classes=10, seed=1)


def test_a_tiny_pool_still_plans_what_it_can() -> None:
    plan = draw_plan(SynthesisConfig(images=40), pool_images=2, classes=10, seed=1)
    assert plan.cost.total == 42
    assert len(set(rendered_pairs(plan))) == plan.cost.mixup


def test_a_plan_beyond_the_budget_names_the_key_and_the_least_that_would_do() -> None:
    cost = PlanCost(pool=2_000, mixup=7_100, cvae=900)
    check_affordable(cost, 10_000)
    with pytest.raises(ConfigError, match=r"budget_images is 9999; .*at least 10000 is needed"):
        check_affordable(cost, 9_999)


def test_mixed_views_are_planned_instead_of_blends_and_generated_images() -> None:
    plan = draw_plan(SynthesisConfig(images=90, method="mixed-views"), pool_images=40, classes=10, seed=1)
    assert plan.cost.phases() == {"pool": 40, "views": 90}
    assert (len(plan.lambda_n), len(plan.z_nd), len(plan.views)) == (0, 0, 90)
    with pytest.raises(ConfigError, match=r"plan buys 130 \(40 pool, 90 views\), so at least 130 is needed"):
        check_affordable(plan.cost, 129)
