"""What came out of a run: accuracies, agreement, counts; the summary, the student to hand on, the picture's data."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distill_client.audit import Books
from distill_client.commands import resume_command
from distill_client.contenders import (
    STANDARD_KD,
    STUDENT,
    STUDENT_ALONE,
    describe_learning,
    fresh_network,
    restore_network,
    save_network,
)
from distill_client.errors import ConfigError, RunStoreError
from distill_client.flatness import describe_rounds, read_measurements
from distill_client.plan import draw_held_out
from distill_client.pool import PoolFit, measure_fit
from distill_client.run_folder import RunFolder
from distill_client.student.card import write_card
from distill_client.student.evaluation import accuracy, agreement, predict_probabilities
from distill_client.student.losses import Loss
from distill_client.student.targets import answered_rows, top_classes
from distill_client.summary import card_content
from distill_client.teachers.paid.labelled import LabelledImages
from shared.datasets import Dataset
from shared.wire.images import batch_digest, image_digests
from shared.wire.teacher_answers import read_teacher_answers

OWNER_FILE = "the owner's answers on the test set"
HELD_OUT = "bought answers held out of training"
_SAMPLED_STAGES_MAX = 4


def load_contender(folder: RunFolder, contender: str, device: torch.device) -> nn.Module:
    """A trained contender of the run. Raises RunStoreError when it has not been trained yet."""
    spec = folder.record.teacher.input
    network = fresh_network(
        folder.config,
        image_hwc=(spec.height, spec.width, spec.channels),
        classes=len(folder.record.teacher.classes),
    )
    path = folder.contender_path(contender)
    if not path.exists():
        raise RunStoreError(f"{folder.path}: {contender} is not trained yet: `{resume_command(folder.path)}`")
    return restore_network(network, path).to(device)


def measure_accuracies(folder: RunFolder, test: Dataset | None, device: torch.device) -> dict[str, float]:
    """Test accuracy, as a fraction of true labels, of every contender of the run; empty without a test set."""
    if test is None:
        return {}
    wanted = {STUDENT: True, **_baselines(folder)}
    return {
        contender: round(_accuracy(load_contender(folder, contender, device), test), 4)
        for contender, is_trained in wanted.items()
        if is_trained
    }


def _baselines(folder: RunFolder) -> dict[str, bool]:
    config = folder.config.baselines
    return {STUDENT_ALONE: config.student_alone, STANDARD_KD: config.standard_kd}


def _accuracy(network: nn.Module, test: Dataset) -> float:
    return accuracy(predict_probabilities(network, test.images_nhwc), test.truth_n)


def measure_agreement(
    folder: RunFolder,
    bought: LabelledImages,
    test: Dataset | None,
    teacher_answers: Path | None,
    device: torch.device,
) -> dict[str, Any]:
    """How often student and teacher name the same class, on which images, and how many they are.

    On the owner's file where there is one, else on bought answers held out of training; null when neither is there.
    Beside it, the same of the baselines: without a test set it is all there is to compare the student with.
    Raises ConfigError when the file is not about this teacher and this test set.
    """
    if teacher_answers is not None:
        if test is None:
            raise ConfigError(f"{teacher_answers}: the run has no evaluation.dataset that these could be answers to")
        images_nhwc, teacher_n = test.images_nhwc, _read_owner_file(folder, test, teacher_answers)
    else:
        held_out = draw_held_out(folder.config, len(bought.images_nhwc)) & answered_rows(bought.values)
        images_nhwc, teacher_n = bought.images_nhwc[held_out], top_classes(bought.values[held_out])
    if len(images_nhwc) == 0:
        nothing = dict.fromkeys(("agreement", "standard_kd_agreement", "student_alone_agreement"))
        return {**nothing, "agreement_on": "not measured", "agreement_images": 0}

    def agreed(contender: str) -> float:
        network = load_contender(folder, contender, device)
        return round(agreement(predict_probabilities(network, images_nhwc), teacher_n), 4)

    return {
        "agreement": agreed(STUDENT),
        "standard_kd_agreement": agreed(STANDARD_KD) if folder.config.baselines.standard_kd else None,
        "student_alone_agreement": agreed(STUDENT_ALONE) if folder.config.baselines.student_alone else None,
        "agreement_on": OWNER_FILE if teacher_answers is not None else HELD_OUT,
        "agreement_images": len(images_nhwc),
    }


def keep_owner_agreement(folder: RunFolder, accuracies: dict[str, float], agreed: dict[str, Any]) -> dict[str, Any]:
    """What was measured on the owner's file for this same student, where it was; else ``agreed``.

    A finished run that is resumed has no such file at hand, and must not lose the better figure.
    """
    try:
        earlier = folder.read_summary()
    except RunStoreError:
        return agreed
    if earlier["agreement_on"] != OWNER_FILE or earlier["student_accuracy"] != accuracies.get(STUDENT):
        return agreed
    return {name: earlier.get(name) for name in agreed}


def _read_owner_file(folder: RunFolder, test: Dataset, path: Path) -> NDArray[np.int64]:
    try:
        answers = read_teacher_answers(path)
    except ValueError as error:  # names the file
        raise ConfigError(str(error)) from error
    card = folder.record.teacher
    if (answers.teacher, answers.version) != (card.name, card.version):
        raise ConfigError(
            f"{path}: answers of teacher {answers.teacher} {answers.version}; the run bought from "
            f"{card.name} {card.version}"
        )
    if answers.images_digest != batch_digest(image_digests(test.images_nhwc)):
        raise ConfigError(f"{path}: answers to other images than {test.name} ({test.split})")
    return top_classes(answers.probabilities_nk)


def pool_fit(folder: RunFolder) -> PoolFit:
    """What the teacher's answers to the run's pool say of it."""
    return measure_fit(folder.labels.labelled("pool").values, folder.record.teacher)


def summarise(  # noqa: PLR0913 - what came out, each part by its name
    folder: RunFolder,
    accuracies: dict[str, float],
    agreed: dict[str, Any],
    audit: Books,
    *,
    planned: dict[str, int],
    test: Dataset | None,
    loss: Loss,
    fit: PoolFit,
) -> dict[str, Any]:
    """Put together what summary.json holds; accuracies and agreement are fractions, null where not measured.

    ``planned`` is the most that may be bought; rounds that a run decided against are under ``images.not_bought``,
    and how many of the others came out equal to another, so are bought once, under ``images.repeated``. What a second
    pool shares with the first is known beforehand, and no part of ``planned``.
    """
    record, budget = folder.record, folder.config.budget
    rounds: dict[str, Any] | None = None
    not_bought: dict[str, int] = {}
    if budget.policy == "until-flat":
        bought = folder.labels.stages()
        not_bought = {phase: images for phase, images in planned.items() if phase not in bought}
        measured = read_measurements(folder.measurements_path)
        rounds = describe_rounds(budget, measured, sum(planned.values()))
    by_phase = {phase: images for phase, images in planned.items() if phase not in not_bought}
    repeated = sum(by_phase.values()) - folder.labels.different_images()
    return {
        "name": record.name,
        "run_id": record.run_id,
        "config_digest": record.config_digest,
        "seed": record.seed,
        "teacher": {"name": record.teacher.name, "version": record.teacher.version},
        "student_network": folder.config.student.network,
        "test_dataset": None if test is None else test.name,
        "test_images": 0 if test is None else len(test.images_nhwc),
        "teacher_accuracy": record.teacher.test_accuracy,
        "student_accuracy": accuracies.get(STUDENT),
        **agreed,
        "baselines": {name: accuracies.get(name) for name in (STUDENT_ALONE, STANDARD_KD)},
        "images": {
            "planned": sum(planned.values()),
            **audit.counts,
            "by_phase": by_phase,
            **({"not_bought": not_bought} if not_bought else {}),
            **({"repeated": repeated} if repeated else {}),
            "real": planned["pool"] + planned.get("second_pool", 0),
            "rejected": loss.answers - loss.taught,
        },
        **({"rounds": rounds} if rounds is not None else {}),
        "pool_fit": fit.as_summary(),
        "learnt_by": describe_learning(folder.config, loss),
        **audit.as_summary(),
        "seconds": folder.read_seconds(),
        "versions": record.versions,
    }


def export_student(folder: RunFolder, summary: dict[str, Any], device: torch.device) -> None:
    """Write ``student/``: the weights, and a card that says how to use them and where they come from."""
    folder.student_path.mkdir(exist_ok=True)
    save_network(load_contender(folder, STUDENT, device), folder.student_path / "student.safetensors")
    write_card(folder.student_path, card_content(folder, summary))


def sample_images(folder: RunFolder, *, per_stage: int = 8) -> dict[str, tuple[NDArray[np.uint8], list[str]]]:
    """The first bought images of every stage, with the name of the teacher's top class of each.

    Of many stages, which rounds are, only the first two and the last.
    """
    classes, stages = folder.record.teacher.classes, folder.labels.stages()
    samples = {}
    for stage in stages if len(stages) <= _SAMPLED_STAGES_MAX else [*stages[:2], stages[-1]]:
        bought = folder.labels.labelled(stage, first=per_stage)
        labels_n = top_classes(bought.values)
        samples[stage] = (
            bought.images_nhwc,
            [classes[label] if label >= 0 else "rejected" for label in labels_n.tolist()],
        )
    return samples
