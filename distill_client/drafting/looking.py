"""What a new experiment can know beforehand: the teacher's card and the images at hand are looked at."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distill_client.config import RunConfig, faults_of
from distill_client.drafting.rendering import render
from distill_client.errors import ConfigError
from distill_client.material import Material, check_card, load_test
from distill_client.teachers.protocol import Capabilities
from shared.datasets import DATASET_NAMES, FOLDER_PREFIX
from shared.wire.contracts import Resize

# Of a published data set, as in the papers that this is compared with; of one's own pictures all are used.
_PUBLISHED_POOL_IMAGES = 2_000
_HELD_OUT_FRACTION = 0.02
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
    return render(experiment, wishes.out, card, target, usable)


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
