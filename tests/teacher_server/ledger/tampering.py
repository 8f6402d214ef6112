# ruff: noqa: S608
"""What somebody does who can write to the database, but has no signing key: plain SQL, and hashes made anew."""

import sqlite3
from contextlib import closing
from typing import Any

import psycopg

from shared.wire.contracts import Event
from shared.wire.receipts import GENESIS_HASH, event_hash
from tests.ledger_places import LedgerPlace
from tests.postgresql import name_of


def execute(place: LedgerPlace, *statements: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Run statements (with ? for parameters) in one transaction; the rows of the last one."""
    if place.postgresql is None:
        with closing(sqlite3.connect(place.url.removeprefix("sqlite:///"), timeout=30)) as connection, connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            for statement in statements:
                rows = connection.execute(statement, parameters).fetchall()
            return rows
    with psycopg.connect(host=str(place.postgresql.folder), user="postgres", dbname=name_of(place.url)) as postgres:
        for statement in statements:
            cursor = postgres.execute(statement.replace("?", "%s").encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


def seal_anew(place: LedgerPlace, key_id: int) -> None:
    """Give every event of a key the hash of its content and of the event before it, as far as it has one."""
    names = [*Event.model_fields]
    rows = execute(place, f"SELECT id, {', '.join(names)} FROM events WHERE key_id = {key_id} ORDER BY sequence")
    previous = GENESIS_HASH
    for row_id, *values in rows:
        event = Event.model_construct(**dict(zip(names, values, strict=True)))
        try:
            sealed = event.model_copy(update={"previous_hash": previous})
            previous_hash, previous = previous, event_hash(sealed)
        except (TypeError, ValueError):  # no content that has a hash
            previous_hash, previous = previous, event.hash
        statement = f"UPDATE events SET previous_hash = ?, hash = ? WHERE id = {row_id}"
        execute(place, statement, parameters=(previous_hash, previous))
