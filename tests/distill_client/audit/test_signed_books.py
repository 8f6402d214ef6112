"""Audits of a signed log: what contradicts a receipt, a chain or an endorsement is named."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from distill_client.teachers.paid.store import PaidLabels
from shared.wire.contracts import EventSignature, Receipt, SigningKeys, Usage
from shared.wire.receipts import event_hash
from tests.distill_client.audit.books import Books
from tests.distill_client.fakes import Signer, relinked


@pytest.fixture
def signed(tmp_path: Path) -> Iterator[Books]:
    with closing(PaidLabels(tmp_path / "answers.sqlite", run_id="run-1")) as store:
        yield Books(store, signs=True)


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
