"""`distill init`: what it writes can be planned as it stands, and says why."""

import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill_client.config import RunConfig, load_config
from distill_client.errors import ConfigError
from distill_client.recipe import Recipe, are_characters, are_few, may_face_either_way, recipe_for
from tests.distill_client.cli.support import Served, distill, kinds_of_events, one_object
from tests.shared.odd_pictures import write_good_pictures

CONFIGS = Path(__file__).parents[3] / "configs" / "paper"
CLOTHES = ["T-shirt/top", "Ankle boot"]
DIGITS = "0123456789"

TEACHER_FILE = """
kind = "huggingface"
name = "theirs"
url = "http://127.0.0.1:9/nobody"
classes = ["left shoe", "right shoe", "hat"]
image_size = "32x32x3"
max_queries = 100
"""


def init(out: Path, *words: object, key: str = "") -> str:
    """What is written, once it went well."""
    result = distill("init", "--out", out, *words, key=key)
    assert result.exit_code == 0, (result.output, result.exception)
    assert f"{out} is written; next: distill plan {out} --teacher" in result.stdout
    return out.read_text()


def test_a_data_set_of_the_teachers_classes(served: Served, tmp_path: Path) -> None:
    secret, out = served.key("init", budget=500), tmp_path / "new" / "my first.toml"
    words = ("--pool", "digits", "--teacher", served.url, "--name", "fake")
    text = init(out, *words, "--answers", 500, "--pool-images", 200, key=secret)
    config = load_config(out)
    assert (config.name, config.seed, config.budget_images) == ("my-first", 1, 500)
    assert (config.pool.dataset, config.pool.images, config.pool.balanced) == ("digits", 200, True)
    assert (config.synthesis.method, config.synthesis.images) == ("mixed-views", 300)
    assert not config.synthesis.views.flip, "digits are not to be mirrored"
    assert settings_of(config) == recipe_for(500, 200, DIGITS, colour=False)
    assert config.student.network == "lenet5"
    assert config.student.augmentation == config.baselines.standard_kd_augmentation == "combination"
    assert (config.evaluation.dataset, config.baselines.student_alone) == ("digits", False)
    assert "# It answers with probabilities, in 10 classes: 0, 1, 2" in text
    assert "# Classes of one character are taken for digits and letters: never mirrored" in text
    assert kinds_of_events(served, secret) == ["create"], "nothing was bought"
    for teacher in ((), ("--teacher", served.url)):
        plan = one_object(distill("plan", out, "--json", *teacher, key=secret))
        assert (plan["phases"], plan["budget_images"]) == ({"pool": 200, "views": 300}, 500)


def test_pictures_of_ones_own_all_of_them_by_a_path_below_the_file(served: Served, tmp_path: Path) -> None:
    write_good_pictures(tmp_path / "mine" / "holiday", 12)
    secret = served.key("init-own", budget=5)
    words = ("--pool", tmp_path / "mine", "--teacher", served.url, "--name", "other-classes", "--answers", 30)
    result = distill("init", *words, "--out", tmp_path / "own.toml", "--student", "lenet5-half", key=secret)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "5 of 5 images are left; ask the owner for a grant of 25" in result.stderr
    written = tomllib.loads((tmp_path / "own.toml").read_text())
    assert written["pool"]["folder"] == "mine"
    assert (written["pool"]["images"], written["synthesis"]["images"]) == (12, 18)
    assert (written["pool"]["size"], written["pool"]["resize"]) == ("28x28x1", "stretch")
    assert written["evaluation"] == {"held_out_fraction": 0.02}
    assert one_object(distill("plan", tmp_path / "own.toml", "--json"))["total"] == 30


def test_a_data_set_of_other_classes_is_used_without_its_labels(served: Served, tmp_path: Path) -> None:
    words = ("--pool", "digits", "--teacher", served.url, "--name", "other-classes", "--answers", 3_000)
    init(tmp_path / "other.toml", *words, key=served.key("init-other"))
    config = load_config(tmp_path / "other.toml")
    assert (config.pool.labels, config.pool.images, config.evaluation.dataset) == ("ignore", 1_347, None)
    assert one_object(distill("plan", tmp_path / "other.toml", "--json"))["total"] == 3_000


def test_the_baseline_is_turned_as_measured_where_the_student_turns_nothing(tmp_path: Path) -> None:
    (tmp_path / "grey.toml").write_text(TEACHER_FILE.replace("32x32x3", "28x28x1"))
    words = ("--pool", "digits", "--teacher", tmp_path / "grey.toml", "--pool-images", 200)
    init(tmp_path / "many.toml", *words, "--answers", 4_001)
    config = load_config(tmp_path / "many.toml")
    assert (config.student.augmentation, config.baselines.standard_kd_augmentation) == ("mixup", "combination")
    few = recipe_for(200, 200, ["left shoe", "right shoe", "hat"], colour=False).variations
    assert config.augmentation == few.model_copy(update={"real_alone": False})


def test_a_teacher_that_a_file_describes_and_a_test_set(tmp_path: Path) -> None:
    (tmp_path / "theirs.toml").write_text(TEACHER_FILE)
    for split in ("train", "test"):
        for name in ("left shoe", "right shoe", "hat"):
            write_good_pictures(tmp_path / "tree" / split / name, 4, seed=len(split) * 100 + len(name) * 10)
    words = ("--teacher", tmp_path / "theirs.toml", "--answers", 20)
    out = tmp_path / "shoes.toml"
    init(out, "--pool", f"folder:{tmp_path / 'tree'}", *words)
    config = load_config(out)
    assert config.teacher.name == "theirs"
    assert config.pool.dataset == config.evaluation.dataset == f"folder:{tmp_path / 'tree'}"
    assert 'dataset = "folder:tree"' in out.read_text()
    assert "of one character" not in out.read_text()
    assert (config.pool.images, config.pool.size, config.synthesis.views.flip) == (12, "32x32x3", False)
    assert config.student.network == "alexnet-half"
    assert one_object(distill("plan", out, "--json"))["total"] == 20

    before = out.read_text()
    again = distill("init", "--pool", tmp_path / "tree" / "train", *words, "--out", out)
    assert isinstance(again.exception, ConfigError)
    assert str(again.exception) == f"{out} is there already; --force replaces it, or give another --out"
    assert out.read_text() == before
    init(out, "--pool", tmp_path / "tree" / "train", *words, "--force", "--test", f"folder:{tmp_path / 'tree'}")
    assert load_config(out).pool.folder == tmp_path / "tree" / "train"
    assert load_config(out).evaluation.dataset == f"folder:{tmp_path / 'tree'}"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"--name": None}, "--name is missing"),
        ({"--out": "x.txt"}, "allowed is a file that ends in .toml"),
        ({"--pool": "nowhere"}, "there is no such folder"),
        ({"--pool": "folder:nowhere"}, "is not a folder"),
        ({"--student": "alexnet"}, "student.network: network alexnet is defined for 32x32 images"),
        ({"--pool-images": 501}, "--pool-images is 501; allowed are 2 to 500"),
        ({"--test": "mnistt"}, "evaluation.dataset: data set is 'mnistt'"),
    ],
)
def test_what_does_not_fit_is_told_and_nothing_is_written(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = {"--pool": "digits", "--teacher": served.url, "--name": "fake", "--answers": 500, "--out": "x.toml"}
    words = [word for flag, value in (flags | changes).items() if value is not None for word in (flag, value)]
    secret = served.key(f"init-{len(told)}-{'-'.join(changes)}".replace("--", ""))
    result = distill("init", *words, key=secret)
    assert isinstance(result.exception, ConfigError)
    assert told in str(result.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ours-up-to-20-per-image", "ours"])
def test_grey_pictures_are_learnt_as_was_measured_on_fashion_mnist(name: str) -> None:
    config = load_config(CONFIGS / "fashion-mnist" / f"{name}.toml")
    assert settings_of(config) == recipe_for(config.budget_images, config.pool.images, CLOTHES, colour=False)


@pytest.mark.parametrize("name", ["ours-up-to-20-per-image", "ours"])
def test_written_characters_are_learnt_as_was_measured_on_mnist(name: str) -> None:
    config = load_config(CONFIGS / "mnist" / f"{name}.toml")
    recipe = recipe_for(config.budget_images, config.pool.images, DIGITS, colour=False)
    assert settings_of(config, DIGITS) == recipe


def test_colour_pictures_are_learnt_as_was_measured_on_cifar_10() -> None:
    """But for steps that were rounded by hand, and are as many for every budget there."""
    config = load_config(CONFIGS / "cifar10" / "ours.toml")
    recipe = recipe_for(config.budget_images, config.pool.images, ["airplane", "ship"], colour=True)
    assert recipe.training.steps == pytest.approx(config.training.steps, rel=1e-3)
    same_steps = recipe.training.model_copy(update={"steps": config.training.steps})
    assert settings_of(config) == replace(recipe, training=same_steps)
    more_than_few = recipe_for(6_001, 2_000, ["airplane", "ship"], colour=True)
    assert more_than_few.training.steps == pytest.approx(config.training.steps, rel=0.05)
    assert replace(more_than_few, training=recipe.training) == recipe


def test_few_colour_pictures_are_learnt_as_was_measured_on_cifar_10() -> None:
    config = load_config(CONFIGS / "cifar10" / "ours-up-to-3-per-image.toml")
    assert settings_of(config) == recipe_for(6_000, 2_000, ["airplane", "ship"], colour=True)


def settings_of(config: RunConfig, classes: Sequence[str] = CLOTHES) -> Recipe:
    """What of a configuration a recipe has; bounds that its augmentation does not use are the recipe's too."""
    assert config.amplification.ensemble == 0
    variations = config.augmentation
    if config.student.augmentation == "mixup":
        unused = recipe_for(config.budget_images, config.pool.images, classes, colour=False).variations
        variations = unused.model_copy(update={"blended_fraction": variations.blended_fraction})
    return Recipe(
        views=config.synthesis.views,
        augmentation=config.student.augmentation,
        pool_repeats=config.student.pool_repeats,
        variations=variations,
        training=config.training,
    )


@pytest.mark.parametrize(
    ("answers", "pool_images", "few"),
    [(20_000, 2_000, True), (20_001, 2_000, False), (20_001, 10_000, False), (5_000, 250, True), (5_001, 250, False)],
)
def test_few_answers_are_not_mixed_and_are_turned_and_shifted_too(answers: int, pool_images: int, few: bool) -> None:
    assert are_few(answers, pool_images) == few
    recipe = recipe_for(answers, pool_images, CLOTHES, colour=False)
    learnt = recipe.views.least_share, recipe.augmentation, recipe.pool_repeats, recipe.variations.real_alone
    assert learnt == ((1.0, "combination", 8, True) if few else (0.5, "mixup", 1, False))


def test_what_is_written() -> None:
    assert are_characters(DIGITS)
    assert are_characters(["A", "b "])
    assert not are_characters(CLOTHES)
    assert not are_characters(["0", "10"])


def test_what_may_be_mirrored() -> None:
    assert may_face_either_way(["T-shirt/top", "Ankle boot"])
    assert not may_face_either_way(DIGITS)
    assert not may_face_either_way(["left-hand", "right-hand"])
    assert may_face_either_way(["bright", "leftover"])
