"""A new experiment's file, drafted from a teacher's card and the images at hand; whoever runs it edits the rest."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from distill_client.config import RunConfig, faults_of
from distill_client.errors import ConfigError
from distill_client.material import Material, check_card, load_test
from distill_client.recipe import Recipe, augmentation_for, recipe_for
from distill_client.teachers.protocol import Capabilities
from shared.datasets import DATASET_NAMES, FOLDER_PREFIX
from shared.wire.contracts import Resize

# Of a published data set, as in the papers that this is compared with; of one's own pictures all are used.
_PUBLISHED_POOL_IMAGES = 2_000
_HELD_OUT_FRACTION = 0.02
_CLASSES_SHOWN = 12
_STUDENTS = {(28, 28): "lenet5", (32, 32): "alexnet-half"}
_ANY_SIZE_STUDENT = "torchvision:mobilenet_v3_small"


@dataclass(frozen=True)
class Wishes:
    """What was asked for; None where the data decide.

    ``pool``: a data set, a labelled tree as folder:PATH, a folder of pictures, or an .npz. ``out``: the file to be.
    """

    pool: str
    answers: int
    out: Path
    student: str | None = None
    test: str | None = None
    pool_images: int | None = None
    seed: int = 1


def draft(wishes: Wishes, card: Capabilities, target: str) -> str:
    """The text of an experiment's file, such that it can be planned as it stands.

    Raises ConfigError where pool, test set, student or answers do not fit the teacher.
    """
    name = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in wishes.out.stem)[:80]
    student = wishes.student or _STUDENTS.get((card.input.height, card.input.width), _ANY_SIZE_STUDENT)
    least = {
        "name": name,
        "seed": wishes.seed,
        "budget_images": wishes.answers,
        "teacher": {"name": card.name},
        "synthesis": {"images": 0, "method": "mixed-views"},
        "student": {"network": student},
        "training": {"steps": 1},
        "baselines": {"student_alone": False},
    }
    pool, evaluation, usable = _look_at_data(least, wishes, card)
    pool["images"] = _pool_images(wishes, usable, is_published=pool.get("dataset") in DATASET_NAMES)
    if pool.get("dataset") in DATASET_NAMES and pool.get("labels") != "ignore":
        # Every published set has about as many images of one class as of another.
        pool["balanced"] = usable >= 2 * pool["images"]
    experiment = _validated(least | {"pool": pool, "evaluation": evaluation})
    return _render(experiment, wishes, card, target, usable)


def _look_at_data(
    least: dict[str, Any], wishes: Wishes, card: Capabilities
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """The sections on pool and evaluation, and how many usable images the pool may be drawn from.

    A data set whose classes are not the teacher's is used without its labels.
    """
    key, source = _source(wishes.pool)
    pool: dict[str, Any] = {key: source, "images": 1, "balanced": False, **_input_of(card)}
    if key == "dataset":
        try:
            return _look(least, pool, wishes, card)
        except ConfigError:
            pool["labels"] = "ignore"
    return _look(least, pool, wishes, card)


def _look(
    least: dict[str, Any], pool: dict[str, Any], wishes: Wishes, card: Capabilities
) -> tuple[dict[str, Any], dict[str, Any], int]:
    evaluation = _evaluation(least | {"pool": pool}, wishes, card)
    config = _validated(least | {"pool": pool, "evaluation": evaluation})
    material = Material(config, card)
    check_card(config, card, material.pool)
    return pool, evaluation, material.pool.usable


def _source(text: str) -> tuple[str, str]:
    """The key of the pool's section, and its value with an absolute path."""
    if text in DATASET_NAMES:
        return "dataset", text
    if text.startswith(FOLDER_PREFIX):
        return "dataset", FOLDER_PREFIX + _absolute(text.removeprefix(FOLDER_PREFIX))
    return "file" if text.endswith(".npz") else "folder", _absolute(text)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _input_of(card: Capabilities) -> dict[str, str]:
    """The teacher's input, so that a plan need not ask for it; a rule of ours where it resizes nothing itself."""
    spec = card.input
    rule: Resize = "crop" if spec.resize == "exact" else spec.resize
    return {"size": f"{spec.height}x{spec.width}x{spec.channels}", "resize": rule}


def _evaluation(content: dict[str, Any], wishes: Wishes, card: Capabilities) -> dict[str, Any]:
    """The test set that was asked for; else the pool's own, or the teacher's, where it is to be had."""
    held_out = {"held_out_fraction": _HELD_OUT_FRACTION}
    if wishes.test is not None:
        test = _source(wishes.test)[1] if wishes.test.startswith(FOLDER_PREFIX) else wishes.test
        load_test(_validated(content | {"evaluation": {"dataset": test, **held_out}}), card)
        return {"dataset": test, **held_out}
    pool = content["pool"]
    offered: list[str | None] = [None if "labels" in pool else pool.get("dataset"), card.test_dataset]
    for own in offered:
        if own is None or not (own in DATASET_NAMES or Path(own.removeprefix(FOLDER_PREFIX)).is_absolute()):
            continue  # a tree of the teacher's owner, of which its card tells no path
        try:
            load_test(_validated(content | {"evaluation": {"dataset": own, **held_out}}), card)
        except ConfigError:
            continue
        return {"dataset": own, **held_out}
    return held_out


def _pool_images(wishes: Wishes, usable: int, *, is_published: bool) -> int:
    most = min(usable, wishes.answers)
    if most < 2:
        raise ConfigError(
            f"--answers is {wishes.answers} and {usable} images of --pool can be used; a pool needs 2 of both"
        )
    if wishes.pool_images is None:
        return min(most, _PUBLISHED_POOL_IMAGES) if is_published else most
    if not 2 <= wishes.pool_images <= most:
        raise ConfigError(f"--pool-images is {wishes.pool_images}; allowed are 2 to {most}")
    return wishes.pool_images


def _validated(content: dict[str, Any]) -> RunConfig:
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError("; ".join(faults_of(error))) from error


def _render(experiment: RunConfig, wishes: Wishes, card: Capabilities, target: str, usable: int) -> str:
    """The file's text; numbers that were tuned come from ``recipe``."""
    file, answers, network = _flat(wishes.out.name), wishes.answers, experiment.student.network
    colour = card.input.channels == 3
    recipe = recipe_for(answers, experiment.pool.images, card.classes, colour=colour)
    lines = [
        f"# {experiment.pool.images:,} real images, {answers:,} answers in all; the student is {network}.",
        "# Written by `distill init`; docs/client.md explains every key.",
        "#",
        f"#   distill plan {file} --teacher {_flat(target)}",
        f"#   distill run {file} --teacher {_flat(target)} --out runs/{experiment.name}",
        f"name = {_value(experiment.name)}",
        f"seed = {experiment.seed}",
        f"budget_images = {answers:_}  # no more is ever bought",
        "",
        f"# It answers with {card.disclosure}, in {len(card.classes)} classes: {_shown(card.classes)}.",
        "[teacher]",
        f"name = {_value(card.name)}",
        "",
        "[pool]",
        *_pool_lines(experiment, wishes.out, usable),
        "",
        *_method_lines(experiment, recipe, colour=colour),
        "",
        "[evaluation]",
        *_evaluation_lines(experiment, wishes.out),
    ]
    return "\n".join(lines) + "\n"


def _method_lines(experiment: RunConfig, recipe: Recipe, *, colour: bool) -> list[str]:
    """What is bought beside the pool, and how the student learns."""
    training, views = recipe.training, recipe.views
    answers, pool_images = experiment.budget_images, experiment.pool.images
    seen = training.batch_size * (training.steps or 0)
    made_of = "real images," if views.least_share == 1 else "MixUp of two real images, each"
    learnt = answers + (recipe.pool_repeats - 1) * pool_images
    return [
        f"# Beside the pool: {made_of} turned, shifted, scaled and sheared at random.",
        "[synthesis]",
        'method = "mixed-views"',
        f"images = {answers - pool_images:_}",
        "",
        "[synthesis.views]",
        f"least_share = {views.least_share}  # of the first of two images that are mixed; 1.0 mixes none",
        f"rotate_degrees = {views.rotate_degrees}",
        f"shift_fraction = {views.shift_fraction}",
        f"scale_fraction = {views.scale_fraction}",
        f"shear = {views.shear}",
        f"flip = {_value(views.flip)}  # true where things may face either way; false for digits, letters, signs",
        "",
        "[student]",
        f"network = {_value(experiment.student.network)}",
        f"augmentation = {_value(recipe.augmentation)}  # unqueried",
        f"pool_repeats = {recipe.pool_repeats}  # times a real image is learnt for each of a made one",
        "",
        *_amplification_lines(recipe),
        *_variation_lines(recipe),
        f"# {seen:,} images in all, so each that is made about {round(seen / learnt):,} times.",
        "[training]",
        f"batch_size = {training.batch_size}",
        f"steps = {training.steps:_}",
        f"learning_rate = {training.learning_rate}",
        f"warmup_steps = {training.warmup_steps}",
        f"decay = {_value(training.decay)}",
        f"averaging_decay = {training.averaging_decay}",
        "",
        "[baselines]",
        "student_alone = false",
        "standard_kd = true  # the same network, taught by the answers to the pool alone; false saves its time",
        f"standard_kd_augmentation = {_value(augmentation_for(pool_images, pool_images, colour=colour))}",
    ]


def _amplification_lines(recipe: Recipe) -> list[str]:
    """The ensemble, where the recipe has one."""
    if not recipe.amplification.ensemble:
        return []
    return [
        "# So many students learn the answers first, and label blends for the last one. It costs no query, but as",
        "# many trainings more; 0 saves their time.",
        "[amplification]",
        f"ensemble = {recipe.amplification.ensemble}",
        f"blended_fraction = {recipe.amplification.blended_fraction}  # of each batch",
        "",
    ]


def _variation_lines(recipe: Recipe) -> list[str]:
    """How bought images are varied, at no query."""
    bounds = recipe.variations
    lines = ["[augmentation]"]
    if recipe.augmentation == "combination":
        lines += [
            f"rotate_degrees = {bounds.rotate_degrees}  # what is bought, at no query",
            f"shift_fraction = {bounds.shift_fraction}",
            f"flip = {_value(bounds.flip)}",
        ]
    return [*lines, f"blended_fraction = {bounds.blended_fraction}  # of each batch, with interpolated answers", ""]


def _pool_lines(experiment: RunConfig, out: Path, usable: int) -> list[str]:
    pool = experiment.pool
    key = next(key for key in ("dataset", "folder", "file") if getattr(pool, key) is not None)
    lines = [f"{key} = {_value(_from(out, str(getattr(pool, key))))}"]
    if pool.labels == "ignore":
        lines.append('labels = "ignore"  # its classes are not the teacher\'s')
    lines += [f"images = {pool.images:_}  # of {usable:,} that can be used", f"size = {_value(pool.size)}"]
    if pool.is_brought_to_input:
        lines.append(f"resize = {_value(pool.resize)}  # how pictures come to the teacher's input")
    return [*lines, f"balanced = {_value(pool.balanced)}"]


def _evaluation_lines(experiment: RunConfig, out: Path) -> list[str]:
    test = experiment.evaluation.dataset
    lines = (
        ["# No labelled test set: agreement with the teacher is measured on bought answers that nobody trains on."]
        if test is None
        else [f"dataset = {_value(_from(out, test))}  # its test split; never sent to the teacher"]
    )
    return [*lines, f"held_out_fraction = {experiment.evaluation.held_out_fraction}"]


def _from(out: Path, source: str) -> str:
    """A path below the file's own folder as it is read from there; any other as it is."""
    prefix = FOLDER_PREFIX if source.startswith(FOLDER_PREFIX) else ""
    path = source.removeprefix(prefix)
    folder = str(out.absolute().parent)
    if not os.path.isabs(path) or os.path.commonpath([folder, path]) != folder:
        return source
    return prefix + os.path.relpath(path, folder)


def _value(value: str | bool | None) -> str:
    return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")


def _shown(classes: list[str]) -> str:
    shown = ", ".join(_flat(name) for name in classes[:_CLASSES_SHOWN])
    return shown if len(classes) <= _CLASSES_SHOWN else f"{shown} and {len(classes) - _CLASSES_SHOWN} more"


def _flat(text: str) -> str:
    """Names come from others: in a comment they stay on its line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
