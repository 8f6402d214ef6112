"""Changing what a key may see and buy, and when it ends; told in its chain, old and new."""

from collections.abc import Mapping

from sqlalchemy import select, update

from teacher_server.errors import OperatorError
from teacher_server.ledger.chain.events import Happening, append_event
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import (
    Key,
    KeyLimits,
    canonical_detail,
    key_from_row,
    locked_row,
    require_not_revoked,
)
from teacher_server.ledger.tables import keys

POLICY_FIELDS = ("disclosure", "expires_at", "images_per_day", "images_per_second")


def change_policy(database: Database, *, name: str, changes: Mapping[str, str | int | None]) -> Key:
    """Set some of ``POLICY_FIELDS`` of a key, as they are stored (None: no expiry, no limit).

    What is so already is no change, and without one there is no event. A key that has expired is in use again when it
    is given a later expiry. Raises OperatorError for an unknown or revoked key, or a limit that is not allowed.
    """
    unknown = sorted(set(changes) - set(POLICY_FIELDS))
    if unknown:
        raise OperatorError(f"{unknown[0]} is not part of a key's policy; allowed are {', '.join(POLICY_FIELDS)}")
    with database.writing() as connection:
        row = locked_row(connection, name)
        require_not_revoked(row)
        wanted = {field: row[field] for field in POLICY_FIELDS} | dict(changes)
        KeyLimits(wanted["images_per_day"], wanted["images_per_second"]).require_allowed()
        changed = {field: value for field, value in wanted.items() if value != row[field]}
        if changed:
            # A refusal told before was one under the old policy; the end by the old expiry is no end any more.
            told = {"refusing": "", **({"expiry_noted": 0} if "expires_at" in changed else {})}
            connection.execute(update(keys).where(keys.c.id == row["id"]).values(**changed, **told))
            detail = {field: {"new": _told(value), "old": _told(row[field])} for field, value in changed.items()}
            row = connection.execute(select(keys).where(keys.c.id == row["id"])).mappings().one()
            append_event(connection, database.signer, row, Happening("policy", detail=canonical_detail(detail)))
    return key_from_row(row)


def _told(value: str | int | None) -> str | int:
    return "none" if value is None else value
