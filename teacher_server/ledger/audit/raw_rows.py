"""Rows as they stand in the database, whatever somebody put there: no conversion, and no surprise.

A cell of SQLite may hold anything, text that is no text included, which its driver refuses to hand over.
"""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Select, TableClause, column, select, table
from sqlalchemy.exc import OperationalError

from teacher_server.ledger import tables


def _raw(name: str) -> TableClause:
    """The table with columns of no type, so that nothing is made of their values."""
    return table(name, *[column(known.name) for known in tables.metadata.tables[name].columns])


EVENTS = _raw("events")
KEYS = _raw("keys")
ANSWERS = _raw("answers")
EVENT_IMAGES = _raw("event_images")
SIGNING_KEYS = _raw("signing_keys")


# What SQLite says of values, not of itself: text that is none, numbers that cannot be added up.
_OF_VALUES = ("decode to UTF-8", "integer overflow")


class Unreadable(Exception):
    """Rows that the database or its driver cannot hand over."""


def read_rows(connection: Connection, statement: Select[Any]) -> list[dict[str, Any]]:
    """All rows. Raises Unreadable when there is a value among them that cannot be had."""
    try:
        return [dict(row) for row in connection.execute(statement).mappings()]
    except OperationalError as error:
        if any(words in str(error.orig) for words in _OF_VALUES):
            raise Unreadable(str(error.orig).partition(" with text")[0]) from error
        raise


def read_rows_one_by_one(
    connection: Connection, from_table: TableClause, statement: Select[Any]
) -> Iterator[tuple[int, dict[str, Any] | Unreadable]]:
    """The rows of ``statement`` (over ``from_table``, which has an id) with their ids, each read for itself."""
    for row_id in connection.execute(statement.with_only_columns(from_table.c.id)).scalars().all():
        try:
            yield row_id, read_rows(connection, select(from_table).where(from_table.c.id == row_id))[0]
        except Unreadable as error:
            yield row_id, error
