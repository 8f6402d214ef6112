"""Files of JSON lines: the log that `teacher audit export` wrote, and a run's receipts in the same form.

A log's first line is {"export": {...}}, every other line {"event": {...}, "signing_key": "...", "signature": "..."}.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distill_client.audit.books import Difference
from distill_client.audit.logs import TeacherLog
from distill_client.errors import RunStoreError
from distill_client.teachers.protocol import SignedEvent
from shared.counting import counted
from shared.wire.contracts import Event, EventSignature, Receipt, SigningKey, SigningKeys, Usage


class _Export(BaseModel):
    """What the first line says of the rest."""

    model_config = ConfigDict(extra="ignore")

    key_name: str
    ledger: str = ""
    granted: int = Field(ge=0)
    spent: int = Field(ge=0)
    events: int = Field(ge=0)
    last_hash: str = ""
    signing_keys: list[SigningKey] = []
    at: str = ""


class _Header(BaseModel):
    export: _Export


class _Line(BaseModel):
    event: Event
    signing_key: str = ""
    signature: str = ""


def read_export(path: Path) -> TeacherLog:
    """The log in a file that the teacher's owner wrote with `teacher audit export`.

    A file that is cut off or was added to is read as far as it goes, and what is wrong with it is a difference.
    Raises RunStoreError naming the file and the line when it is no such file.
    """
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline()
            header = _Header.model_validate_json(first).export
            rows = tuple(_rows(path, file))
    except OSError as error:
        raise RunStoreError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValidationError, UnicodeDecodeError) as error:
        what = f"not a file that `teacher audit export` wrote; line 1: {_reason(error)}"
        raise RunStoreError(f"{path}: {what}") from error
    keys = SigningKeys(ledger=header.ledger, keys=header.signing_keys) if header.signing_keys else None
    return TeacherLog(
        rows,
        Usage(granted=header.granted, spent=header.spent, remaining=max(0, header.granted - header.spent)),
        keys,
        source=path.name,
        at=header.at,
        differences=tuple(_differences(path, header, rows)),
        events_promised=header.events,
    )


def _rows(path: Path, lines: Iterable[str]) -> Iterator[SignedEvent]:
    for number, text in enumerate(lines, start=2):
        if not text.strip():
            continue
        try:
            line = _Line.model_validate_json(text)
        except ValidationError as error:
            if not text.endswith("\n"):
                return  # the file ends in the middle of a line: cut off, which the first line's count tells
            raise RunStoreError(f"{path}: line {number} is no event: {_reason(error)}") from error
        yield SignedEvent(line.event, EventSignature(signing_key=line.signing_key, signature=line.signature))


def _reason(error: ValidationError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is no text in UTF-8"
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the line'}: {first['msg']}"


def _differences(path: Path, header: _Export, rows: tuple[SignedEvent, ...]) -> list[Difference]:
    last_hash = rows[-1].event.hash if rows else ""
    if len(rows) == header.events and header.last_hash in ("", last_hash):
        return []
    sentence = (
        f"{path.name} says it holds {counted(header.events, 'event')} up to hash {header.last_hash[:16]}; it holds "
        f"{len(rows)} up to hash {last_hash[:16]}: it was cut off or changed on its way. Ask for it again"
    )
    return [Difference("export", sentence)]


def receipt_lines(receipts: Iterable[str]) -> str:
    """Receipts, in JSON, in the order of their events, a line each, for a verifier that knows nothing of us.

    They are not verified here. Raises RunStoreError when one cannot be read.
    """
    try:
        read = [Receipt.model_validate_json(text) for text in receipts]
    except ValidationError as error:
        raise RunStoreError(f"a receipt in answers.sqlite is damaged: {str(error).splitlines()[0]}") from error
    ordered = sorted(read, key=lambda receipt: receipt.event.sequence)
    return "".join(json.dumps(receipt.model_dump(), separators=(",", ":")) + "\n" for receipt in ordered)
