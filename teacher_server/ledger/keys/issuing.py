"""API keys: made, shown, granted more, and revoked. Secrets are stored hashed and shown once."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError

from shared.wire.contracts import Disclosure, Usage
from shared.wire.error_codes import ErrorCode
from teacher_server.errors import OperatorError, Refusal
from teacher_server.ledger.chain.events import Happening, append_event
from teacher_server.ledger.clock import as_text, moment, now, parse_time
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.budget_shares import passed_percent
from teacher_server.ledger.keys.key_secrets import new_secret
from teacher_server.ledger.tables import keys

BUDGET_MAX = 2**53 - 1  # the largest integer every JSON reader keeps exactly
IMAGES_PER_SECOND_MAX = 10**9
_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True)
class KeyLimits:
    """What a key may buy beside its budget: images per day (UTC) and per second; None is no limit."""

    images_per_day: int | None = None
    images_per_second: int | None = None

    def require_allowed(self) -> None:
        """Raise OperatorError that names the limit, its value and what is allowed."""
        bounds = {"images_per_day": BUDGET_MAX, "images_per_second": IMAGES_PER_SECOND_MAX}
        for name, value in asdict(self).items():
            if value is not None and not 1 <= value <= bounds[name]:
                raise OperatorError(f"{name} is {value}; allowed are 1 to {bounds[name]} images, and none")


@dataclass(frozen=True)
class Key:
    """A key as last read. ``granted`` and ``spent`` are a look, not a promise: only a charge decides."""

    id: int
    name: str
    disclosure: Disclosure
    granted: int
    spent: int
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    refusing: str = field(default="", compare=False)
    expiry_noted: int = field(default=0, compare=False)
    limits: KeyLimits = KeyLimits()

    @property
    def usage(self) -> Usage:
        """The budget in the form the wire uses."""
        return Usage(granted=self.granted, spent=self.spent, remaining=self.granted - self.spent)

    @property
    def status(self) -> str:
        """active, revoked or expired."""
        if self.revoked_at:
            return "revoked"
        # What the chain has told stays so, also when the clock is set back.
        return "expired" if self.expiry_noted or (self.expires_at and self.expires_at <= now()) else "active"


def key_from_row(row: Mapping[str, Any] | RowMapping) -> Key:
    """A row of the keys table as a Key."""
    fields = ("id", "name", "granted", "spent", "created_at", "expires_at", "revoked_at", "refusing", "expiry_noted")
    return Key(
        disclosure=Disclosure.parse(row["disclosure"]),
        limits=KeyLimits(row["images_per_day"], row["images_per_second"]),
        **{name: row[name] for name in fields},
    )


def create_key(
    database: Database,
    *,
    name: str,
    budget: int,
    disclosure: Disclosure,
    expires_at: str | None,
    limits: KeyLimits = KeyLimits(),
) -> tuple[Key, str]:
    """Make a key; the second value is its secret, which is stored nowhere. Raises OperatorError."""
    if not _NAME_PATTERN.fullmatch(name):
        raise OperatorError(
            f"name is {name!r}; allowed are 1 to 64 letters, digits and . _ @ - (a letter or digit first)"
        )
    if not 0 <= budget <= BUDGET_MAX:
        raise OperatorError(f"budget is {budget}; allowed are 0 to {BUDGET_MAX} images")
    limits.require_allowed()
    secret = new_secret()
    policy = {"expires_at": expires_at, **asdict(limits)}
    row = {
        "name": name,
        "lookup": secret.lookup,
        "secret_sha256": secret.sha256,
        "disclosure": str(disclosure),
        "granted": budget,
        "spent": 0,
        "created_at": now(),
        **policy,
    }
    restrictions = {limit: value for limit, value in policy.items() if value is not None}
    happening = Happening("create", images=budget, detail=canonical_detail(restrictions) if restrictions else "")
    with database.writing() as connection:
        try:
            with connection.begin_nested():
                connection.execute(insert(keys).values(row))
        except IntegrityError as error:
            raise OperatorError(f"name is {name!r}, but a key of that name exists; names are never reused") from error
        stored = connection.execute(select(keys).where(keys.c.name == name)).mappings().one()
        append_event(connection, database.signer, stored, happening)
    return key_from_row(stored), secret.text


def canonical_detail(content: Mapping[str, Any]) -> str:
    """What an event tells beside its own fields: canonical JSON, like the event's."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def list_keys(database: Database) -> list[Key]:
    """Every key ever made, oldest first."""
    with database.reading() as connection:
        return [key_from_row(row) for row in connection.execute(select(keys).order_by(keys.c.id)).mappings()]


def grant_images(database: Database, *, name: str, images: int) -> Key:
    """Add to a key's budget. Raises OperatorError for an unknown or revoked key, or a senseless number."""
    with database.writing() as connection:
        row = locked_row(connection, name)
        require_not_revoked(row)
        if not 1 <= images <= BUDGET_MAX - row["granted"]:
            raise OperatorError(f"images is {images}; allowed are 1 to {BUDGET_MAX - row['granted']}")
        granted = row["granted"] + images
        alerted = min(row["alerted_percent"], passed_percent(spent=row["spent"], granted=granted))
        connection.execute(
            update(keys)
            .where(keys.c.id == row["id"])
            .values(granted=granted, refusing="", alerted_percent=alerted)  # alerts are due again when passed again
        )
        row = connection.execute(select(keys).where(keys.c.id == row["id"])).mappings().one()
        append_event(connection, database.signer, row, Happening("grant", images=images))
    return key_from_row(row)


def revoke_key(database: Database, *, name: str) -> Key:
    """Take a key out of use for ever; revoking twice is no error. Raises OperatorError for an unknown key."""
    with database.writing() as connection:
        row = locked_row(connection, name)
        if row["revoked_at"] is None:
            connection.execute(update(keys).where(keys.c.id == row["id"]).values(revoked_at=now(), refusing=""))
            row = connection.execute(select(keys).where(keys.c.id == row["id"])).mappings().one()
            append_event(connection, database.signer, row, Happening("revoke"))
    return key_from_row(row)


def find_key(database: Database, name: str) -> Key:
    """One key. Raises OperatorError for an unknown one."""
    with database.reading() as connection:
        row = None
        if _NAME_PATTERN.fullmatch(name):  # what a terminal hands over need not even be text that a database takes
            row = connection.execute(select(keys).where(keys.c.name == name)).mappings().first()
    return key_from_row(_require_found(row, name))


def locked_row(connection: Connection, name: str) -> RowMapping:
    """A key's row, which nobody else changes before this transaction ends. Raises OperatorError if there is none."""
    row = None
    if _NAME_PATTERN.fullmatch(name):
        row = connection.execute(select(keys).where(keys.c.name == name).with_for_update()).mappings().first()
    return _require_found(row, name)


def _require_found(row: RowMapping | None, name: str) -> RowMapping:
    if row is None:
        raise OperatorError(f"name is {name!r}, but there is no such key; `teacher keys list` shows them")
    return row


def require_not_revoked(row: RowMapping) -> None:
    """Raise OperatorError for a key that is out of use for ever."""
    if row["revoked_at"]:
        raise OperatorError(f"key {row['name']!r} was revoked at {row['revoked_at']}; create another")


def require_in_use(key: Key) -> None:
    """Raise Refusal(unauthenticated) for a key that is revoked or expired."""
    if key.status != "active":
        raise Refusal(ErrorCode.UNAUTHENTICATED, f"this key is {key.status}; ask the owner for another")


def parse_expiry(text: str) -> str:
    """``2026-12-31`` (to the end of that day, UTC) or a full RFC 3339 time, as stored. Raises OperatorError."""
    try:
        expires = parse_time(text, is_end=True)
    except ValueError as error:
        raise OperatorError(f"expires is {text!r}; {error}") from error
    if expires <= moment():
        raise OperatorError(f"expires is {text!r}, which is in the past")
    return as_text(expires)
