"""A case is a method's file with exactly what the options name changed; what cannot be is refused by name."""

from pathlib import Path

import pytest

from benchmarks.reproduction.cases import CONFIGS, Case, CaseError, methods_of, require_teacher, resolve
from benchmarks.reproduction.planned import read_plan
from distill_client.config import load_config
from distill_client.student.training import total_steps
from tests.benchmarks.made_up import folders, found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folders(tmp_path)
    return tmp_path


def test_without_options_it_is_the_file_itself(root: Path) -> None:
    assert found(root).config == load_config(root / "configs" / "fashion-mnist" / "ours.toml")


def test_fewer_answers_take_the_file_that_is_for_so_many(root: Path) -> None:
    few = found(root, answers=2_500).config
    assert (few.budget_images, few.synthesis.images, few.student.augmentation) == (2_500, 500, "mixup")
    many = found(root, answers=5_001).config
    assert (many.budget_images, many.synthesis.images, many.student.augmentation) == (5_001, 3_001, "none")


def test_a_smaller_pool_leaves_the_budget(root: Path) -> None:
    config = found(root, pool_images=250).config
    assert (config.pool.images, config.synthesis.images, config.budget_images) == (250, 49_750, 50_000)


def test_a_method_that_buys_only_the_pool_buys_the_smaller_pool(root: Path) -> None:
    config = found(root, method="standard-kd", pool_images=250).config
    assert (config.pool.images, config.synthesis.images, config.budget_images) == (250, 0, 250)


def test_a_file_for_so_many_answers_per_real_image_goes_by_the_pool_up_to_its_budget(root: Path) -> None:
    folder = root / "configs" / "fashion-mnist"
    few = (folder / "ours-up-to-5000.toml").rename(folder / "ours-up-to-5-per-image.toml")
    for pool_images, most in ((2_000, 5_000), (1_000, 5_000), (500, 2_500)):
        augmentations = [
            found(root, answers=answers, pool_images=pool_images).config.student.augmentation
            for answers in (most, most + 1)
        ]
        assert augmentations == ["mixup", "none"], "the file's for few answers, and the whole one's"
    assert found(root, answers=5_000).config.student.augmentation == "mixup", "the pool is the whole file's"
    assert found(root).config.student.augmentation == "none", "the whole budget"

    few.rename(folder / "ours_few.toml")
    with pytest.raises(
        CaseError, match=r"its name is not METHOD\.toml, METHOD-up-to-N\.toml or METHOD-up-to-N-per-image"
    ):
        found(root)


def test_a_second_pool_counts(root: Path) -> None:
    config = found(root, method="two-pools", answers=10_000).config
    assert (config.synthesis.images, config.budget_images) == (6_000, 10_000)
    assert found(root, method="two-pools", pool_images=500).config.synthesis.images == 51_000


def test_every_option_changes_what_it_names(root: Path) -> None:
    config = found(root, seed=7, student="lenet5", pool="random", teacher="fashion-mnist-other").config
    assert (config.seed, config.student.network, config.pool.balanced) == (7, "lenet5", False)
    assert config.teacher.name == "fashion-mnist-other"
    other = found(root, pool_dataset="mnist").config
    assert (other.pool.dataset, other.pool.labels, other.evaluation.dataset) == ("mnist", "ignore", "fashion-mnist")
    assert (other.pool.size, other.pool.resize) == ("28x28x1", None)
    larger = found(root, pool_dataset="tinyimagenet10").config.pool
    assert (larger.size, larger.resize) == ("28x28x1", "crop"), "the teacher itself resizes nothing"
    assert not other.baselines.student_alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "imagenet"}, "--dataset is 'imagenet'; allowed are fashion-mnist"),
        ({"dataset": "../fashion-mnist"}, "--dataset is"),
        (
            {"method": "magic"},
            "--method is 'magic'; allowed for fashion-mnist are fs-bbt, ours, standard-kd,",
        ),
        ({"answers": 1_999}, "--answers is 1,999; what ours buys begins at 2,000"),
        ({"method": "standard-kd", "answers": 5_000}, "--answers is 5,000; what standard-kd buys is 2,000, its pool"),
        ({"pool_images": -1}, "pool.images"),
        ({"teacher": "mnist-lenet5"}, "--teacher is 'mnist-lenet5'; allowed for fashion-mnist"),
        ({"teacher": "../x"}, "are fashion-mnist-lenet5, fashion-mnist-other"),
    ],
)
def test_what_cannot_be_is_refused(root: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(CaseError) as error:
        found(root, **options)
    assert message in str(error.value)


def test_a_teacher_that_is_not_there_is_named_with_what_makes_it(root: Path) -> None:
    (root / "bundles" / "fashion-mnist-lenet5" / "teacher.toml").unlink()
    with pytest.raises(CaseError, match="teacher train --dataset fashion-mnist --network lenet5 --out"):
        require_teacher(found(root))


def test_a_folder_is_of_one_experiment(root: Path) -> None:
    options: list[dict[str, object]] = [
        {},
        {"seed": 2},
        {"answers": 2_500},
        {"student": "lenet5"},
        {"pool": "random"},
        {"pool_images": 250},
        {"disclosure": "label"},
        {"method": "fs-bbt"},
        {"teacher": "fashion-mnist-other"},
    ]
    assert len({found(root, **each).folder_name for each in options}) == len(options)


def test_the_command_names_what_differs() -> None:
    case = Case(
        "mnist", "ours", 2, student="lenet5", answers=2_600, disclosure="probabilities;decimals=2", teacher="other"
    )
    assert case.command() == (
        ".venv/bin/python benchmarks/paper.py --dataset mnist --method ours --seeds 2 --student lenet5 "
        "--answers 2600 --disclosure 'probabilities;decimals=2' --teacher other"
    )
    assert "--seeds" not in case.command("1,2,3")


def test_the_projects_plan_can_be_resolved_and_compares_like_with_like() -> None:
    cases = read_plan()
    experiments = [resolve(case) for case in cases]
    assert len({experiment.folder_name for experiment in experiments}) == len(cases)
    for experiment in experiments:
        config = experiment.config
        assert config.evaluation.dataset == experiment.case.dataset
        assert config.evaluation.held_out_fraction == 0, "every bought answer is learnt from"
        assert config.teacher.name.startswith(experiment.case.dataset)


def test_what_ours_is_compared_with_trains_as_long_on_few_answers_as_on_many() -> None:
    """By epochs a student of a twentieth of the answers would train for a twentieth of the time."""
    lengths: dict[tuple[str, str], set[int]] = {}
    for case in read_plan():
        config = resolve(case).config
        if case.method in {"fs-bbt", "bbkd"}:
            taken = total_steps(config.training, config.budget_images) * config.training.batch_size
            lengths.setdefault((case.dataset, case.method), set()).add(taken)
    assert lengths
    assert all(len(taken) == 1 for taken in lengths.values()), lengths


@pytest.mark.parametrize("dataset", ["fashion-mnist", "mnist", "cifar10", "cifar100"])
def test_all_methods_of_a_data_set_have_the_same_pool_teacher_and_student(dataset: str) -> None:
    methods = methods_of(dataset)
    assert {"ours", "fs-bbt", "standard-kd", "standard-kd-tuned", "bbkd"} <= set(methods)
    wholes = [load_config(CONFIGS / dataset / f"{method}.toml") for method in methods]
    assert len({(each.pool, each.teacher.name, each.student.network, each.evaluation) for each in wholes}) == 1
