"""The spine: pool, plan, label, synthesise, label, train, evaluate, report; and the same again after a kill.

Every step first looks whether it is done already, so running and resuming are one function.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from distill_client.audit import audit_folder, require_same_key, require_same_teacher, trusting
from distill_client.contenders import (
    describe_learning,
    fresh_network,
    prepare_lessons,
    remove_checkpoints,
    save_network,
    train_contender,
)
from distill_client.errors import BudgetExhausted, ConfigError, PoolUnfit, RunStoreError
from distill_client.flatness import flat_since, read_measurements
from distill_client.material import Material, check_card, load_test
from distill_client.plan import PlanCost, draw_held_out
from distill_client.pool import Pool
from distill_client.results import (
    export_student,
    keep_owner_agreement,
    measure_accuracies,
    measure_agreement,
    pool_fit,
    summarise,
)
from distill_client.run_folder import RunFolder
from distill_client.stages import Walk, synthetic_stages, taught_stages
from distill_client.stages.reporter import Reporter
from distill_client.student.losses import Loss, choose_loss
from distill_client.student.precision import describe_precision
from distill_client.student.targets import answered_rows
from distill_client.teachers.paid.buying import buy_stage, images_per_request, refuse_test_images
from distill_client.teachers.paid.labelled import LabelledImages
from distill_client.teachers.protocol import Teacher
from shared.wire.images import Images


def run(
    folder: RunFolder,
    material: Material,
    teacher: Teacher,
    reporter: Reporter,
    device: torch.device,
    *,
    strict_pool: bool = False,
) -> dict[str, Any]:
    """Bring a run to its end, from wherever it stands, and return its summary.

    Raises DistillError; what was paid for is on the disk then, with its receipts, and running again goes on from
    there. ``strict_pool`` raises PoolUnfit where the answers to the pool say that it does not fit, before more is
    bought.
    """
    pool = material.pool
    check_teacher(folder, teacher, material)
    teacher = trusting(folder, teacher)

    def buy(stage: str, render: Callable[[], Iterable[Images]]) -> None:
        _buy(folder, teacher, reporter, material.forbidden, stage, render)

    buy("pool", lambda: [pool.images_nhwc])
    _require_answers(folder)
    _judge_pool(folder, reporter, strict=strict_pool)
    for stage in synthetic_stages(Walk(folder, material, reporter, device)):
        buy(stage.name, stage.render)

    everything = folder.labels.labelled(*taught_stages(folder.labels.stages()))
    loss = choose_loss(folder.record.teacher.disclosure, everything.values, folder.config.training.tail)
    _train_all(folder, pool, everything, loss, reporter, device)
    with folder.timed("evaluate"):
        accuracies = measure_accuracies(folder, material.test, device)
        agreed = measure_agreement(folder, everything, material.test, None, device)
        agreed = keep_owner_agreement(folder, accuracies, agreed)
    audit = audit_folder(folder, teacher)
    planned = material.cost.phases()
    summary = summarise(
        folder,
        accuracies,
        agreed,
        audit,
        planned=planned,
        test=material.test,
        loss=loss,
        fit=pool_fit(folder),
    )
    folder.write_summary(summary)
    export_student(folder, summary, device)
    return summary


def evaluate(folder: RunFolder, teacher_answers: Path | None, device: torch.device) -> dict[str, Any]:
    """Measure a finished run again, with the owner's answers where they are given, and update its summary."""
    summary = folder.read_summary()
    if not folder.labels.stages():
        raise RunStoreError(f"{folder.path}: no answers are recorded; there is nothing to measure agreement on")
    test = load_test(folder.config, folder.record.teacher)
    bought = folder.labels.labelled(*taught_stages(folder.labels.stages()))
    accuracies = measure_accuracies(folder, test, device)
    summary["student_accuracy"] = accuracies.pop("student", None)
    summary["baselines"].update(accuracies)
    summary.update(measure_agreement(folder, bought, test, teacher_answers, device))
    folder.write_summary(summary)
    export_student(folder, summary, device)
    return summary


def check_teacher(folder: RunFolder, teacher: Teacher, material: Material) -> None:
    """Refuse to begin what cannot finish.

    Raises ConfigError, RunStoreError when the teacher is not the one the run began with, and BudgetExhausted when
    the key cannot pay for what is still to be bought.
    """
    require_same_key(folder, teacher)
    card = teacher.card()
    check_card(folder.config, card, material.pool)
    require_same_teacher(folder, card)
    missing = _missing_images(folder, material.cost)
    if missing > card.budget.remaining and card.reports_usage:
        # A batch that was charged just before a kill is asked for again at no charge.
        answered = {purchase.idempotency_key for purchase in folder.labels.purchases()}
        unanswered = (folder.labels.recorded_keys() | folder.notes.all_keys()) - answered
        missing -= sum(event.images for event in teacher.events() if event.idempotency_key in unanswered)
    if missing > card.budget.remaining:
        unknown = (
            "" if card.reports_usage else ". What is not known to be charged counts too: `distill settle` lists it"
        )
        raise BudgetExhausted(
            f"{missing} images are still to be bought, {card.budget.remaining} of {card.budget.granted} remain; "
            f"{card.how_to_get(missing - card.budget.remaining)}, or plan for less{unknown}",
            granted=card.budget.granted,
            spent=card.budget.spent,
        )


def _missing_images(folder: RunFolder, cost: PlanCost) -> int:
    """Images still to be bought; exact for recorded stages, which leave out what the run has bought before.

    Nothing is missing of the rounds that a run has decided against.
    """
    missing = 0
    decided_after = flat_since(folder.config.budget, read_measurements(folder.measurements_path))
    unwanted = set() if decided_after is None else set(list(cost.of_rounds())[decided_after:])
    for stage, images in cost.phases().items():
        if stage in unwanted:
            continue
        if folder.labels.has_stage(stage):
            recorded, bought = folder.labels.stage_images(stage)
            missing += recorded - bought
        else:
            missing += images
    return missing


def _buy(
    folder: RunFolder,
    teacher: Teacher,
    reporter: Reporter,
    forbidden: frozenset[bytes],
    stage: str,
    render: Callable[[], Iterable[Images]],
) -> None:
    """Record a stage unless it is recorded, and buy what has no answer yet; ``render`` gives its images in blocks."""
    config, labels = folder.config.teacher, folder.labels
    if not labels.has_stage(stage):
        size = images_per_request(config.images_per_request, folder.record.teacher)
        labels.record_stage(
            stage,
            refuse_test_images(render(), forbidden, stage),
            images_per_request=size,
            expected_keys=folder.notes.keys(stage),  # where the store was lost, and only what was paid for is sent
        )
    folder.notes.note(stage, labels.stage_keys(stage))
    with folder.timed(f"buy_{stage}"):
        images, bought = labels.stage_images(stage)
        heard = reporter.buying(stage, images, bought)
        buy_stage(
            labels,
            teacher,
            stage,
            card=folder.record.teacher,
            requests_in_flight=config.requests_in_flight,
            progress=heard,
        )


def _require_answers(folder: RunFolder) -> None:
    """Raise ConfigError where the pool's answers say nothing at all: nothing more need be paid for then."""
    answered_n = answered_rows(folder.labels.labelled("pool").values)
    if not answered_n.any():
        raise ConfigError(
            f"all {len(answered_n)} answers to the pool were rejected, so nothing more is bought: what teacher "
            f"{folder.record.teacher.name} names is none of the run's classes; look at its label map"
        )


def _judge_pool(folder: RunFolder, reporter: Reporter, *, strict: bool) -> None:
    """Warn where the answers to the pool say that it does not fit, or raise PoolUnfit."""
    faults = pool_fit(folder).faults
    if faults and strict:
        raise PoolUnfit(f"the pool does not seem to fit the teacher: {'; '.join(faults)}; nothing more is bought")
    for fault in faults:
        reporter.warning(f"the pool does not seem to fit the teacher: {fault}")


def _train_all(
    folder: RunFolder, pool: Pool, bought: LabelledImages, loss: Loss, reporter: Reporter, device: torch.device
) -> None:
    """Train every contender that is not trained yet."""
    held_out = draw_held_out(folder.config, len(bought.images_nhwc))
    prepared = prepare_lessons(folder.config, pool, bought, held_out, loss)
    missing = {name: lessons for name, lessons in prepared.items() if not folder.contender_path(name).exists()}
    if missing:
        network = fresh_network(folder.config, image_hwc=bought.images_nhwc.shape[1:], classes=len(pool.class_names))
        precision = describe_precision(folder.config.training, network, device)
        reporter.learning(describe_learning(folder.config, loss) + precision)
    for contender, lessons in missing.items():
        with folder.timed(f"train_{contender}"):
            network, metrics = train_contender(
                folder.config,
                contender,
                lessons,
                device=device,
                checkpoint_path=folder.checkpoint_path(contender),
                progress=reporter.training(contender),
            )
        folder.write_metrics(contender, metrics)
        save_network(network, folder.contender_path(contender))
        remove_checkpoints(folder.config, folder.checkpoint_path(contender))
