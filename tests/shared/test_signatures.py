"""Ed25519 over events and successors: what verifies, and that nothing else does."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from shared.wire.contracts import Event, Receipt, SigningKey
from shared.wire.receipts import GENESIS_HASH, canonical_bytes, event_hash
from shared.wire.signatures import (
    endorse,
    fingerprint,
    fingerprint_of_hex,
    is_signed_by,
    receipt_faults,
    sign_event,
    trusted_keys,
)
from tests.shared.test_receipts import EDITS

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(4)]
HEX = [key.public_key().public_bytes_raw().hex() for key in KEYS]


def event(**fields: object) -> Event:
    content = {name: "" for name in Event.model_fields} | {
        "sequence": 1, "previous_hash": GENESIS_HASH, "kind": "answer", "images": 3, "spent": 3, "granted": 9,
        "hash": GENESIS_HASH, "format": 2, "key_name": "ada",
    }  # fmt: skip
    unhashed = Event.model_validate(content | fields)
    return unhashed.model_copy(update={"hash": event_hash(unhashed)})


def signing_key(number: int, by: int | None = None, **fields: str) -> SigningKey:
    public = KEYS[number].public_key()
    endorsed = {} if by is None else {
        "endorsed_by": fingerprint(KEYS[by].public_key()), "endorsement": endorse(KEYS[by], public)}  # fmt: skip
    content = {"fingerprint": fingerprint(public), "public_key": HEX[number], "created_at": f"202{number}"}
    return SigningKey.model_validate(content | endorsed | fields)


def receipt(signed: Event, number: int = 0) -> Receipt:
    return Receipt(
        event=signed,
        signing_key=fingerprint(KEYS[number].public_key()),
        signature=sign_event(KEYS[number], signed),
    )


def test_a_signature_is_over_every_field() -> None:
    signed = event()
    signature = sign_event(KEYS[0], signed)
    assert is_signed_by(HEX[0], signed, signature)
    for field, value in EDITS.items():
        if field != "hash":  # it is made of the others
            assert not is_signed_by(HEX[0], signed.model_copy(update={field: value}), signature), field
    assert not is_signed_by(HEX[1], signed, signature)


@given(st.text(max_size=140))
def test_what_is_no_signature_verifies_nothing(text: str) -> None:
    assert not is_signed_by(HEX[0], event(), text)
    assert not is_signed_by(text, event(), sign_event(KEYS[0], event()))
    assert fingerprint_of_hex(text) != fingerprint(KEYS[0].public_key())


def test_one_kind_of_signature_never_passes_for_another() -> None:
    """What a client could have signed as one thing must not be of use as the other."""
    bare = KEYS[0].sign(canonical_bytes(event())).hex()
    assert not is_signed_by(HEX[0], event(), bare)
    key = signing_key(1, 0)
    for wrong in (KEYS[0].sign(KEYS[1].public_key().public_bytes_raw()).hex(), sign_event(KEYS[0], event())):
        forged = key.model_copy(update={"endorsement": wrong})
        assert list(trusted_keys([signing_key(0), forged], key.endorsed_by)) == [key.endorsed_by]


def test_trust_follows_endorsements_forwards_only() -> None:
    line = [signing_key(0), signing_key(1, 0), signing_key(2, 1)]
    names = [key.fingerprint for key in line]
    for order in (line, line[::-1]):
        assert set(trusted_keys(order, names[0])) == set(names)
        assert set(trusted_keys(order, names[1])) == set(names[1:])
    assert trusted_keys(line, "f" * 64) == {}
    assert set(trusted_keys([line[0], line[2]], names[0])) == {names[0]}, "its endorser is not known"


@pytest.mark.parametrize(
    "change",
    [{"endorsement": "0" * 128}, {"endorsed_by": fingerprint(KEYS[3].public_key())}, {"endorsed_by": ""},
     {"public_key": HEX[3]}, {"fingerprint": fingerprint(KEYS[3].public_key())}],
)  # fmt: skip
def test_a_key_that_is_not_endorsed_is_not_trusted(change: dict[str, str]) -> None:
    keys = [signing_key(0), signing_key(1, 0, **change)]
    assert set(trusted_keys(keys, keys[0].fingerprint)) == {keys[0].fingerprint}


def test_keys_that_endorse_each_other_are_trusted_by_nobody() -> None:
    first = signing_key(0)
    circle = [first, signing_key(1, 2), signing_key(2, 1)]
    assert set(trusted_keys(circle, first.fingerprint)) == {first.fingerprint}


def test_receipts() -> None:
    trusted = {fingerprint(KEYS[0].public_key()): HEX[0]}
    assert receipt_faults(receipt(event()), trusted) == []
    assert "no key of this ledger" in receipt_faults(receipt(event(), 1), trusted)[0]
    forged = receipt(event()).model_copy(update={"event": event(images=4)})
    assert "forged" in receipt_faults(forged, trusted)[0]
    unsealed = event().model_copy(update={"hash": "f" * 64})
    assert "does not have its hash" in receipt_faults(receipt(unsealed), trusted)[0]
