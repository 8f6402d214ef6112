"""The published teachers' settings, as FS-BBT's released commands have them."""

import pytest

from teacher_server.training.recipes import RECIPES, Recipe, recipe_for


def test_the_papers_teachers() -> None:
    assert RECIPES["fashion-mnist"] == RECIPES["mnist"] == Recipe(epochs=20, batch_size=64, learning_rate=1e-3)
    cifar10, cifar100 = RECIPES["cifar10"], RECIPES["cifar100"]
    assert (cifar10.epochs, cifar10.batch_size, cifar10.schedule, cifar10.l2) == (50, 512, "constant", 0)
    assert (cifar100.epochs, cifar100.batch_size, cifar100.schedule, cifar100.l2) == (200, 32, "steps", 1e-4)
    for recipe in (cifar10, cifar100):
        assert (recipe.shift_fraction, recipe.fill, recipe.flip) == (0.1, "edge", True)


def test_kerass_steps() -> None:
    recipe, steps = RECIPES["cifar100"], 200 * 10
    rates = [
        recipe.learning_rate_at(epoch * 10 + 9, steps) for epoch in (0, 80, 81, 120, 121, 160, 161, 180, 181, 199)
    ]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6, 5e-7, 5e-7])


def test_a_cosine_falls_to_zero_and_a_constant_stays() -> None:
    cosine, constant = Recipe(epochs=1, schedule="cosine"), Recipe(epochs=1)
    assert [cosine.learning_rate_at(step, 100) for step in (0, 50, 100)] == pytest.approx([1e-3, 5e-4, 0])
    assert constant.learning_rate_at(99, 100) == 1e-3


def test_a_folder_of_pictures_has_a_recipe_and_an_unknown_name_has_none() -> None:
    assert recipe_for("folder:/somewhere").flip
    with pytest.raises(ValueError, match=r"'imagenet'; teachers can be trained on fashion-mnist.* and folder:PATH"):
        recipe_for("imagenet")
