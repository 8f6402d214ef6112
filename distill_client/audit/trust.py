"""Whom a run believes: the signing key it pinned when it began, and the keys that follow from it."""

from distill_client.run_folder import RunFolder
from distill_client.teachers.native.receipts import Pin, ProvenTeacher
from distill_client.teachers.protocol import Teacher
from shared.wire.contracts import SigningKeys


def trusting(folder: RunFolder, teacher: Teacher) -> Teacher:
    """``teacher`` as the run must ask it: every answer proved by its receipt, unless its server never signed.

    A server that begins to sign during a run is pinned then. Raises ReceiptFault when its signing keys do not follow
    from the pinned one, or are not shown any more; nothing must be bought from it then.
    """
    pin = folder.record.pin or _pin_late(folder, teacher)
    if pin is None:
        return teacher
    keys = teacher.signing_keys()
    trusted = pin.require_followed_by(keys)
    if keys is not None:
        folder.write_signing_keys(keys)
    evidence = folder.evidence_path
    return ProvenTeacher(teacher, pin, trusted, name=folder.record.teacher.name, evidence=evidence)


def trusted_keys_of(folder: RunFolder, keys: SigningKeys | None) -> dict[str, str]:
    """Fingerprint to public key of all that follows from the run's pin in ``keys`` or in what the run has kept."""
    pin, kept = folder.record.pin, folder.read_signing_keys()
    if pin is None:
        return {}
    known = [key for found in (keys, kept) if found is not None for key in found.keys]
    return pin.trusted(SigningKeys(ledger=pin.ledger, keys=known))


def _pin_late(folder: RunFolder, teacher: Teacher) -> Pin | None:
    """For a run that began when the server did not sign yet: what is unsigned in the log now stays allowed."""
    pin = Pin.at_first_use(teacher)
    if pin is not None:
        unsigned = [row.event.sequence for row in teacher.signed_events() if not row.signature.signature]
        pin = pin.model_copy(update={"receipts_after": max(unsigned, default=0)})
        folder.keep_pin(pin)
    return pin
