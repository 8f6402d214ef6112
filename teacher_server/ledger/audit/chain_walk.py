"""Walking one key's chain event by event, from a table's rows or a file's lines, and naming whatever is wrong."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from shared.counting import counted
from shared.wire.contracts import Event, Receipt
from shared.wire.receipts import GENESIS_HASH, event_hash
from shared.wire.signatures import is_signed_by
from teacher_server.ledger.audit.faults import Fault, shown
from teacher_server.ledger.audit.key_ring import KeyRing

_RESTRICTIONS = ("expires_at", "images_per_day", "images_per_second")


@dataclass
class ChainWalk:
    """Where a walk has come to; it may be continued later, with what was appended since.

    ``spent`` and ``granted`` are the sums of what the events say of images; ``said`` the last event's own sums.
    """

    key_name: str
    events: int = 0
    answers: int = 0
    sequence: int = 0
    hash: str = GENESIS_HASH
    at: str = ""
    spent: int = 0
    granted: int = 0
    said: tuple[int, int] = (0, 0)
    disclosure: str = ""
    is_revoked: bool = False
    unsigned: int = 0
    unpinned: int = 0
    restores: int = 0
    last_restore: int = 0
    signer_place: int = -1
    other_name: str = ""
    policy: dict[str, object] = field(default_factory=dict)

    def copy(self) -> "ChainWalk":
        """To go on from, with this one left as it is."""
        return replace(self, policy=dict(self.policy))

    def take(self, row: Mapping[str, Any], ring: KeyRing) -> tuple[Event | None, list[Fault]]:
        """Go on by one event, given as raw fields with ``signing_key`` and ``signature``; what is wrong with it."""
        self.events += 1
        try:
            event = Event.model_validate(row, strict=True)
            if type(row.get("format", 1)) is not int:  # pydantic takes True for 1
                raise TypeError("format")
        except TypeError:
            return None, self._unreadable(row, "format", row["format"])
        except ValidationError as error:
            found = error.errors()[0]
            if not found["loc"]:  # fields that are not of its format
                return None, self._unreadable(row, "format", row.get("format", 1))
            return None, self._unreadable(row, ".".join(map(str, found["loc"])), found["input"])
        faults = [*self._link_faults(event), *self._sum_faults(event), *self._signature_faults(row, event, ring)]
        if event.key_name not in (self.key_name, self.other_name):
            faults.append(f"names key {shown(event.key_name)}")
            self.other_name = event.key_name  # one fault where all of them do, because the key was renamed
        if (event.kind == "create") != (self.events == 1):
            faults.append(f"is of kind {event.kind}; a chain has create as its first event and nowhere else")
        if event.format > 1 and event.at < self.at:
            faults.append(f"time goes backwards, from {self.at} to {shown(event.at)}")
        self.sequence, self.hash, self.at = event.sequence, event.hash, event.at
        self.disclosure = event.disclosure
        if event.kind in ("create", "policy") and event.format > 1:
            self.policy |= told_policy(event)
        self.answers += event.kind == "answer"
        self.is_revoked = self.is_revoked or event.kind == "revoke"
        if event.kind == "restore":
            self.restores, self.last_restore = self.restores + 1, event.sequence
        return event, [self._fault(event.sequence, what) for what in faults]

    def row_faults(self, row: Mapping[str, Any]) -> list[Fault]:
        """The key's own row against what its events say of it."""
        faults = self.counter_faults(spent=row["spent"], granted=row["granted"])
        if self.events == 0:
            return [*faults, self._fault(None, "has no events; the first of a chain tells of its creation")]
        told = {"disclosure": self.disclosure, **self.policy}
        for name, value in told.items():
            if row[name] != value:
                faults.append(self._fault(None, f"its row says {name} {shown(row[name])}, its events {shown(value)}"))
        if bool(row["revoked_at"]) != self.is_revoked:  # as is asked of it: an empty text would not revoke
            faults.append(self._fault(None, "its row and its events differ on whether it was revoked"))
        return faults

    def counter_faults(self, *, spent: object, granted: object) -> list[Fault]:
        """The counters against the sums of the events walked."""
        pairs = (("spent", spent, self.spent), ("granted", granted, self.granted))
        return [
            self._fault(None, f"the counter says {shown(counter)} {name}, the events add up to {total}")
            for name, counter, total in pairs
            if type(counter) is not int or counter != total
        ]

    def _fault(self, sequence: int | None, what: str) -> Fault:
        return Fault(self.key_name, sequence, what)

    def skip(self) -> None:
        """Go on by an event of which nothing at all can be read."""
        self.events, self.sequence, self.hash = self.events + 1, self.sequence + 1, ""

    def _unreadable(self, row: Mapping[str, Any], place: str, value: object) -> list[Fault]:
        # What can still be read of it keeps the fault to this one event.
        sequence, own_hash = row.get("sequence"), row.get("hash")
        self.sequence = sequence if type(sequence) is int else self.sequence + 1
        self.hash = own_hash if isinstance(own_hash, str) else ""
        return [self._fault(self.sequence, f"cannot be read: {place} is {shown(value)}")]

    def _link_faults(self, event: Event) -> list[str]:
        faults = []
        if event.sequence == self.sequence and self.events > 1:
            faults.append("is there twice")
        elif event.sequence <= self.sequence:
            faults.append(f"is out of order: it stands after event {self.sequence}")
        elif event.sequence > self.sequence + 1:
            last = event.sequence - 1
            gap = f"event {last} is" if last == self.sequence + 1 else f"events {self.sequence + 1} to {last} are"
            faults.append(f"{gap} missing before it")
        if self.hash and event.previous_hash != self.hash:
            faults.append("does not continue the hash of the event before it")
        if event.hash != event_hash(event):
            faults.append("was edited: its content does not have its hash")
        return faults

    def _sum_faults(self, event: Event) -> list[str]:
        spends = event.images if event.kind == "answer" else 0
        grants = event.images if event.kind in ("create", "grant") else 0
        wanted = (self.said[0] + spends, self.said[1] + grants)
        self.spent, self.granted = self.spent + spends, self.granted + grants
        self.said = (event.spent, event.granted)  # so that one wrong sum is one fault
        faults = []
        if self.said != wanted:
            faults.append(
                f"says {event.spent} spent of {event.granted} after it, the log adds up to {wanted[0]} of {wanted[1]}"
            )
        if event.images < (1 if event.kind == "answer" else 0):
            faults.append(f"is about {counted(event.images, 'image')}")
        if not 0 <= event.spent <= event.granted:
            faults.append(f"has {event.spent} spent of {event.granted}")
        return faults

    def _signature_faults(self, row: Mapping[str, Any], event: Event, ring: KeyRing) -> list[str]:
        signing_key, signature = row.get("signing_key", ""), row.get("signature", "")
        if event.format == 1:
            return self._unsigned_faults(event, ring, has_signature=bool(signing_key or signature))
        if not signature:
            return ["its signature is missing"]
        try:
            receipt = Receipt.model_validate(
                {"event": event, "signing_key": signing_key, "signature": signature}, strict=True
            )
        except ValidationError:
            return ["its signature is none: it cannot be read"]
        key = ring.keys.get(receipt.signing_key)
        if key is None:
            return [f"is signed by {receipt.signing_key[:16]}, which is no key of this ledger that anybody endorsed"]
        if not is_signed_by(key.public_key, event, receipt.signature):
            return [f"its signature is forged: it is not that of {receipt.signing_key[:16]}"]
        place = ring.place[key.fingerprint]
        faults = []
        if place < self.signer_place or (key.retired_at is not None and event.at > key.retired_at):
            retired_at = key.retired_at or "an earlier event"
            faults.append(f"is signed by {key.fingerprint[:16]}, which was retired at {retired_at}, before it")
        self.signer_place = max(self.signer_place, place)
        if key.fingerprint in ring.pinned:
            self.unpinned = 0  # it vouches for all that its hash covers
        else:
            self.unpinned += 1
        return faults

    def _unsigned_faults(self, event: Event, ring: KeyRing, *, has_signature: bool) -> list[str]:
        self.unsigned += 1
        if has_signature:
            return ["has a signature, but events of format 1 have none"]
        if self.signer_place >= 0:
            return ["is not signed (format 1), but events before it are"]
        if ring.first is not None and event.at > ring.first.created_at:
            return [f"is not signed (format 1), but the ledger signs since {ring.first.created_at}"]
        return []


def told_policy(event: Event) -> dict[str, object]:
    """What a create or policy event says of the key's restrictions from then on, None where it has none of a kind."""
    try:
        detail = json.loads(event.detail or "{}")
        if event.kind == "create":
            return {name: detail.get(name) for name in _RESTRICTIONS}
        told = {name: detail[name]["new"] for name in _RESTRICTIONS if name in detail}
        return {name: None if value == "none" else value for name, value in told.items()}
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return {}  # whoever made it up had no signing key, and that is a fault already
