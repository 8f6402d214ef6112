"""The client's own count, for a teacher that keeps none: a chain of events in the store, as our server's ledger is.

Images are asked for durably before a byte of them leaves, and count as spent from then on. What comes of it is
written down after: they were answered (in the transaction that keeps the answer), released (known not to be charged),
or have failed (charged without an answer). What is none of these, after a timeout or a kill, stays spent, and is
unsettled: its charge is not known.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from distill_client.errors import BudgetExhausted, Charged, RunStoreError
from distill_client.teachers.paid.file import StoreFile
from distill_client.teachers.protocol import Answer
from shared.wire.contracts import EVENT_FORMAT, Event, EventKind, TeacherCard, Usage
from shared.wire.images import answer_digest
from shared.wire.receipts import GENESIS_HASH, chain_faults, disclosure_digest, event_hash

_SETTLING = ("answer", "release", "fail")


@dataclass(frozen=True)
class Unsettled:
    """Images that were asked for under a batch's key, whose charge is not known; ``sequence`` is the asking's."""

    sequence: int
    idempotency_key: str
    images: int
    asked_at: str


class OwnLedger:
    """The events of one run; every method from any thread."""

    def __init__(self, file: StoreFile) -> None:
        self._file = file

    @property
    def exists(self) -> bool:
        """Whether the run counts for itself."""
        return bool(self._file.read("SELECT 1 FROM own_events LIMIT 1"))

    def begin(self, name: str, card: TeacherCard, *, granted: int) -> Event:
        """The first event: ``granted`` images of ``card``'s teacher may be bought, by the run of that name."""
        return self._append("create", granted, card=card, key_name=name)

    def grant(self, images: int) -> Event:
        """Allow so many more."""
        return self._append("grant", images)

    def ask(self, idempotency_key: str, images: int, *, input_digest: str) -> Event:
        """Count images as spent, before they are sent. Raises BudgetExhausted, and nothing is counted then."""
        return self._append("ask", images, idempotency_key=idempotency_key, input_digest=input_digest)

    def settle(
        self,
        kind: Literal["answer", "release", "fail"],
        ask_sequence: int,
        images: int,
        *,
        input_digest: str = "",
        answer_digest: str = "",
        reason: str = "",
    ) -> Event:
        """Write down what came of (part of) an asking; an answer in the transaction that keeps it."""
        detail = {"ask": ask_sequence, **({"reason": reason[:500]} if reason else {})}
        return self._append(
            kind,
            images,
            asked=self._event(ask_sequence),
            input_digest=input_digest,
            answer_digest=answer_digest,
            detail=json.dumps(detail, sort_keys=True, separators=(",", ":")),
        )

    def events(self) -> list[Event]:
        """All events, oldest first. Raises RunStoreError."""
        rows = self._file.read("SELECT event FROM own_events ORDER BY sequence")
        return [Event.model_validate_json(text) for (text,) in rows]

    def faults(self) -> list[str]:
        """What is wrong with the chain, one sentence each; empty when it is sound."""
        return chain_faults(self.events())

    def usage(self) -> Usage:
        """What may be bought and what counts as spent."""
        last = self._last()
        granted, spent = (last.granted, last.spent) if last else (0, 0)
        return Usage(granted=granted, spent=spent, remaining=max(0, granted - spent))

    def unsettled(self) -> list[Unsettled]:
        """What was asked for and never settled, oldest first; empty while every answer came or was refused."""
        asked: dict[int, Event] = {}
        settled: defaultdict[int, int] = defaultdict(int)
        for event in self.events():
            if event.kind == "ask":
                asked[event.sequence] = event
            elif event.kind in _SETTLING:
                settled[json.loads(event.detail)["ask"]] += event.images
        return [
            Unsettled(sequence, event.idempotency_key, event.images - settled[sequence], event.at)
            for sequence, event in asked.items()
            if event.images > settled[sequence]
        ]

    def _last(self) -> Event | None:
        rows = self._file.read("SELECT event FROM own_events ORDER BY sequence DESC LIMIT 1")
        return Event.model_validate_json(rows[0][0]) if rows else None

    def _event(self, sequence: int) -> Event:
        rows = self._file.read("SELECT event FROM own_events WHERE sequence = ?", sequence)
        if not rows:
            raise RunStoreError(f"{self._file.path}: event {sequence} of the client's own ledger is gone")
        return Event.model_validate_json(rows[0][0])

    def _append(  # noqa: PLR0913 - one field of the event each
        self,
        kind: EventKind,
        images: int,
        *,
        card: TeacherCard | None = None,
        key_name: str = "",
        idempotency_key: str = "",
        asked: Event | None = None,
        input_digest: str = "",
        answer_digest: str = "",
        detail: str = "",
    ) -> Event:
        with self._file.transaction() as connection:
            last = self._last()
            if (last is None) != (kind == "create"):
                raise RunStoreError(f"{self._file.path}: event {kind} does not follow on {last and last.kind}")
            granted = (last.granted if last else 0) + (images if kind in ("create", "grant") else 0)
            spent = (last.spent if last else 0) + {"ask": images, "release": -images}.get(kind, 0)
            if kind == "ask" and spent > granted:
                raise BudgetExhausted(
                    f"{images} images more would make {spent} of the {granted} that this run may buy (max_queries "
                    "and max_cost of the teacher's file, counted by the client's own ledger)",
                    granted=granted,
                    spent=spent - images,
                )
            now = datetime.now(UTC).isoformat(timespec="microseconds")
            disclosure = card.disclosure if card else (last.disclosure if last else "")
            draft = Event(
                format=EVENT_FORMAT,
                sequence=last.sequence + 1 if last else 1,
                previous_hash=last.hash if last else GENESIS_HASH,
                kind=kind,
                at=max(now, last.at) if last else now,
                key_name=last.key_name if last else key_name,
                teacher=card.name if card else (last.teacher if last else ""),
                version=card.version if card else (last.version if last else ""),
                images=images,
                input_digest=input_digest or (asked.input_digest if asked else ""),
                answer_digest=answer_digest,
                disclosure=disclosure,
                idempotency_key=asked.idempotency_key if asked else idempotency_key,
                spent=spent,
                granted=granted,
                hash="0" * 64,
                disclosure_digest=disclosure_digest(disclosure),
                detail=detail,
            )
            event = draft.model_copy(update={"hash": event_hash(draft)})
            connection.execute("INSERT INTO own_events VALUES (?, ?)", (event.sequence, event.model_dump_json()))
        return event


def count_answer(ledger: OwnLedger, answer: Answer, input_digest: str) -> Answer:
    """Settle what the teacher did not count; ``input_digest`` is of the images that were answered.

    Returns the answer with the event that it is counted by, inside the transaction that keeps it.
    """
    kinds: tuple[tuple[Literal["release", "fail"], Charged], ...] = (("release", "no"), ("fail", "yes"))
    for kind, charged in kinds:
        found = [failure for failure in answer.failures.values() if failure.charged == charged]
        if found:
            ledger.settle(kind, answer.ask_sequence, len(found), reason=found[0].reason)
    values = answer.answered_values
    if not len(values):
        return replace(answer, charged=0)
    event = ledger.settle(
        "answer",
        answer.ask_sequence,
        len(values),
        input_digest=input_digest,
        answer_digest=answer_digest(values),
    )
    return replace(
        answer,
        charged=len(values),
        spent=event.spent,
        remaining=event.granted - event.spent,
        event_sequence=event.sequence,
        event_hash=event.hash,
    )
