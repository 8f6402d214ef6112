"""A run's folder against its teacher's log, at the server or in a file; what proves something is written down."""

from dataclasses import replace

from distill_client.audit.books import Audit, Books, Difference
from distill_client.audit.comparing import audit_run
from distill_client.audit.logs import TeacherLog, read_log
from distill_client.audit.own_books import audit_own
from distill_client.audit.trust import trusted_keys_of
from distill_client.commands import resume_command
from distill_client.errors import RunStoreError
from distill_client.run_folder import RunFolder
from distill_client.teachers.native.receipts import keep_evidence
from distill_client.teachers.paid.buying import HOW_TO_GO_ON
from distill_client.teachers.protocol import Capabilities, Teacher, key_identity


def require_same_key(folder: RunFolder, teacher: Teacher) -> None:
    """Raise RunStoreError when the key is not the one the run began with: its answers are on that key's account.

    Under another key the batches in flight would be charged again, and neither key's log would tell the whole.
    """
    if key_identity(teacher) != folder.record.key_identity:
        raise RunStoreError(f"{folder.path}: the run was begun with another key; it goes on with that one only")


def require_same_teacher(folder: RunFolder, card: Capabilities) -> None:
    """Raise RunStoreError when answers of this teacher are not to be mixed with those that the run has."""
    began_with = folder.record.teacher
    if (card.version, card.disclosure) != (began_with.version, began_with.disclosure):
        raise RunStoreError(
            f"{folder.path}: the run began with version {began_with.version} and disclosure {began_with.disclosure}; "
            f"teacher {card.name} now has version {card.version} and disclosure {card.disclosure} for this key. "
            f"Answers of two policies or versions are never mixed: {HOW_TO_GO_ON}"
        )
    if (card.name, card.classes, card.input) != (began_with.name, began_with.classes, began_with.input):
        raise RunStoreError(
            f"{folder.path}: the run began with teacher {began_with.name}, its classes {began_with.classes} and its "
            f"input {_size(began_with)}; now it is {card.name}, with classes {card.classes} and input {_size(card)}"
        )


def _size(card: Capabilities) -> str:
    return f"{card.input.height}x{card.input.width}x{card.input.channels}"


def audit_folder(folder: RunFolder, teacher: Teacher) -> Books:
    """Compare the run's own rows with the log for its key as it is now: the teacher's, or the client's own.

    Raises RunStoreError.
    """
    require_same_key(folder, teacher)
    if folder.counts_for_itself:
        return audit_own(folder)
    return _audit(folder, read_log(teacher))


def audit_offline(folder: RunFolder, log: TeacherLog) -> Audit:
    """Compare the run's own rows with a log that was read from a file. Raises RunStoreError for another key's."""
    first = log.events[0] if log.rows else None
    if first is not None and first.sequence == 1 and first.hash != folder.record.key_identity:
        raise RunStoreError(
            f"{folder.path}: {log.source} is the log of key {first.key_name!r}, or was changed from its first event "
            "on; the run was begun with another key"
        )
    return _audit(folder, log)


def _audit(folder: RunFolder, log: TeacherLog) -> Audit:
    audit = audit_run(
        folder.labels.purchases(),
        folder.labels.recorded_keys() | folder.notes.all_keys(),
        log,
        pin=folder.record.pin,
        trusted=trusted_keys_of(folder, log.signing_keys),
        resume=resume_command(folder.path),
    )
    return replace(audit, differences=tuple(_kept(folder, log, each) for each in audit.differences))


def _kept(folder: RunFolder, log: TeacherLog, difference: Difference) -> Difference:
    """The difference, its receipt written to a file of the run folder where it is evidence against the teacher."""
    receipt = difference.receipt
    if difference.kind != "evidence" or receipt is None:
        return difference
    path = folder.evidence_path / f"event-{receipt.event.sequence}-{receipt.event.hash[:16]}.json"
    keep_evidence(
        path,
        {
            "what": "a receipt that the teacher's log contradicts",
            "difference": difference.sentence,
            "receipt": receipt.model_dump(),
            "in_log": None if difference.in_log is None else difference.in_log.model_dump(),
            "log": log.source,
            "log_at": log.at,
            "pinned": None if folder.record.pin is None else folder.record.pin.model_dump(),
            "signing_keys": None if log.signing_keys is None else log.signing_keys.model_dump(),
        },
    )
    return replace(difference, sentence=f"{difference.sentence}; it is kept in {path}")
