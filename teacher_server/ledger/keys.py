"""API keys: made, shown, granted more, revoked, and recognised. Secrets are stored hashed and shown once."""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import Connection, RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError

from shared.wire.contracts import Disclosure, Usage
from shared.wire.error_codes import ErrorCode
from teacher_server.errors import OperatorError, Refusal
from teacher_server.ledger.chain import Happening, append_event
from teacher_server.ledger.clock import now
from teacher_server.ledger.database import Database
from teacher_server.ledger.tables import keys

BUDGET_MAX = 2**53 - 1  # the largest integer every JSON reader keeps exactly
_SECRET_PATTERN = re.compile(r"tk-([0-9a-f]{12})-[A-Za-z0-9_-]{43}")
_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_NO_SECRET = "0" * 64


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
    refusing: str = ""

    @property
    def usage(self) -> Usage:
        """The budget in the form the wire uses."""
        return Usage(granted=self.granted, spent=self.spent, remaining=self.granted - self.spent)

    @property
    def status(self) -> str:
        """active, revoked or expired."""
        if self.revoked_at:
            return "revoked"
        return "expired" if self.expires_at and self.expires_at <= now() else "active"


def key_from_row(row: RowMapping) -> Key:
    """A row of the keys table as a Key."""
    fields = ("id", "name", "granted", "spent", "created_at", "expires_at", "revoked_at", "refusing")
    return Key(disclosure=Disclosure.parse(row["disclosure"]), **{name: row[name] for name in fields})


def create_key(
    database: Database, *, name: str, budget: int, disclosure: Disclosure, expires_at: str | None
) -> tuple[Key, str]:
    """Make a key; the second value is its secret, which is stored nowhere. Raises OperatorError."""
    if not _NAME_PATTERN.fullmatch(name):
        raise OperatorError(
            f"name is {name!r}; allowed are 1 to 64 letters, digits and . _ @ - (a letter or digit first)"
        )
    if not 0 <= budget <= BUDGET_MAX:
        raise OperatorError(f"budget is {budget}; allowed are 0 to {BUDGET_MAX} images")
    lookup = secrets.token_hex(6)
    secret = f"tk-{lookup}-{secrets.token_urlsafe(32)}"
    row = {
        "name": name,
        "lookup": lookup,
        "secret_sha256": _hash(secret),
        "disclosure": str(disclosure),
        "granted": budget,
        "spent": 0,
        "created_at": now(),
        "expires_at": expires_at,
    }
    with database.writing() as connection:
        try:
            with connection.begin_nested():
                connection.execute(insert(keys).values(row))
        except IntegrityError as error:
            raise OperatorError(f"name is {name!r}, but a key of that name exists; names are never reused") from error
        stored = connection.execute(select(keys).where(keys.c.name == name)).mappings().one()
        append_event(connection, database.signer, stored, Happening("create", images=budget))
    return key_from_row(stored), secret


def list_keys(database: Database) -> list[Key]:
    """Every key ever made, oldest first."""
    with database.reading() as connection:
        return [key_from_row(row) for row in connection.execute(select(keys).order_by(keys.c.id)).mappings()]


def grant_images(database: Database, *, name: str, images: int) -> Key:
    """Add to a key's budget. Raises OperatorError for an unknown or revoked key, or a senseless number."""
    with database.writing() as connection:
        row = _locked_row(connection, name)
        if row["revoked_at"]:
            raise OperatorError(f"key {name!r} was revoked at {row['revoked_at']}; create another")
        if not 1 <= images <= BUDGET_MAX - row["granted"]:
            raise OperatorError(f"images is {images}; allowed are 1 to {BUDGET_MAX - row['granted']}")
        connection.execute(
            update(keys).where(keys.c.id == row["id"]).values(granted=keys.c.granted + images, refusing="")
        )
        row = connection.execute(select(keys).where(keys.c.id == row["id"])).mappings().one()
        append_event(connection, database.signer, row, Happening("grant", images=images))
    return key_from_row(row)


def revoke_key(database: Database, *, name: str) -> Key:
    """Take a key out of use for ever; revoking twice is no error. Raises OperatorError for an unknown key."""
    with database.writing() as connection:
        row = _locked_row(connection, name)
        if row["revoked_at"] is None:
            connection.execute(update(keys).where(keys.c.id == row["id"]).values(revoked_at=now()))
            row = connection.execute(select(keys).where(keys.c.id == row["id"])).mappings().one()
            append_event(connection, database.signer, row, Happening("revoke"))
    return key_from_row(row)


def _locked_row(connection: Connection, name: str) -> RowMapping:
    row = None
    if _NAME_PATTERN.fullmatch(name):  # what a terminal hands over need not even be text that a database takes
        row = connection.execute(select(keys).where(keys.c.name == name).with_for_update()).mappings().first()
    if row is None:
        raise OperatorError(f"name is {name!r}, but there is no such key; `teacher keys list` shows them")
    return row


def authenticate(database: Database, secret: str) -> Key:
    """The key that ``secret`` belongs to. Raises Refusal(unauthenticated), the same for every reason but expiry.

    The hash is compared in constant time, and compared even when no such key exists.
    """
    match = _SECRET_PATTERN.fullmatch(secret)
    row = None
    if match:
        with database.reading() as connection:
            row = connection.execute(select(keys).where(keys.c.lookup == match[1])).mappings().first()
    stored = row["secret_sha256"] if row else _NO_SECRET
    if not hmac.compare_digest(stored, _hash(secret)) or row is None:
        raise Refusal(ErrorCode.UNAUTHENTICATED, "no valid key: send `Authorization: Bearer KEY` with a key in use")
    key = key_from_row(row)
    require_in_use(key)
    return key


def require_in_use(key: Key) -> None:
    """Raise Refusal(unauthenticated) for a key that is revoked or expired."""
    if key.status != "active":
        raise Refusal(ErrorCode.UNAUTHENTICATED, f"this key is {key.status}; ask the owner for another")


def parse_expiry(text: str) -> str:
    """``2026-12-31`` (to the end of that day, UTC) or a full RFC 3339 time, as stored. Raises OperatorError."""
    try:
        if len(text) == len("2026-12-31"):
            moment = datetime.combine(date.fromisoformat(text) + timedelta(days=1), time.min, UTC)
        else:
            moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            moment = moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise OperatorError(f"expires is {text!r}; allowed are 2026-12-31 and 2026-12-31T12:00:00+00:00") from error
    if moment.tzinfo is None:
        raise OperatorError(f"expires is {text!r}; a time needs its offset from UTC, such as +00:00")
    if moment <= datetime.now(UTC):
        raise OperatorError(f"expires is {text!r}, which is in the past")
    return moment.isoformat(timespec="microseconds")


def _hash(secret: str) -> str:
    # A plain hash is enough for 256 random bits: there is nothing to guess that a slow hash would protect.
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
