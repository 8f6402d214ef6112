"""Every answer proved by its receipt before it is kept: a wrong one is refused, with the evidence in a file."""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distill_client.errors import ReceiptFault
from distill_client.teachers.native.receipts import Pin, ProvenTeacher, current_key
from distill_client.teachers.paid.buying import buy_stage
from distill_client.teachers.paid.store import PaidLabels
from distill_client.teachers.protocol import Answer, read_receipt
from shared.wire.contracts import Event, SigningKeys
from shared.wire.receipts import event_hash
from tests.distill_client.fakes import FakeTeacher, Signer, as_header

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1), np.uint8)
Distort = Callable[[Answer, Signer], Answer]


def edited(answer: Answer, signer: Signer, **fields: object) -> Answer:
    """The answer with a receipt, well signed, for another event; the headers say what it says."""
    event = read_receipt(answer.receipt).event.model_copy(update=fields)
    event = event.model_copy(update={"hash": event_hash(event)})
    receipt = as_header(signer.receipt(event))
    return replace(answer, receipt=receipt, event_sequence=event.sequence, event_hash=event.hash)


def resigned(answer: Answer, signer: Signer) -> Answer:
    return replace(answer, receipt=as_header(signer.receipt(read_receipt(answer.receipt).event)))


def with_event(answer: Answer, change: Callable[[Event], Event]) -> Answer:
    """The receipt's event changed, its signature not."""
    receipt = read_receipt(answer.receipt)
    return replace(answer, receipt=as_header(receipt.model_copy(update={"event": change(receipt.event)})))


class Distorting(FakeTeacher):
    """Charges and signs, then hands over its answers as ``distort`` says."""

    distort: Distort | None = None

    def label(self, *arguments: object) -> Answer:
        answer = super().label(*arguments)  # type: ignore[arg-type]
        assert self.signer is not None
        return self.distort(answer, self.signer) if self.distort is not None else answer


@pytest.fixture
def teacher() -> Distorting:
    return Distorting(signer=Signer())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PaidLabels]:
    with closing(PaidLabels(tmp_path / "answers.sqlite", run_id="run-1")) as store:
        store.record_stage("pool", IMAGES, images_per_request=4)
        yield store


def proven(teacher: FakeTeacher, folder: Path, pin: Pin | None = None) -> ProvenTeacher:
    pin = pin or Pin.at_first_use(teacher)
    assert pin is not None
    trusted = pin.require_followed_by(teacher.signing_keys())
    return ProvenTeacher(teacher, pin, trusted, name="fake", evidence=folder / "evidence")


def buy(store: PaidLabels, teacher: ProvenTeacher, at_once: int = 1) -> None:
    buy_stage(store, teacher, "pool", card=teacher.card(), requests_in_flight=at_once, progress=lambda _: None)


@pytest.mark.parametrize("at_once", [1, 3])
def test_answers_are_kept_with_their_receipts(
    store: PaidLabels, teacher: Distorting, tmp_path: Path, at_once: int
) -> None:
    buy(store, proven(teacher, tmp_path), at_once)
    purchases = store.purchases()
    assert len(purchases) == 3
    assert teacher.signer is not None
    events = {event.idempotency_key: event for event in teacher.log}
    for purchase in purchases:
        assert purchase.receipt_json == teacher.signer.receipt(events[purchase.idempotency_key]).model_dump_json()
        assert not purchase.is_recomputed
    assert not (tmp_path / "evidence").exists()


def test_a_key_rotated_in_mid_stage_is_found_by_its_endorsement(
    store: PaidLabels, teacher: Distorting, tmp_path: Path
) -> None:
    asked = proven(teacher, tmp_path)
    assert teacher.signer is not None
    signer = teacher.signer

    def rotate_after_the_first(answer: Answer, _: Signer) -> Answer:
        if len(signer.keys) < 3:
            signer.rotate()
        return answer

    teacher.distort = rotate_after_the_first
    buy(store, asked)
    texts = [purchase.receipt_json for purchase in store.purchases()]
    assert all(texts)
    assert {json.loads(text or "")["signing_key"] for text in texts} == {key.fingerprint for key in signer.keys}


WRONG: dict[str, tuple[Distort, str]] = {
    "none": (lambda a, _: replace(a, receipt=""), "without a receipt, from a server that signs"),
    "not base64": (lambda a, _: replace(a, receipt="€"), "its receipt is none"),
    "not JSON": (lambda a, _: replace(a, receipt=base64.urlsafe_b64encode(b"{").decode()), "its receipt is none"),
    "cut off": (lambda a, _: replace(a, receipt=a.receipt[:-20]), "its receipt is none"),
    "forged": (lambda a, _: with_event(a, lambda e: e.model_copy(update={"spent": e.spent + 1})), "have its hash"),
    "stranger": (lambda a, _: resigned(a, Signer()), "which is no key of this ledger"),
    "kind": (lambda a, s: edited(a, s, kind="grant"), "kind is answer in what was asked and got, grant"),
    "other batch": (lambda a, s: edited(a, s, idempotency_key="k"), "idempotency key is .*, k in the receipt"),
    "teacher": (lambda a, s: edited(a, s, teacher="other"), "teacher is fake .*, other in the receipt"),
    "version": (lambda a, s: edited(a, s, version="2"), "version is 1 .*, 2 in the receipt"),
    "more images": (lambda a, s: edited(a, s, images=40), "images is 4 .*, 40 in the receipt"),
    "other images": (lambda a, s: edited(a, s, input_digest="e" * 64), "input digest is .* e{64} in the receipt"),
    "other answer": (lambda a, s: edited(a, s, answer_digest="e" * 64), "answer digest is .* e{64} in the receipt"),
    "other values": (lambda a, _: replace(a, values=a.values[::-1].copy()), "answer digest is"),
    "disclosure": (lambda a, s: edited(a, s, disclosure="label"), "disclosure is probabilities .*, label"),
    "policy": (lambda a, s: edited(a, s, disclosure_digest="e" * 64), "disclosure digest is .* e{64}"),
    "spent": (lambda a, _: replace(a, spent=a.spent + 1), "images spent is 5 .*, 4 in the receipt"),
    "sequence": (lambda a, _: replace(a, event_sequence=9), "event sequence is 9 .*, 2 in the receipt"),
    "hash": (lambda a, _: replace(a, event_hash="e" * 64), "event hash is e{64} in what was asked"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_answer_that_its_receipt_does_not_prove_is_not_kept_and_the_evidence_is(
    store: PaidLabels, teacher: Distorting, tmp_path: Path, wrong: str
) -> None:
    teacher.distort, message = WRONG[wrong]
    with pytest.raises(
        ReceiptFault, match=f"(?s)is not proved by its receipt and was not kept: .*{message}"
    ) as caught:
        buy(store, proven(teacher, tmp_path))
    assert caught.value.exit_code == 5
    assert store.images_bought() == 0
    (file,) = (tmp_path / "evidence").iterdir()
    assert str(file) in str(caught.value)
    evidence = json.loads(file.read_text())
    assert evidence["faults"]
    assert evidence["asked"]["images"] == 4
    assert base64.b64decode(evidence["answered"]["values_npy_base64"]).startswith(b"\x93NUMPY")
    assert teacher.signer is not None
    assert evidence["pinned"]["signing_key"] in evidence["trusted_keys"]
    teacher.distort = None  # the server is mended: asked again, not charged again
    buy(store, proven(teacher, tmp_path))
    assert teacher.spent == store.images_bought() == 12


def test_a_recomputed_answer_may_have_other_digits_and_nothing_else(
    store: PaidLabels, teacher: Distorting, tmp_path: Path
) -> None:
    def recomputed(answer: Answer, _: Signer) -> Answer:
        return replace(answer, values=answer.values + np.float32(1e-6), is_recomputed=True)

    teacher.distort = recomputed
    buy(store, proven(teacher, tmp_path))
    assert [purchase.is_recomputed for purchase in store.purchases()] == [True, True, True]
    teacher.distort = lambda answer, signer: edited(recomputed(answer, signer), signer, input_digest="e" * 64)
    with pytest.raises(ReceiptFault, match="input digest"):
        proven(teacher, tmp_path).label(IMAGES[:4], "another")


def test_only_answers_from_before_the_server_signed_come_without(teacher: Distorting, tmp_path: Path) -> None:
    pin = Pin.at_first_use(teacher)
    assert pin is not None
    asked = proven(teacher, tmp_path, pin.model_copy(update={"receipts_after": 2}))
    teacher.distort = lambda answer, _: replace(answer, receipt="")
    assert asked.label(IMAGES[:4], "key-1").event_sequence == 2
    with pytest.raises(ReceiptFault, match="without a receipt"):
        asked.label(IMAGES[4:8], "key-2")


def test_the_first_use_pins_the_key_that_signs_now() -> None:
    assert Pin.at_first_use(FakeTeacher()) is None
    teacher = FakeTeacher(signer=Signer())
    assert teacher.signer is not None
    first = teacher.signer.current
    assert Pin.at_first_use(teacher) == Pin(ledger="fake", signing_key=first)
    teacher.signer.rotate()
    assert Pin.at_first_use(teacher) == Pin(ledger="fake", signing_key=teacher.signer.current)
    assert Pin.at_first_use(teacher, first) == Pin(ledger="fake", signing_key=first)  # its successor is endorsed
    with pytest.raises(ReceiptFault, match="does not follow"):
        Pin.at_first_use(teacher, "ab" * 32)
    with pytest.raises(ReceiptFault, match=r"signing key abab.* is demanded, but this teacher's server signs no"):
        Pin.at_first_use(FakeTeacher(), "ab" * 32)


def test_keys_that_do_not_follow_from_the_pinned_one_are_not_believed() -> None:
    teacher = FakeTeacher(signer=Signer())
    assert teacher.signer is not None
    pin = Pin.at_first_use(teacher)
    assert pin is not None
    stranger = Signer().keys[0]
    ours = teacher.signer.keys[0].model_copy(update={"retired_at": "2026"})
    for keys, message in (
        (None, "and now it shows no signing keys"),
        (SigningKeys(ledger="fake", keys=[stranger]), "does not follow"),
        (SigningKeys(ledger="fake", keys=[ours, stranger]), "does not follow"),
        (SigningKeys(ledger="fake", keys=[ours]), "none that is not retired"),
        (SigningKeys(ledger="another", keys=teacher.signer.keys), "ledger is 'another'"),
        (SigningKeys(ledger="fake", keys=[]), "none that is not retired"),
    ):
        with pytest.raises(ReceiptFault, match=message):
            pin.require_followed_by(keys)
    teacher.signer.rotate()
    teacher.signer.rotate()
    found = teacher.signing_keys()
    assert found is not None
    assert set(pin.require_followed_by(found)) == {key.fingerprint for key in found.keys}
    assert current_key(found).fingerprint == teacher.signer.current
