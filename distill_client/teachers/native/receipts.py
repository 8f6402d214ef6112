"""Whether a receipt proves what was asked and got, by keys that follow from the one that the run has pinned.

The first use pins: a new run believes the signing key that it finds, or only the one that its user names. From then
on every other key has to be endorsed by a chain of signatures that begins with the pinned one.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from distill_client.durable import write_durably
from distill_client.errors import ReceiptFault
from distill_client.teachers.protocol import Answer, Teacher, read_receipt
from shared.wire.contracts import Digest, Receipt, SigningKey, SigningKeys
from shared.wire.images import answer_digest, batch_digest, encode_npy, image_digests
from shared.wire.receipts import disclosure_digest
from shared.wire.signatures import receipt_faults, trusted_keys

UNSIGNED = "this teacher's server signs no receipts: the counts are not proved by receipts"


class Pin(BaseModel):
    """Whom a run believes: the ledger's name, and the fingerprint of the key that it found or was told at its start.

    Answers up to the event ``receipts_after`` have no receipts: the server did not sign yet when they were charged.
    """

    model_config = ConfigDict(frozen=True)

    ledger: str
    signing_key: Digest
    receipts_after: int = 0

    @classmethod
    def at_first_use(cls, teacher: Teacher, demanded: str | None = None) -> Self | None:
        """What a new run pins: ``demanded`` where it is given, else the key that signs now; None without signatures.

        Raises ReceiptFault when the teacher does not sign, or not with ``demanded`` or a key that follows from it.
        """
        keys = teacher.signing_keys()
        if keys is None:
            if demanded is not None:
                raise ReceiptFault(f"signing key {demanded} is demanded, but {UNSIGNED}")
            return None
        pin = cls(ledger=keys.ledger, signing_key=current_key(keys).fingerprint if demanded is None else demanded)
        pin.require_followed_by(keys)
        return pin

    def trusted(self, keys: SigningKeys | None) -> dict[str, str]:
        """Fingerprint to public key of every key that follows from the pinned one; empty when that is not there."""
        return {} if keys is None else trusted_keys(keys.keys, self.signing_key)

    def require_followed_by(self, keys: SigningKeys | None) -> dict[str, str]:
        """As ``trusted``. Raises ReceiptFault when the key that signs now is not one of them."""
        if keys is None:
            raise ReceiptFault(
                f"the server signed with {self.signing_key[:16]} when the run began, and now it shows no signing "
                "keys; nothing is bought without receipts. Ask the teacher's owner"
            )
        trusted, now = self.trusted(keys), current_key(keys)
        if now.fingerprint not in trusted or keys.ledger != self.ledger:
            raise ReceiptFault(
                f"the server's ledger is {keys.ledger[:32]!r} and signs with {now.fingerprint}, which does not "
                f"follow by endorsements from {self.signing_key}, pinned for ledger {self.ledger[:32]!r}: it is "
                "another ledger, or somebody in between. Ask the teacher's owner which fingerprint is right"
            )
        return trusted


def current_key(keys: SigningKeys) -> SigningKey:
    """The key that signs now. Raises ReceiptFault when there is none."""
    active = [key for key in keys.keys if key.retired_at is None]
    if not active:
        raise ReceiptFault("the server shows signing keys, but none that is not retired")
    return active[-1]


class ProvenTeacher:
    """A teacher whose answers count only with their receipts; satisfies ``protocol.Teacher``, from any thread.

    A key that is not known yet is looked for once more: the teacher may have rotated its key meanwhile. What is wrong
    is kept as evidence in a folder.
    """

    def __init__(self, teacher: Teacher, pin: Pin, trusted: dict[str, str], *, name: str, evidence: Path) -> None:
        self._teacher = teacher
        self._pin = pin
        self._trusted = trusted
        self._name = name
        self._evidence = evidence
        self.card = teacher.card
        self.usage = teacher.usage
        self.events = teacher.events
        self.signed_events = teacher.signed_events
        self.signing_keys = teacher.signing_keys

    def label(self, images_nhwc: NDArray[np.uint8], idempotency_key: str) -> Answer:
        """See Teacher.label. Raises ReceiptFault as well; nothing may be kept of the answer then."""
        answer = self._teacher.label(images_nhwc, idempotency_key)
        asked = Asked(self._name, idempotency_key, len(images_nhwc), batch_digest(image_digests(images_nhwc)))
        if faults := self._faults(asked, answer):
            raise self._refuse(asked, answer, faults)
        return answer

    def _faults(self, asked: "Asked", answer: Answer) -> list[str]:
        if not answer.receipt:
            is_older = answer.event_sequence <= self._pin.receipts_after
            return [] if is_older else ["it came without a receipt, from a server that signs"]
        try:
            receipt = read_receipt(answer.receipt)
        except ValueError as error:
            return [f"its receipt is none: {error}"]
        if receipt.signing_key not in self._trusted:
            self._trusted |= self._pin.trusted(self._teacher.signing_keys())
        return receipt_faults(receipt, self._trusted) + differences(receipt, asked, answer)

    def _refuse(self, asked: "Asked", answer: Answer, faults: Sequence[str]) -> ReceiptFault:
        path = self._evidence / f"batch-{asked.idempotency_key[:16]}.json"
        answered = {name: value for name, value in asdict(answer).items() if name not in ("values", "receipt")}
        answered["answer_digest"] = answer_digest(answer.values)
        answered["values_npy_base64"] = base64.b64encode(encode_npy(answer.values)).decode("ascii")
        keep_evidence(
            path,
            {
                "what": "an answer that its receipt does not prove",
                "faults": list(faults),
                "asked": asdict(asked),
                "answered": answered,
                "receipt": answer.receipt,
                "pinned": self._pin.model_dump(),
                "trusted_keys": self._trusted,
            },
        )
        return ReceiptFault(
            f"the answer to batch {asked.idempotency_key[:12]} is not proved by its receipt and was not kept: "
            f"{'; '.join(faults)}. What came is kept in {path}; show it to the teacher's owner. `distill resume` "
            "asks again, at no second charge"
        )


@dataclass(frozen=True)
class Asked:
    """What was asked of whom."""

    teacher: str
    idempotency_key: str
    images: int
    input_digest: str


def differences(receipt: Receipt, asked: Asked, answer: Answer) -> list[str]:
    """Where the receipt's event is not what was asked and got, one sentence each."""
    event = receipt.event
    pairs: dict[str, tuple[object, object]] = {
        "kind": ("answer", event.kind),
        "idempotency key": (asked.idempotency_key, event.idempotency_key),
        "teacher": (asked.teacher, event.teacher),
        "version": (answer.version, event.version),
        "images": (asked.images, event.images),
        "images charged": (answer.charged, event.images),
        "images spent": (answer.spent, event.spent),
        "input digest": (asked.input_digest, event.input_digest),
        "disclosure": (answer.disclosure, event.disclosure),
        "disclosure digest": (disclosure_digest(answer.disclosure), event.disclosure_digest),
        "event sequence": (answer.event_sequence, event.sequence),
        "event hash": (answer.event_hash, event.hash),
    }
    if not answer.is_recomputed:  # else its values may differ by what two computations differ
        pairs["answer digest"] = (answer_digest(answer.values), event.answer_digest)
    return [
        f"{field} is {ours} in what was asked and got, {theirs} in the receipt"
        for field, (ours, theirs) in pairs.items()
        if ours != theirs
    ]


def keep_evidence(path: Path, content: dict[str, object]) -> None:
    """Write what is held against a teacher, whole, as JSON. Raises OSError."""
    path.parent.mkdir(exist_ok=True)
    kept_at = datetime.now(UTC).isoformat(timespec="seconds")
    write_durably(path, (json.dumps({"kept_at": kept_at, **content}, indent=2) + "\n").encode())
