"""A key's chain: whatever is done to it afterwards is found, wherever in the chain it is done."""

import json
from itertools import permutations
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.wire.contracts import Event
from shared.wire.receipts import GENESIS_HASH, canonical_bytes, chain_faults, event_hash


def sealed(event: Event) -> Event:
    return event.model_copy(update={"hash": event_hash(event)})


def make_chain(length: int, *, format: Literal[1, 2] = 2) -> list[Event]:
    chain: list[Event] = []
    for sequence in range(1, length + 1):
        event = Event(
            sequence=sequence,
            previous_hash=chain[-1].hash if chain else GENESIS_HASH,
            kind="create" if sequence == 1 else "answer",
            at=f"2026-01-02T03:04:05.{sequence:06}Z",
            key_name="ada",
            teacher="" if sequence == 1 else "digits-lenet5",
            version="" if sequence == 1 else "1",
            images=0 if sequence == 1 else 10,
            input_digest="" if sequence == 1 else f"{sequence:064x}",
            answer_digest="" if sequence == 1 else f"{sequence + 100:064x}",
            disclosure="probabilities",
            idempotency_key="" if sequence == 1 else f"batch-{sequence}",
            spent=10 * (sequence - 1),
            granted=1000,
            hash=GENESIS_HASH,
            format=format,
            teacher_digest="d" * 64 if sequence > 1 and format == 2 else "",
        )
        chain.append(sealed(event))
    return chain


CHAIN = make_chain(5)
EDITS = {
    "sequence": 99,
    "previous_hash": "f" * 64,
    "kind": "grant",
    "at": "2026-01-02T03:04:06.000000Z",
    "key_name": "eve",
    "teacher": "other",
    "version": "2",
    "images": 9,
    "input_digest": "a" * 64,
    "answer_digest": "b" * 64,
    "disclosure": "label",
    "idempotency_key": "batch-x",
    "spent": 1,
    "granted": 2000,
    "hash": "c" * 64,
    "format": 1,
    "teacher_digest": "e" * 64,
    "disclosure_digest": "f" * 64,
    "detail": "budget_exhausted",
}


def test_sound_chains_have_no_faults() -> None:
    assert chain_faults([]) == []
    for length in range(1, 6):
        assert chain_faults(CHAIN[:length]) == []


def test_a_chain_can_be_checked_page_by_page() -> None:
    assert chain_faults(CHAIN[:2]) == []
    assert chain_faults(CHAIN[2:], after=CHAIN[1]) == []
    assert chain_faults(CHAIN[2:]) != []
    assert chain_faults(CHAIN[3:], after=CHAIN[1]) != []


def test_events_of_servers_that_did_not_sign_yet_are_hashed_as_they_were() -> None:
    chain = make_chain(4, format=1)
    assert chain_faults(chain) == []
    assert "format" not in json.loads(canonical_bytes(chain[1]))
    for field in ("teacher_digest", "disclosure_digest", "detail"):
        with pytest.raises(ValidationError, match="an event of format 1 has no teacher_digest"):
            Event.model_validate(chain[1].model_dump() | {field: EDITS[field]})
    assert chain_faults([chain[0], chain[1].model_copy(update={"format": 2}), *chain[2:]]) != []


def test_the_edits_cover_every_field() -> None:
    assert set(EDITS) == set(Event.model_fields)


@pytest.mark.parametrize("field", EDITS)
@pytest.mark.parametrize("position", range(len(CHAIN)))
def test_an_edit_of_any_field_is_found(field: str, position: int) -> None:
    edited = list(CHAIN)
    edited[position] = CHAIN[position].model_copy(update={field: EDITS[field]})
    assert any("was edited" in fault for fault in chain_faults(edited))


@pytest.mark.parametrize("position", range(len(CHAIN) - 1))
def test_an_edit_with_its_hash_made_anew_breaks_the_next_link(position: int) -> None:
    """The last event has no next link; its hash is what the client remembers from the answer."""
    edited = list(CHAIN)
    edited[position] = sealed(CHAIN[position].model_copy(update={"images": 9}))
    assert chain_faults(edited) == [f"event {position + 2} does not continue the hash of the event before it"]


@pytest.mark.parametrize("position", range(len(CHAIN) - 1))
def test_a_deleted_event_is_missed(position: int) -> None:
    assert any("missing" in fault for fault in chain_faults(CHAIN[:position] + CHAIN[position + 1 :]))


@pytest.mark.parametrize("position", range(len(CHAIN)))
def test_a_repeated_event_is_found(position: int) -> None:
    assert any("repeated" in fault for fault in chain_faults([*CHAIN[: position + 1], *CHAIN[position:]]))


@pytest.mark.parametrize("position", range(1, len(CHAIN)))
def test_an_inserted_event_is_found_even_when_it_is_sealed(position: int) -> None:
    before = CHAIN[position - 1]
    forged = sealed(CHAIN[position].model_copy(update={"idempotency_key": "forged", "previous_hash": before.hash}))
    assert forged.sequence == before.sequence + 1
    assert chain_faults([*CHAIN[:position], forged, *CHAIN[position:]]) != []


def test_every_other_order_is_found() -> None:
    for order in permutations(CHAIN):
        assert (chain_faults(order) == []) == (list(order) == CHAIN)


def test_an_event_of_another_key_does_not_fit_in() -> None:
    other = sealed(CHAIN[2].model_copy(update={"key_name": "eve", "previous_hash": "e" * 64}))
    assert chain_faults([*CHAIN[:2], other, *CHAIN[3:]]) != []


def test_canonical_bytes_are_sorted_ascii_json_without_the_hash() -> None:
    event = CHAIN[1].model_copy(update={"key_name": "Zoë ☃"})
    content = canonical_bytes(event)

    assert content.isascii()
    fields = json.loads(content)
    assert list(fields) == sorted(set(Event.model_fields) - {"hash"})
    assert fields["key_name"] == "Zoë ☃"
    assert b": " not in content
    assert b", " not in content


@pytest.mark.parametrize("value", [1.0, True, None, ["1"]])
def test_only_integers_and_strings_are_canonical(value: object) -> None:
    with pytest.raises(TypeError, match="images"):
        canonical_bytes(CHAIN[1].model_copy(update={"images": value}))


@settings(deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_different_contents_have_different_bytes(first: str, second: str) -> None:
    """No choice of text in one field can pass for another field's."""
    one = CHAIN[1].model_copy(update={"teacher": first, "version": second})
    other = CHAIN[1].model_copy(update={"teacher": second, "version": first})
    assert (canonical_bytes(one) == canonical_bytes(other)) == (first == second)
