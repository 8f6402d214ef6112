"""The client's own count, for a teacher that keeps none: a chain of events in the store, as our server's ledger is.

Images are asked for durably before a byte of them leaves, and count as spent from then on. What comes of it is
written down after: they were answered (in the transaction that keeps the answer), released (known not to be charged),
or have failed (charged without an answer). What is none of these, after a timeout or a kill, stays spent, and is
unsettled: its charge is not known. ``own_counts`` adds the events up.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from distill_client.errors import BudgetExhausted, Charged, RunStoreError
from distill_client.teachers.paid.allowance import Allowance
from distill_client.teachers.paid.file import StoreFile
from distill_client.teachers.paid.own_counts import OwnCounts, count_events
from distill_client.teachers.protocol import Answer
from shared.wire.contracts import EVENT_FORMAT, Event, EventKind, TeacherCard, Usage
from shared.wire.images import answer_digest, batch_digest
from shared.wire.receipts import GENESIS_HASH, disclosure_digest, event_hash

_DIGEST_BYTES = 32
_REASON_CHARACTERS_MAX = 500


@dataclass(frozen=True)
class Asking:
    """Images that were asked for: the event that counted them, and the SHA-256 of each, in order.

    ``open`` of them are not settled. ``is_new``: counted just now, not by an attempt before.
    """

    sequence: int
    idempotency_key: str
    digests: tuple[bytes, ...]
    open: int
    is_new: bool = False


class OwnLedger:
    """The events of one run; every method from any thread."""

    def __init__(self, file: StoreFile) -> None:
        self._file = file

    @property
    def exists(self) -> bool:
        """Whether the run counts for itself."""
        return bool(self._file.read("SELECT 1 FROM own_events LIMIT 1"))

    def begin(self, name: str, card: TeacherCard, allowance: Allowance) -> Event:
        """The first event: what may be bought of ``card``'s teacher, by the run of that name."""
        with self._file.transaction() as connection:
            detail = allowance.as_detail()
            return self._append(connection, "create", allowance.granted(), card=card, key_name=name, detail=detail)

    def allow(self, allowance: Allowance) -> Event | None:
        """Allow what the teacher's file allows by now, more or less than before; None where nothing has changed.

        What is spent stays allowed. Raises RunStoreError when the events cannot be added up.
        """
        with self._file.transaction() as connection:
            counts = self.counts()
            granted = max(counts.spent, allowance.granted(counts.spent, counts.cost))
            if (granted, allowance) == (counts.granted, counts.allowance):
                return None
            return self._append(connection, "grant", granted - counts.granted, detail=allowance.as_detail())

    def ask(self, idempotency_key: str, digests: Sequence[bytes], *, is_charged_once: bool = False) -> Asking:
        """Count the images of these digests as spent, before they are sent.

        Where the teacher charges one key once, and these very images were asked for under it before, to an outcome
        that is not known, they are counted already. Raises BudgetExhausted, and nothing is counted then.
        """
        with self._file.transaction() as connection:
            if is_charged_once and (asking := self._open_asking(idempotency_key, digests)):
                return asking
            event = self._append(
                connection,
                "ask",
                len(digests),
                idempotency_key=idempotency_key,
                input_digest=batch_digest(list(digests)),
            )
            asking = Asking(event.sequence, idempotency_key, tuple(digests), len(digests), is_new=True)
            row = (asking.sequence, idempotency_key, b"".join(digests), asking.open)
            connection.execute("INSERT INTO own_asks VALUES (?, ?, ?, ?)", row)
        return asking

    def settle(
        self,
        kind: Literal["answer", "release", "fail"],
        ask_sequence: int,
        places: Sequence[int] | None = None,
        *,
        answer_digest: str = "",
        reason: str = "",
    ) -> Event:
        """Write down what came of an asking, or of the images at ``places`` of it; an answer with what keeps it.

        Raises RunStoreError when they were not asked for, or are settled already.
        """
        with self._file.transaction() as connection:
            asking = self.asking(ask_sequence)
            digests = asking.digests if places is None else tuple(asking.digests[place] for place in places)
            detail: dict[str, object] = {"ask": ask_sequence}
            if len(digests) != len(asking.digests):
                detail["places"] = list(places or ())
            if reason:
                detail["reason"] = reason[:_REASON_CHARACTERS_MAX]
            changed = connection.execute(
                "UPDATE own_asks SET open = open - ? WHERE sequence = ? AND open >= ?",
                (len(digests), ask_sequence, len(digests)),
            )
            if not digests or changed.rowcount != 1:
                raise RunStoreError(
                    f"{self._file.path}: {len(digests)} images of asking {ask_sequence} cannot be settled as "
                    f"{kind}: {asking.open} of its {len(asking.digests)} are unsettled"
                )
            return self._append(
                connection,
                kind,
                len(digests),
                idempotency_key=asking.idempotency_key,
                input_digest=batch_digest(list(digests)),
                answer_digest=answer_digest,
                detail=json.dumps(detail, sort_keys=True, separators=(",", ":")),
            )

    def events(self) -> list[Event]:
        """All events, oldest first. Raises RunStoreError."""
        rows = self._file.read("SELECT event FROM own_events ORDER BY sequence")
        return [self._parsed(text) for (text,) in rows]

    def askings(self) -> list[Asking]:
        """All askings, oldest first. Raises RunStoreError."""
        rows = self._file.read("SELECT sequence, idempotency_key, digests, open FROM own_asks ORDER BY sequence")
        return [_asking(*row) for row in rows]

    def asking(self, sequence: int) -> Asking:
        """The asking that this event counted. Raises RunStoreError when there is none."""
        rows = self._file.read(
            "SELECT sequence, idempotency_key, digests, open FROM own_asks WHERE sequence = ?", sequence
        )
        if not rows:
            raise RunStoreError(f"{self._file.path}: nothing was asked for by event {sequence} of the own ledger")
        return _asking(*rows[0])

    def counts(self) -> OwnCounts:
        """The events, added up. Raises RunStoreError when they contradict themselves."""
        askings = {asking.sequence: asking.digests for asking in self.askings()}
        return count_events(self.events(), askings, where=str(self._file.path))

    def usage(self) -> Usage:
        """What may be bought and what counts as spent."""
        last = self._last()
        granted, spent = (last.granted, last.spent) if last else (0, 0)
        return Usage(granted=granted, spent=spent, remaining=max(0, granted - spent))

    def _open_asking(self, idempotency_key: str, digests: Sequence[bytes]) -> Asking | None:
        rows = self._file.read(
            "SELECT sequence, idempotency_key, digests, open FROM own_asks WHERE idempotency_key = ? AND open > 0 "
            "ORDER BY sequence DESC",
            idempotency_key,
        )
        found = (_asking(*row) for row in rows)
        return next((each for each in found if each.digests == tuple(digests) and each.open == len(digests)), None)

    def _last(self) -> Event | None:
        rows = self._file.read("SELECT event FROM own_events ORDER BY sequence DESC LIMIT 1")
        return self._parsed(rows[0][0]) if rows else None

    def _parsed(self, text: str) -> Event:
        try:
            return Event.model_validate_json(text)
        except ValueError as error:
            raise RunStoreError(f"{self._file.path}: an event of the client's own ledger is damaged") from error

    def _append(  # noqa: PLR0913 - one field of the event each
        self,
        connection: sqlite3.Connection,
        kind: EventKind,
        images: int,
        *,
        card: TeacherCard | None = None,
        key_name: str = "",
        idempotency_key: str = "",
        input_digest: str = "",
        answer_digest: str = "",
        detail: str = "",
    ) -> Event:
        last = self._last()
        if (last is None) != (kind == "create"):
            raise RunStoreError(f"{self._file.path}: event {kind} does not follow on {last and last.kind}")
        granted = (last.granted if last else 0) + (images if kind in ("create", "grant") else 0)
        spent = (last.spent if last else 0) + {"ask": images, "release": -images}.get(kind, 0)
        if kind == "ask" and spent > granted:
            raise BudgetExhausted(_over(images, spent, granted), granted=granted, spent=spent - images)
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
            input_digest=input_digest,
            answer_digest=answer_digest,
            disclosure=disclosure,
            idempotency_key=idempotency_key,
            spent=spent,
            granted=granted,
            hash="0" * 64,
            disclosure_digest=disclosure_digest(disclosure),
            detail=detail,
        )
        event = draft.model_copy(update={"hash": event_hash(draft)})
        connection.execute("INSERT INTO own_events VALUES (?, ?)", (event.sequence, event.model_dump_json()))
        return event


def _asking(sequence: int, idempotency_key: str, digests: bytes, open_images: int) -> Asking:
    cut = tuple(digests[start : start + _DIGEST_BYTES] for start in range(0, len(digests), _DIGEST_BYTES))
    return Asking(sequence, idempotency_key, cut, open_images)


def _over(images: int, spent: int, granted: int) -> str:
    return (
        f"{images} more would make {spent} of the {granted} images that this run may ask for (max_queries and "
        "max_cost of the teacher's file, counted by the client's own ledger); they were not sent. To allow more, "
        "raise them and `distill resume RUN --teacher FILE`; images whose charge is not known count too: "
        "`distill settle` lists them"
    )


def count_answer(ledger: OwnLedger, answer: Answer) -> Answer:
    """Settle what the teacher did not count; returns the answer with the event that it is counted by.

    To be called inside the transaction that keeps the answer.
    """
    kinds: tuple[tuple[Literal["release", "fail"], Charged], ...] = (("release", "no"), ("fail", "yes"))
    for kind, charged in kinds:
        places = [place for place, failure in answer.failures.items() if failure.charged == charged]
        if places:
            ledger.settle(kind, answer.ask_sequence, places, reason=answer.failures[places[0]].reason)
    values = answer.answered_values
    if not len(values):
        return replace(answer, charged=0)
    answered = [place for place in range(len(answer.values)) if place not in answer.failures]
    event = ledger.settle("answer", answer.ask_sequence, answered, answer_digest=answer_digest(values))
    return replace(
        answer,
        charged=len(values),
        spent=event.spent,
        remaining=event.granted - event.spent,
        event_sequence=event.sequence,
        event_hash=event.hash,
    )
