"""The event chain: canonical bytes, the hash that links each event to the one before, and its verification.

Signatures over these bytes are in ``shared.wire.signatures``.
"""

import hashlib
import json
from collections.abc import Sequence

from shared.wire.contracts import PROBABILITY_DECIMALS, Event

GENESIS_HASH = "0" * 64
_FIELDS_OF_FORMAT_2 = frozenset({"format", "teacher_digest", "disclosure_digest", "detail"})


def canonical_bytes(event: Event) -> bytes:
    """The bytes an event's hash is taken over: JSON, sorted keys, no spaces, integers and strings only."""
    left_out = {"hash"} if event.format > 1 else {"hash"} | _FIELDS_OF_FORMAT_2
    fields = {name: value for name, value in event if name not in left_out}
    for name, value in fields.items():
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise TypeError(f"event field {name} is {value!r}; only integers and strings are canonical")
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def event_hash(event: Event) -> str:
    """SHA-256, in hex, over ``canonical_bytes(event)``."""
    return hashlib.sha256(canonical_bytes(event)).hexdigest()


def disclosure_digest(disclosure: str) -> str:
    """SHA-256, in hex, over canonical JSON of everything that a disclosure does to an answer.

    ``disclosure`` is the policy's whole text. ``decimals`` are those of a policy that names none; it stands here
    whatever the text says, so that every digest of before texts could name some stays what it was.
    """
    policy = {"decimals": PROBABILITY_DECIMALS, "disclosure": disclosure}
    return hashlib.sha256(json.dumps(policy, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def chain_faults(events: Sequence[Event], *, after: Event | None = None) -> list[str]:
    """Check one key's events in order; return what is wrong with them, one sentence each, empty when sound.

    ``after`` is the event just before the first one, None when the first one must open the chain.
    """
    faults: list[str] = []
    sequence, previous_hash = (after.sequence, after.hash) if after else (0, GENESIS_HASH)
    for event in events:
        if event.sequence != sequence + 1:
            faults.append(f"event {event.sequence} follows event {sequence}: one is missing, repeated or moved")
        if event.previous_hash != previous_hash:
            faults.append(f"event {event.sequence} does not continue the hash of the event before it")
        if event.hash != event_hash(event):
            faults.append(f"event {event.sequence} was edited: its content does not have its hash")
        sequence, previous_hash = event.sequence, event.hash
    return faults
