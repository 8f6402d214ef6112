import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distill_client.audit import Audit, Difference, TeacherLog, audit_run, read_log
from distill_client.teachers.native.receipts import Pin
from distill_client.teachers.paid.buying import buy_stage
from distill_client.teachers.paid.store import PaidLabels, Purchase
from distill_client.teachers.protocol import SignedEvent
from shared.wire.contracts import Event, EventSignature, Receipt, SigningKeys, Usage
from shared.wire.receipts import event_hash
from tests.distill_client.fakes import FakeTeacher, Signer, relinked


class Books:
    """What both sides hold after a run of 5 batches, with another run under the same key before and among them."""

    def __init__(self, store: PaidLabels, *, signs: bool = False) -> None:
        self.signer = Signer() if signs else None
        teacher = FakeTeacher(budget=500, signer=self.signer)
        self.pin = Pin.at_first_use(teacher)
        teacher.charge_other_run(11)
        images = np.random.default_rng(0).integers(0, 256, (18, 4, 4, 1), np.uint8)
        store.record_stage("pool", images[:8], images_per_request=4)
        store.record_stage("mixup", images[8:], images_per_request=4)
        for stage in ("pool", "mixup"):
            if signs and stage == "mixup":
                assert self.signer is not None
                self.signer.rotate()
            buy_stage(store, teacher, stage, card=teacher.card(), requests_in_flight=1, progress=lambda _: None)
            teacher.charge_other_run(5)
        teacher.append(kind="grant", images=7)
        self.purchases: list[Purchase] = store.purchases()
        self.keys = store.recorded_keys()
        self.events: list[Event] = list(teacher.events())
        self.signatures = dict(teacher.signatures)
        self.usage = teacher.usage()
        self.signing_keys = teacher.signing_keys()
        self.at = ""

    def audit(self) -> Audit:
        rows = [SignedEvent(event, self.signatures.get(event.hash, EventSignature())) for event in self.events]
        log = TeacherLog(tuple(rows), self.usage, self.signing_keys, at=self.at)
        trusted = self.pin.trusted(self.signing_keys) if self.pin is not None else None
        return audit_run(self.purchases, self.keys, log, pin=self.pin, trusted=trusted)

    def sign_again(self) -> None:
        """As an owner can who has the key and rewrites the log."""
        assert self.signer is not None
        self.signatures = {event.hash: self.signer.sign(event) for event in self.events}

    def ours(self) -> list[int]:
        """Where in the log this run's events stand."""
        return [index for index, event in enumerate(self.events) if event.idempotency_key in self.keys]

    def edit(self, index: int, **fields: object) -> None:
        self.events[index] = self.events[index].model_copy(update=fields)


@pytest.fixture
def signed(tmp_path: Path) -> Iterator[Books]:
    with closing(PaidLabels(tmp_path / "answers.sqlite", run_id="run-1")) as store:
        yield Books(store, signs=True)


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with closing(PaidLabels(tmp_path / "answers.sqlite", run_id="run-1")) as store:
        yield Books(store)


def test_honest_books_agree_and_other_runs_are_not_ours(books: Books) -> None:
    audit = books.audit()
    assert audit == Audit(18, 18, 18, 21, answers=5)
    assert audit.is_equal
    assert "counts not proved by receipts" in audit.sentence
    assert audit.describe() == "bought 18, charged 18, in the audit log 18"


def edit_images(books: Books) -> None:
    books.edit(books.ours()[1], images=3)


def edit_and_relink(books: Books) -> None:
    books.edit(books.ours()[1], input_digest="f" * 64)
    books.events = relinked(books.events)


def edit_answer_and_relink(books: Books) -> None:
    books.edit(books.ours()[2], answer_digest="e" * 64)
    books.events = relinked(books.events)


def remove(books: Books) -> None:
    del books.events[books.ours()[2]]


def remove_and_relink(books: Books) -> None:
    remove(books)
    books.events = relinked(books.events)


def remove_last(books: Books) -> None:
    books.events.pop()


def remove_first(books: Books) -> None:
    books.events.pop(0)


def remove_all(books: Books) -> None:
    books.events.clear()


def duplicate(books: Books) -> None:
    books.events.insert(books.ours()[1], books.events[books.ours()[1]])


def duplicate_and_relink(books: Books) -> None:
    duplicate(books)
    books.events = relinked(books.events)


def move(books: Books) -> None:
    first, second = books.ours()[1:3]
    books.events[first], books.events[second] = books.events[second], books.events[first]


def move_and_relink(books: Books) -> None:
    move(books)
    books.events = relinked(books.events)


def disown(books: Books) -> None:
    """The teacher calls one of our charges another run's."""
    books.edit(books.ours()[0], idempotency_key="somebody-else")
    books.events = relinked(books.events)


def other_runs_event_edited(books: Books) -> None:
    books.edit(1, images=10)


def last_event_of_other_run_inflated(books: Books) -> None:
    """After our last event the chain is not pinned by our receipts; the sums still are."""
    index = len(books.events) - 2
    books.edit(index, spent=books.events[index].spent + 100)
    books.events = relinked(books.events)


def spent_more(books: Books) -> None:
    books.usage = Usage(granted=507, spent=40, remaining=467)


def granted_less(books: Books) -> None:
    books.usage = Usage(granted=506, spent=39, remaining=467)


def remaining_less(books: Books) -> None:
    books.usage = Usage(granted=507, spent=39, remaining=400)


def answer_lost_here(books: Books) -> None:
    books.purchases.pop()


def version_here(books: Books) -> None:
    books.purchases[0] = replace(books.purchases[0], version="2")


def hash_here(books: Books) -> None:
    books.purchases[0] = replace(books.purchases[0], event_hash="0" * 64)


def bought_and_never_charged(books: Books) -> None:
    books.purchases.append(replace(books.purchases[0], idempotency_key="free"))
    books.keys |= {"free"}


@pytest.mark.parametrize(
    ("manipulate", "named"),
    [
        (edit_images, ["event 4 was edited", "images is 4 here and 3 there", "39 spent, its log adds up to 38"]),
        (edit_and_relink, ["input digest is .* here and f{64} there", "event hash is"]),
        (edit_answer_and_relink, ["answer digest is .* here and e{64} there", "event hash is"]),
        (remove, ["one is missing, repeated or moved", "stands 0 times in the teacher's log"]),
        (remove_and_relink, ["stands 0 times in the teacher's log", "spent, its log adds up to 35"]),
        (remove_last, ["507 granted, its log adds up to 500"]),
        (remove_first, ["event 2 follows event 0", "granted, its log adds up to 7"]),
        (remove_all, ["stands 0 times", "39 spent, its log adds up to 0"]),
        (duplicate, ["event 4 follows event 4", "stands 2 times in the teacher's log", "adds up to 43"]),
        (duplicate_and_relink, ["stands 2 times in the teacher's log", "adds up to 43"]),
        (move, ["one is missing, repeated or moved", "does not continue the hash"]),
        (move_and_relink, ["event sequence is 4 here and 6 there", "event hash is"]),
        (disown, ["stands 0 times in the teacher's log"]),
        (other_runs_event_edited, ["event 2 was edited", "39 spent, its log adds up to 38"]),
        (last_event_of_other_run_inflated, ["event 9 says 139 spent"]),
        (spent_more, ["says 40 spent, its log adds up to 39"]),
        (granted_less, ["says 506 granted, its log adds up to 507"]),
        (remaining_less, ["says 400 remaining of 507, 39 spent"]),
        (answer_lost_here, [r"\(2 images\) is charged, event 8, but .* is free, `distill resume` does it"]),
        (version_here, ["version is 2 here and 1 there"]),
        (hash_here, ["event hash is 0{64} here"]),
        (bought_and_never_charged, [r"batch free \(4 images\) stands 0 times"]),
    ],
)
def test_every_manipulation_is_named(books: Books, manipulate: Callable[[Books], None], named: list[str]) -> None:
    manipulate(books)
    audit = books.audit()
    assert not audit.is_equal
    everything = "\n".join(audit.faults)
    for message in named:
        assert re.search(message, everything), everything


def test_signed_books_agree_across_a_rotation_and_name_the_pinned_key(signed: Books) -> None:
    audit = signed.audit()
    assert audit.is_equal, audit.faults
    assert (audit.answers, audit.receipts, audit.recomputed) == (5, 5, 0)
    assert signed.pin is not None
    assert audit.pinned == signed.pin.signing_key
    assert audit.last_receipt is not None
    assert audit.last_receipt.event.sequence == 8
    assert audit.last_receipt.signing_key != audit.pinned
    assert audit.sentence == (
        "18 images were paid for: counted by the client, charged to the key, and in the log of the teacher's server, "
        "row by row the same; every one of the 5 answers has a receipt, the last for event 8, verified by the "
        f"signing key pinned as {audit.pinned}."
    )


def rewritten(books: Books) -> None:
    """The owner, who has the key, makes one batch smaller and the rest of the chain and counters fit."""
    books.edit(books.ours()[1], images=3)
    spent = 0
    for index, event in enumerate(books.events):
        spent += event.images if event.kind == "answer" else 0
        books.edit(index, spent=spent)
    books.events = relinked(books.events)
    books.sign_again()
    books.usage = Usage(granted=507, spent=spent, remaining=507 - spent)


def forged_rewriting(books: Books) -> None:
    """As that, by somebody without the key."""
    rewritten(books)
    books.signatures = {digest: books_signature(signature) for digest, signature in books.signatures.items()}


def books_signature(signature: EventSignature) -> EventSignature:
    return signature.model_copy(update={"signature": "00" * 64})


def tail_cut(books: Books) -> None:
    """The log, its counters with it, ends before our last two batches, as a restored backup does."""
    books.events = books.events[: books.ours()[3]]
    last = books.events[-1]
    books.usage = Usage(granted=last.granted, spent=last.spent, remaining=last.granted - last.spent)


def restored(books: Books) -> None:
    tail_cut(books)
    last = books.events[-1]
    restore = last.model_copy(update={"kind": "restore", "images": 0, "idempotency_key": ""})
    books.events = relinked([*books.events, restore])
    books.sign_again()


def signature_removed(books: Books) -> None:
    del books.signatures[books.events[3].hash]


def signature_swapped(books: Books) -> None:
    one, other = books.events[3].hash, books.events[4].hash
    books.signatures[one], books.signatures[other] = books.signatures[other], books.signatures[one]


def signed_by_a_stranger(books: Books) -> None:
    books.signatures[books.events[3].hash] = Signer().sign(books.events[3])


def keys_of_a_stranger(books: Books) -> None:
    books.signing_keys = SigningKeys(ledger="fake", keys=Signer().keys)


def endorsement_broken(books: Books) -> None:
    assert books.signing_keys is not None
    first, second = books.signing_keys.keys
    forged = second.model_copy(update={"endorsement": "00" * 64})
    books.signing_keys = books.signing_keys.model_copy(update={"keys": [first, forged]})


def stops_signing(books: Books) -> None:
    books.signing_keys = None
    assert books.pin is not None


def receipt_lost_here(books: Books) -> None:
    books.purchases[2] = replace(books.purchases[2], receipt_json=None)


def receipt_forged_here(books: Books) -> None:
    text = books.purchases[2].receipt_json
    assert text is not None
    receipt = Receipt.model_validate_json(text)
    event = receipt.event.model_copy(update={"images": 400})
    forged = receipt.model_copy(update={"event": event.model_copy(update={"hash": event_hash(event)})})
    books.purchases[2] = replace(books.purchases[2], receipt_json=forged.model_dump_json())


def receipt_damaged_here(books: Books) -> None:
    books.purchases[2] = replace(books.purchases[2], receipt_json="{")


def receipt_of_another_batch_here(books: Books) -> None:
    books.purchases[2] = replace(books.purchases[2], receipt_json=books.purchases[1].receipt_json)


def answer_changed_here(books: Books) -> None:
    books.purchases[2] = replace(books.purchases[2], answer_digest="e" * 64)


def two_histories(books: Books) -> None:
    """The teacher answered from a second chain after our third batch, and shows neither whole."""
    assert books.signer is not None
    purchase = books.purchases[3]
    assert purchase.receipt_json is not None
    event = Receipt.model_validate_json(purchase.receipt_json).event
    other = event.model_copy(update={"previous_hash": "d" * 64})
    other = other.model_copy(update={"hash": event_hash(other)})
    books.purchases[3] = replace(
        purchase, event_hash=other.hash, receipt_json=books.signer.receipt(other).model_dump_json()
    )


def export_is_older(books: Books) -> None:
    tail_cut(books)
    books.at = "2025-12-31T00:00:00.000000+00:00"


@pytest.mark.parametrize(
    ("manipulate", "kind", "named"),
    [
        (rewritten, "evidence", ["images is 4 here and 3 there", "has signed two different events 4: .*forked"]),
        (forged_rewriting, "evidence", ["with a signature that is none", "event 4 has a forged signature"]),
        (tail_cut, "evidence", ["log ends with event 6, and there is a receipt for event 8: its tail is cut off"]),
        (tail_cut, "evidence", ["with a receipt for event 7, and is not in the log, which ends with event 6"]),
        (restored, "evidence", ["the ledger was restored from a backup at 2026", "show it to the teacher's owner"]),
        (signature_removed, "log", ["event 4 is not signed"]),
        (signature_swapped, "log", ["event 4 has a forged signature", "event 5 has a forged signature"]),
        (signed_by_a_stranger, "log", ["event 4 is signed by .*, which is no key of this ledger"]),
        (keys_of_a_stranger, "log", ["do not follow from .*, which the run pinned"]),
        (endorsement_broken, "log", ["event 6 is signed by .*, which is no key of this ledger"]),
        (stops_signing, "log", ["which the run pinned|now it shows no signing keys"]),
        (receipt_lost_here, "here", ["has lost its receipt here"]),
        (receipt_forged_here, "here", ["forged, .*the run folder was changed"]),
        (receipt_damaged_here, "here", ["its receipt here is damaged"]),
        (receipt_of_another_batch_here, "here", ["its receipt is for batch"]),
        (answer_changed_here, "here", ["answer digest is e{64} here .* answers.sqlite was changed"]),
        (two_histories, "log", ["the receipt for event 7 does not continue that for 6|a fork"]),
        (two_histories, "evidence", ["has signed two different events 7"]),
        (
            export_is_older,
            "export",
            ["after the teacher's server was written .*ask the teacher's owner for a newer"],
        ),
    ],
)
def test_every_manipulation_of_signed_books_is_named(
    signed: Books, manipulate: Callable[[Books], None], kind: str, named: list[str]
) -> None:
    manipulate(signed)
    audit = signed.audit()
    assert not audit.is_equal
    everything = "\n".join(audit.faults)
    for message in named:
        assert re.search(message, everything), everything
    found = [difference for difference in audit.differences if difference.kind == kind]
    assert found, audit.differences
    assert all(difference.receipt is not None for difference in found) or kind != "evidence"


def test_an_export_that_is_older_than_the_last_answers_is_no_evidence(signed: Books) -> None:
    export_is_older(signed)
    assert {difference.kind for difference in signed.audit().differences} == {"export"}


def test_a_charge_without_an_answer_is_offered_again_and_no_evidence(signed: Books) -> None:
    signed.purchases.pop(1)
    (difference,) = signed.audit().differences
    assert difference.kind == "unfetched"


def test_an_answer_that_was_computed_again_may_have_another_digest_and_is_counted(signed: Books) -> None:
    signed.purchases[1] = replace(signed.purchases[1], answer_digest="a" * 64, is_recomputed=True)
    audit = signed.audit()
    assert audit.is_equal, audit.faults
    assert audit.sentence.endswith("(1 answers were computed again).")


def test_answers_from_before_the_server_signed_need_no_receipt(signed: Books) -> None:
    """The first three events are of format 1, and the run pinned afterwards; later ones may not be."""
    assert signed.pin is not None
    for index in range(3):
        signed.edit(index, format=1, disclosure_digest="")
    signed.events = relinked(signed.events)
    signed.sign_again()
    for event in signed.events[:3]:
        del signed.signatures[event.hash]
    for number, purchase in enumerate(signed.purchases):
        event = next(e for e in signed.events if e.idempotency_key == purchase.idempotency_key)
        receipt = None if number == 0 else signed.signer.receipt(event).model_dump_json()  # type: ignore[union-attr]
        signed.purchases[number] = replace(purchase, event_hash=event.hash, receipt_json=receipt)
    assert "has lost its receipt here" in "".join(signed.audit().faults)
    signed.pin = signed.pin.model_copy(update={"receipts_after": 3})
    audit = signed.audit()
    assert audit.is_equal, audit.faults
    assert "4 of 5 answers have a receipt, the others are from before the server signed" in audit.sentence
    del signed.signatures[signed.events[5].hash]
    assert "event 6 is not signed" in signed.audit().faults


def test_a_long_list_of_faults_is_cut_for_people() -> None:
    many = tuple(Difference("log", f"fault {number}") for number in range(25))
    audit = Audit(1, 2, 3, 0, many)
    assert audit.describe() == (
        "bought 1, charged 2, in the audit log 3; " + "; ".join(f"fault {n}" for n in range(10)) + "; ... and 15 more"
    )
    assert audit.sentence.endswith("in the log of the teacher's server; 25 differences): fault 0.")


def test_equal_rows_with_unequal_counts_are_not_equal() -> None:
    assert not Audit(5, 5, 6, 0).is_equal
    assert not Audit(5, 4, 5, 0).is_equal
    assert not Audit(5, 5, 5, 0, (Difference("log", "a fault"),)).is_equal


def test_nothing_bought_is_equal_to_nothing_charged() -> None:
    teacher = FakeTeacher()
    teacher.charge_other_run(9)
    audit = audit_run([], frozenset(), read_log(teacher))
    assert audit == Audit(0, 0, 0, 9)
    assert audit.is_equal
