"""Interim students, of a run that buys in rounds: each is trained on what was bought up to its round, and kept.

Each is a contender of its own in the run folder, ``interim-0`` from the pool alone, ``interim-1`` after the first
round and so on; our own student is the one after the last. None is ever shown a test image.
"""

import numpy as np
from numpy.typing import NDArray
from torch import nn

from distill_client.config import TrainingConfig
from distill_client.contenders import (
    STUDENT,
    fresh_network,
    prepare_lessons,
    remove_checkpoints,
    restore_network,
    save_network,
    train_contender,
)
from distill_client.flatness import Measurement, flat_since, keep_measurements, read_measurements
from distill_client.plan import draw_held_out, draw_watched
from distill_client.stages.stage import Walk
from distill_client.student.evaluation import predict_probabilities
from distill_client.student.losses import choose_loss
from distill_client.student.targets import answered_rows, top_classes
from distill_client.teachers.paid.labelled import LabelledImages


def interim_student(walk: Walk, after_round: int) -> nn.Module:
    """The student of the pool and the first ``after_round`` rounds, in evaluation mode; trained unless it is kept.

    It learns as our own student does, for ``budget.interim_length`` of that one's schedule.
    """
    folder, name = walk.folder, f"interim-{after_round}"
    path, checkpoint_path = folder.contender_path(name), folder.checkpoint_path(name)
    if path.exists():
        height, width, channels = walk.material.pool.images_nhwc.shape[1:]
        classes = len(folder.record.teacher.classes)
        network = fresh_network(folder.config, image_hwc=(height, width, channels), classes=classes)
        return restore_network(network, path).to(walk.device)
    training = shortened(folder.config.training, folder.config.budget.interim_length)
    config, bought = folder.config.model_copy(update={"training": training}), _bought(walk, after_round)
    loss = choose_loss(folder.record.teacher.disclosure, bought.values, training.tail)
    held_out = _unseen(walk, len(bought.images_nhwc))
    lessons = prepare_lessons(config, walk.material.pool, bought, held_out, loss)[STUDENT]
    with folder.timed(f"train_{name}"):
        network, _ = train_contender(
            config,
            name,
            lessons,
            device=walk.device,
            checkpoint_path=checkpoint_path,
            progress=walk.reporter.training(name),
        )
    save_network(network, path)
    remove_checkpoints(config, checkpoint_path)
    return network.eval()


def shortened(training: TrainingConfig, length: float) -> TrainingConfig:
    """The same schedule for ``length`` (0 to 1) of its steps or epochs and of its warm-up; one step at least."""
    warmup = round(training.warmup_steps * length)
    steps = training.steps and max(1, round(training.steps * length))
    parts = {
        "epochs": training.epochs and max(1, round(training.epochs * length)),
        "steps": steps,
        "warmup_steps": min(warmup, steps - 1) if steps else warmup,  # both rounded, it may be no shorter
    }
    return training.model_copy(update=parts)


def is_flat_after(walk: Walk, after_round: int) -> bool:
    """Whether nothing is to be bought after that round; what it added is measured and written down first.

    What is written down is not measured again: the decision stays, whatever machine goes on with the run.
    """
    path = walk.folder.measurements_path
    measured = read_measurements(path)
    while len(measured) < after_round:
        measured = (*measured, _measure(walk, len(measured) + 1))
        keep_measurements(path, measured)
        walk.reporter.measured(measured[-1].sentence)
    return flat_since(walk.folder.config.budget, measured[:after_round]) is not None


def _measure(walk: Walk, after_round: int) -> Measurement:
    """Compare all students up to the round's on the real images that they are kept from."""
    pool = walk.folder.labels.labelled("pool")
    watched = _unseen(walk, len(pool.images_nhwc)) & answered_rows(pool.values)
    images_nhwc, teacher_n = pool.images_nhwc[watched], top_classes(pool.values[watched])
    students = [interim_student(walk, number) for number in range(after_round + 1)]
    agrees_sn = np.zeros((len(students), len(images_nhwc)), dtype=bool)
    if len(images_nhwc):
        for student, agrees_n in zip(students, agrees_sn, strict=True):
            agrees_n[:] = predict_probabilities(student, images_nhwc).argmax(axis=1) == teacher_n
    sizes = walk.material.cost.phases().values()
    return Measurement(
        bought=tuple(int(count) for count in np.cumsum(list(sizes))[: after_round + 1]),
        held_out=len(images_nhwc),
        agreeing=tuple(int(count) for count in agrees_sn.sum(axis=1)),
        gained=int((agrees_sn[-1] & ~agrees_sn[-2]).sum()),
        lost=int((agrees_sn[-2] & ~agrees_sn[-1]).sum()),
    )


def _unseen(walk: Walk, bought: int) -> NDArray[np.bool_]:
    """What of so many bought images interim students do not learn."""
    config = walk.folder.config
    if config.budget.policy == "until-flat":
        return draw_watched(config, walk.material.plan.views)[:bought]
    return draw_held_out(config, bought)


def _bought(walk: Walk, after_round: int) -> LabelledImages:
    """The pool and the first rounds, whatever was bought since."""
    return walk.folder.labels.labelled(*list(walk.material.cost.phases())[: after_round + 1])
