"""What a run says of itself to others: the audit in its summary, and its student's card. Needs no torch."""

from pathlib import Path
from typing import Any

from distill_client.audit import Books
from distill_client.errors import RunStoreError
from distill_client.pool import pool_input
from distill_client.run_folder import RunFolder
from distill_client.student.card import write_card
from distill_client.teachers.permission import GIVEN
from shared.wire.contracts import InputSpec
from shared.wire.resizing import describe_preprocessing


def student_input(folder: RunFolder) -> InputSpec:
    """What the student takes, and the rule that its pool's pictures were brought to it by."""
    card = folder.record.teacher
    return pool_input(folder.config.pool, card) or card.input


def keep_audit(folder: RunFolder, audit: Books) -> None:
    """Put an audit's result in place of the earlier one, in summary.json and the student's card, if there are."""
    try:
        summary = folder.read_summary()
    except RunStoreError:  # the run has not come that far
        return
    summary.update(audit.as_summary())
    summary["images"].update(audit.counts)
    folder.write_summary(summary)
    if folder.student_path.exists():
        write_card(folder.student_path, card_content(folder, summary))


def _second_pool(images: dict[str, Any]) -> str:
    """What must be said of real images where they are more than the pool."""
    if not (second := images["by_phase"].get("second_pool")):
        return ""
    return f": {images['real']:,}, of which {second:,} are a second pool that only the CVAE learnt from"


def card_content(folder: RunFolder, summary: dict[str, Any]) -> dict[str, Any]:
    """What the student's card says: how to use it, where it comes from, what it cost and how that was proved."""
    card, spec, pool = folder.record.teacher, student_input(folder), folder.config.pool
    source = pool.dataset or Path(pool.folder or pool.file or "").name  # a path says more of its owner than of it
    if pool.dataset and pool.is_unlabelled:
        source += ", without its labels"
    return {
        "name": summary["name"],
        "network": folder.config.student.network,
        "weights": "student.safetensors",
        "input": {**spec.model_dump(), "scaled": "uint8 / 255"},
        "preprocessing": describe_preprocessing(spec.resize),
        "classes": card.classes,
        "outputs": "logits; softmax gives probabilities",
        "distilled_from": summary["teacher"],
        "teacher_test_accuracy": card.test_accuracy,
        "disclosure": card.disclosure,
        "permission": GIVEN if card.has_permission else None,
        "asked_as": None if card.has_permission is None else card.preprocessing,
        "learnt_by": summary.get("learnt_by", "not recorded by earlier versions"),
        "real_images": source + _second_pool(summary["images"]),
        "pool_warnings": summary.get("pool_fit", {}).get("warnings", []),
        "answers_by_phase": summary["images"]["by_phase"],
        "rounds": summary.get("rounds"),
        "budget_images": folder.config.budget_images,
        "answers_bought": summary["images"]["bought"],
        "test_dataset": summary["test_dataset"],
        "test_accuracy": summary["student_accuracy"],
        "agreement_with_teacher": summary["agreement"],
        "agreement_on": summary["agreement_on"],
        "agreement_images": summary["agreement_images"],
        "audit": summary["audit"].get("sentence", "not audited since receipts exist; `distill audit` does it"),
        "audit_equal": summary["audit"]["equal"],
        "counted_by": summary["audit"].get("counted_by", "server"),
        "last_receipt": summary.get("last_receipt"),
        "run_id": summary["run_id"],
        "config_digest": summary["config_digest"],
    }
