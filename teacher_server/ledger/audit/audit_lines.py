"""One key's history, or a client's receipts, as JSON lines.

An export begins with ``{"export": {...}}``; every other line is ``{"event": {...}, "signing_key": ..., "signature":
...}``, oldest first. What a client holds has the same lines, with or without the first.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Connection, func, select

from shared.wire.contracts import Event, EventSignature
from shared.wire.receipts import GENESIS_HASH
from teacher_server.errors import OperatorError
from teacher_server.ledger.audit.faults import shown
from teacher_server.ledger.audit.raw_rows import EVENTS, KEYS, Unreadable, read_rows
from teacher_server.ledger.chain.signing import ledger_name, list_signing_keys
from teacher_server.ledger.clock import now
from teacher_server.ledger.databases.database import Database

LINE_CHARACTERS_MAX = 65_536
_PAGE_EVENTS = 1000
_EVENT_FIELDS = tuple(Event.model_fields)
_SIGNATURE_FIELDS = tuple(EventSignature.model_fields)


class ExportHeader(BaseModel):
    """The first line of an export: what the ledger said of the key at that moment."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    key_name: str
    ledger: str
    granted: int
    spent: int
    events: int
    last_hash: str
    signing_keys: list[dict[str, Any]]
    at: str


def write_export(database: Database, key_name: str, stream: IO[str]) -> ExportHeader:
    """Write one key's history, as it is at one moment, also one that an audit would fault.

    Raises OperatorError for an unknown key, for rows that no line can hold and for a stream that takes no more,
    Refusal(ledger_unavailable).
    """
    with database.reading() as connection:
        try:
            header, key_id = _header(connection, key_name)
            _write(stream, {"export": header.model_dump()})
            after: int | None = None
            while rows := _page(connection, key_id, after):
                for row in rows:
                    _write(stream, _as_line(row))
                after = rows[-1]["sequence"]
        except (Unreadable, TypeError, ValidationError) as error:
            raise OperatorError(
                f"key {key_name!r} cannot be exported, a row of it cannot be read; `teacher audit verify` says which"
            ) from error
    return header


def _write(stream: IO[str], line: dict[str, Any]) -> None:
    try:
        stream.write(json.dumps(line) + "\n")
    except OSError as error:  # said here: out there it would be taken for the ledger's
        raise OperatorError(f"the history cannot be written: {error.strerror}") from error


def _header(connection: Connection, key_name: str) -> tuple[ExportHeader, int]:
    keys = {row["name"]: row for row in read_rows(connection, select(KEYS.c.id, KEYS.c.name))}
    if key_name not in keys:
        raise OperatorError(f"key is {shown(key_name)!r}, but there is no such key; `teacher keys list` shows them")
    key_id = keys[key_name]["id"]
    counters = read_rows(connection, select(KEYS.c.granted, KEYS.c.spent).where(KEYS.c.id == key_id))[0]
    own = EVENTS.c.key_id == key_id
    last = read_rows(connection, select(EVENTS.c.hash).where(own).order_by(EVENTS.c.sequence.desc()).limit(1))
    header = ExportHeader(
        key_name=key_name,
        ledger=ledger_name(connection),
        granted=counters["granted"],
        spent=counters["spent"],
        events=connection.execute(select(func.count()).select_from(EVENTS).where(own)).scalar_one(),
        last_hash=last[0]["hash"] if last else GENESIS_HASH,
        signing_keys=[key.model_dump() for key in list_signing_keys(connection)],
        at=now(),
    )
    return header, key_id


def _page(connection: Connection, key_id: int, after: int | None) -> list[dict[str, Any]]:
    own = select(EVENTS).where(EVENTS.c.key_id == key_id)
    if after is not None:
        own = own.where(EVENTS.c.sequence > after)
    return read_rows(connection, own.order_by(EVENTS.c.sequence).limit(_PAGE_EVENTS))


def _as_line(row: dict[str, Any]) -> dict[str, Any]:
    event = {name: row[name] for name in _EVENT_FIELDS}
    return {"event": event, **{name: row[name] for name in _SIGNATURE_FIELDS}}


def read_lines(file: Path) -> Iterator[tuple[int, object]]:
    """Number and content of each line, None for what is no JSON. Raises OperatorError for what is no text file."""
    try:
        with file.open(encoding="utf-8") as stream:
            number = 0
            while line := stream.readline(LINE_CHARACTERS_MAX):
                number += 1
                if len(line) == LINE_CHARACTERS_MAX:
                    raise OperatorError(f"{file}: line {number} has more than {LINE_CHARACTERS_MAX} characters")
                yield number, _parse(line)
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _parse(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def parse_header(file: Path, content: object) -> ExportHeader:
    """The first line of an export. Raises OperatorError when it is none."""
    if not isinstance(content, dict) or "export" not in content:
        raise OperatorError(
            f"{file} is no export: its first line is not {{'export': ...}}; see `teacher audit export`"
        )
    try:
        return ExportHeader.model_validate(content["export"])
    except ValidationError as error:
        found = error.errors()[0]
        raise OperatorError(f"{file}: export, {'.'.join(map(str, found['loc']))}: {found['msg']}") from error


def event_row(content: object) -> dict[str, Any] | None:
    """The fields of an event's line, as a table's row has them; None for another line."""
    if not isinstance(content, dict) or not isinstance(event := content.get("event"), dict):
        return None
    return {**event, **{name: content.get(name, "") for name in _SIGNATURE_FIELDS}}
