"""An experiment's file as text: every key with what it is for, and the settings that ``recipe`` has for it."""

import os
from collections.abc import Sequence
from pathlib import Path

import tomli_w

from distill_client.config import RunConfig, TrainingConfig
from distill_client.recipe import Recipe, are_characters, recipe_for
from distill_client.teachers.protocol import Capabilities
from shared.datasets import FOLDER_PREFIX

_CLASSES_SHOWN = 12


def render(experiment: RunConfig, out: Path, card: Capabilities, target: str, usable: int) -> str:
    """The text of the file ``out``, for the teacher that is had at ``target``; ``usable`` images may be drawn from.

    Of ``experiment`` the name, the budget, the pool, the student's network and the evaluation are taken.
    """
    file, answers, network = _flat(out.name), experiment.budget_images, experiment.student.network
    recipe = recipe_for(answers, experiment.pool.images, card.classes, colour=card.input.channels == 3)
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
        *_pool_lines(experiment, out, usable),
        "",
        *_character_lines(card.classes),
        *_method_lines(experiment, recipe),
        "",
        "[evaluation]",
        *_evaluation_lines(experiment, out),
    ]
    return "\n".join(lines) + "\n"


def _character_lines(classes: Sequence[str]) -> list[str]:
    """What is taken for granted where names may be nothing but numbers."""
    if not are_characters(classes):
        return []
    return [
        "# Classes of one character are taken for digits and letters: never mirrored, and bent if grey. If they are",
        "# mere numbers of things, set flip as these allow it, and elastic_fraction to 0.",
    ]


def _method_lines(experiment: RunConfig, recipe: Recipe) -> list[str]:
    """What is bought beside the pool, and how the student learns."""
    training, views = recipe.training, recipe.views
    answers, pool_images = experiment.budget_images, experiment.pool.images
    seen = training.batch_size * (training.steps or 0)
    made_of = "real images," if views.least_share == 1 else "MixUp of two real images, each"
    ways = (
        "turned, shifted, scaled, sheared and bent"
        if views.elastic_fraction
        else "turned, shifted, scaled and sheared"
    )
    learnt = answers + (recipe.pool_repeats - 1) * pool_images
    return [
        f"# Beside the pool: {made_of} {ways} at random.",
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
        f"elastic_fraction = {views.elastic_fraction}  # bent as another hand would write; 0 for what is not written",
        f"flip = {_value(views.flip)}  # true where things may face either way; false for digits, letters, signs",
        "",
        "[student]",
        f"network = {_value(experiment.student.network)}",
        f"augmentation = {_value(recipe.augmentation)}  # unqueried",
        f"pool_repeats = {recipe.pool_repeats}  # times a real image is learnt for each of a made one",
        "",
        *_variation_lines(recipe),
        f"# {seen:,} images in all, so each that is made about {round(seen / learnt):,} times.",
        "[training]",
        f"batch_size = {training.batch_size}",
        f"steps = {training.steps:_}",
        f"optimiser = {_value(training.optimiser)}",
        f"learning_rate = {training.learning_rate}",
        f"weight_decay = {training.weight_decay}",
        f"warmup_steps = {training.warmup_steps}",
        f"decay = {_value(training.decay)}",
        f"averaging_decay = {training.averaging_decay}",
        *_precision_lines(training),
        "",
        "[baselines]",
        "student_alone = false",
        "standard_kd = true  # the same network, taught by the answers to the pool alone; false saves its time",
        'standard_kd_augmentation = "combination"  # blended, turned, shifted and perhaps mirrored',
    ]


def _precision_lines(training: TrainingConfig) -> list[str]:
    """How the network is computed, where that is not as exactly as can be."""
    if training.precision == "float32":
        return []
    return [f"precision = {_value(training.precision)}  # float32 where the processor has no AMX, and no GPU is used"]


def _variation_lines(recipe: Recipe) -> list[str]:
    """How images are varied in training, at no query: the baseline turns its own where the student turns none."""
    bounds = recipe.variations
    lines = [
        "[augmentation]",
        f"rotate_degrees = {bounds.rotate_degrees}  # in training, at no query",
        f"shift_fraction = {bounds.shift_fraction}",
        f"flip = {_value(bounds.flip)}",
    ]
    if bounds.real_alone:
        lines.append("real_alone = true  # the real images alone; made ones stay as the teacher saw them")
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
