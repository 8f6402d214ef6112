"""The public keys of a ledger, judged: which follow from the first by endorsements, and in what order."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from shared.wire.contracts import SigningKey
from shared.wire.signatures import fingerprint_of_hex, trusted_keys
from teacher_server.ledger.audit.faults import shown


@dataclass(frozen=True)
class KeyRing:
    """The keys that may sign. ``place`` is a key's number in the line of endorsements, from 0.

    ``pinned`` are those that follow from the pinned key; all of them where none is pinned.
    """

    keys: dict[str, SigningKey] = field(default_factory=dict)
    place: dict[str, int] = field(default_factory=dict)
    pinned: frozenset[str] = frozenset()
    faults: tuple[str, ...] = ()

    @property
    def first(self) -> SigningKey | None:
        """The key that needs no endorsement."""
        return next((self.keys[name] for name, place in self.place.items() if place == 0), None)


def read_key_ring(rows: Sequence[Mapping[str, Any]], pin: str | None = None) -> KeyRing:
    """Judge the rows of signing_keys, or the same from a document; never raises for what they hold."""
    keys: dict[str, SigningKey] = {}
    faults = []
    for row in rows:
        try:
            key = SigningKey.model_validate(row, strict=True)
        except ValidationError as error:
            field_at_fault = ".".join(map(str, error.errors()[0]["loc"]))
            faults.append(f"signing key {shown(_fingerprint_in(row))} cannot be read: {field_at_fault}")
            continue
        if key.fingerprint != fingerprint_of_hex(key.public_key):
            faults.append(f"signing key {key.fingerprint} is not the fingerprint of its public key")
        elif key.fingerprint in keys:
            faults.append(f"signing key {key.fingerprint} is there twice")
        else:
            keys[key.fingerprint] = key
    first = min((key for key in keys.values() if not key.endorsed_by), key=lambda key: key.created_at, default=None)
    if first is None:
        return KeyRing(faults=(*faults, "no signing key that could be the first"))
    trusted = trusted_keys(list(keys.values()), first.fingerprint)
    faults += [f"signing key {name}: nobody endorsed it" for name in keys if name not in trusted]
    followers = Counter(keys[name].endorsed_by for name in trusted)
    faults += [f"signing key {name}: two keys claim to follow it" for name, times in followers.items() if times > 1]
    in_use = [name for name in trusted if keys[name].retired_at is None]
    if len(in_use) != 1:
        faults.append(f"{len(in_use)} signing keys are in use; one must be")
    pinned = frozenset(trusted)
    if pin is not None:
        pinned = frozenset(trusted_keys(list(keys.values()), pin))
        if not pinned:
            faults.append(f"the pinned key {pin} is none of this ledger's")
    ring = {name: keys[name] for name in trusted}
    return KeyRing(ring, {name: _place(name, ring) for name in ring}, pinned, tuple(faults))


def _fingerprint_in(row: object) -> object:
    return row.get("fingerprint") if isinstance(row, Mapping) else row


def _place(name: str, ring: dict[str, SigningKey]) -> int:
    place = 0
    while endorsed_by := ring[name].endorsed_by:
        name, place = endorsed_by, place + 1
    return place
