import pytest
import torch

from distill_client.config import Augmentation, AugmentationConfig
from distill_client.randomness import torch_generator
from distill_client.student.augmentation import (
    augment,
    mix_within_batch,
    transform_geometrically,
    with_blends,
    without_blends,
)
from distill_client.student.losses import Targets


def batch(count: int = 32, height: int = 12, width: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch_generator(0, "batch")
    images = torch.rand(count, 1, height, width, generator=generator)
    return images, torch.softmax(torch.randn(count, 5, generator=generator), dim=1)


def test_blended_targets_belong_to_the_blended_images() -> None:
    """With images that are constant at their own row number, pixels reveal partner and share; targets must match."""
    count = 16
    level = torch.arange(count, dtype=torch.float32)
    images = level[:, None, None, None].expand(count, 1, 3, 3).contiguous()
    mixed, taught = mix_within_batch(images, Targets(torch.eye(count)), torch_generator(1, "mix"))
    answers = taught.named_nk
    assert torch.allclose(answers @ level, mixed[:, 0, 0, 0], atol=1e-5)
    assert torch.allclose(answers.sum(dim=1), torch.ones(count))
    assert torch.all((answers > 0).sum(dim=1) <= 2)
    shares = answers.diagonal()
    assert 0.3 < float(shares.mean()) < 0.7


@pytest.mark.parametrize("mode", ["none", "geometric", "mixup", "combination"])
def test_targets_change_only_where_images_are_blended(mode: str) -> None:
    images, targets = batch()
    varied, answers = augment(
        mode,  # type: ignore[arg-type]
        AugmentationConfig(flip=True),
        images,
        Targets(targets),
        torch_generator(2, "x"),
    )
    assert varied.shape == images.shape
    assert torch.equal(answers.named_nk, targets) == (mode in ("none", "geometric"))
    assert torch.equal(varied, images) == (mode == "none")
    assert 0 <= float(varied.min()) <= float(varied.max()) <= 1 + 1e-6


@pytest.mark.parametrize("mode", ["mixup", "combination"])
def test_of_a_fraction_the_rest_is_learnt_as_it_was_answered(mode: Augmentation) -> None:
    images, targets = batch(40)
    still = AugmentationConfig(rotate_degrees=0, shift_fraction=0, blended_fraction=0.3)
    varied, taught = augment(mode, still, images, Targets(targets), torch_generator(1, "x"))
    unchanged = (taught.named_nk == targets).all(dim=1)
    assert unchanged[12:].all()
    assert (~unchanged[:12]).sum() >= 8  # a row may be its own partner, or have one of its own class
    assert torch.allclose(varied[12:], images[12:], atol=1e-5)
    whole = augment(
        "mixup", still.model_copy(update={"blended_fraction": 1.0}), images, Targets(targets), torch_generator(1, "x")
    )
    assert torch.equal(whole[1].named_nk[:12], taught.named_nk[:12]), "the same blends are drawn"


@pytest.mark.parametrize("mode", ["geometric", "combination"])
def test_made_images_stay_as_they_were_answered(mode: Augmentation) -> None:
    """Where real images alone are turned, a made one is itself, or blended with what was turned before."""
    images, targets = batch(40)
    real_n = torch.arange(40) % 2 == 0
    bounds = AugmentationConfig(rotate_degrees=90, shift_fraction=0.2, blended_fraction=0.5, real_alone=True)
    varied, taught = augment(mode, bounds, images, Targets(targets), torch_generator(1, "x"), real_n)
    turned = transform_geometrically(images, bounds, torch_generator(1, "x"))
    whole = slice(20 if mode == "combination" else 0, None)
    assert torch.equal(varied[whole][~real_n[whole]], images[whole][~real_n[whole]])
    assert torch.allclose(varied[whole][real_n[whole]], turned[whole][real_n[whole]])
    assert torch.equal(taught.named_nk[whole], targets[whole])
    if mode == "combination":
        # Blended afterwards: where one real and one made image meet, what is blended was turned in the one alone.
        generator = torch_generator(1, "x")
        transform_geometrically(images, bounds, generator)
        sources = torch.where(real_n[:, None, None, None], turned, images)
        blends, answers = mix_within_batch(sources, Targets(targets), generator, 0.5)
        assert torch.allclose(varied, blends)
        assert torch.equal(taught.named_nk, answers.named_nk)


def test_all_images_are_turned_where_nobody_says_which_are_real() -> None:
    images, targets = batch()
    alone = AugmentationConfig(real_alone=True)
    varied, _ = augment("geometric", alone, images, Targets(targets), torch_generator(1, "x"))
    assert torch.equal(varied, transform_geometrically(images, alone, torch_generator(1, "x")))


def test_blends_are_added_to_or_taken_from_whatever_else_is_done() -> None:
    modes: list[Augmentation] = ["none", "geometric", "mixup", "combination"]
    assert [with_blends(mode) for mode in modes] == ["mixup", "combination", "mixup", "combination"]
    assert [without_blends(mode) for mode in modes] == ["none", "geometric", "none", "geometric"]


def test_without_bounds_nothing_moves() -> None:
    images, _ = batch(height=12, width=20)
    still = AugmentationConfig(rotate_degrees=0, shift_fraction=0)
    assert torch.allclose(transform_geometrically(images, still, torch_generator(1, "x")), images, atol=1e-5)


def test_flip_mirrors_about_half_of_the_images() -> None:
    images, _ = batch(200)
    bounds = AugmentationConfig(rotate_degrees=0, shift_fraction=0, flip=True)
    moved = transform_geometrically(images, bounds, torch_generator(1, "x"))
    mirrored = [torch.allclose(after, before.flip(2), atol=1e-5) for after, before in zip(moved, images, strict=True)]
    kept = [torch.allclose(after, before, atol=1e-5) for after, before in zip(moved, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 60 < sum(mirrored) < 140


def test_shift_stays_within_its_bound_and_lets_black_in() -> None:
    images = torch.ones(200, 1, 20, 20)
    bounds = AugmentationConfig(rotate_degrees=0, shift_fraction=0.1)
    lost = 400 - transform_geometrically(images, bounds, torch_generator(1, "x")).sum(dim=(1, 2, 3))
    assert float(lost.max()) <= 400 - 18 * 18 + 1e-3  # two of twenty pixels at most, either way
    assert float(lost.mean()) > 20


def test_rotation_turns_by_pixels_also_where_sides_differ() -> None:
    """A disc at the centre stays what it is under any rotation; a skewed grid would make an ellipse of it."""
    y, x = torch.meshgrid(torch.arange(30) - 14.5, torch.arange(50) - 24.5, indexing="ij")
    disc = torch.exp(-(x**2 + y**2) / 40)[None, None].expand(20, 1, 30, 50)
    turned = transform_geometrically(
        disc, AugmentationConfig(rotate_degrees=180, shift_fraction=0), torch_generator(1, "x")
    )
    assert torch.allclose(turned, disc, atol=0.02)  # bilinear blur of a bump this wide is 0.0125


def test_equal_generators_vary_equally() -> None:
    images, targets = batch()
    one, same = (
        augment("combination", AugmentationConfig(), images, Targets(targets), torch_generator(4, "x")) for _ in "ab"
    )
    assert torch.equal(one[0], same[0])
    assert torch.equal(one[1].named_nk, same[1].named_nk)
