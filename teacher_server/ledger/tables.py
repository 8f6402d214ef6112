"""The ledger's tables, as the newest migration leaves them (a test compares the two)."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()

# SQLite only numbers rows by itself in a column of type INTEGER.
_RowId = BigInteger().with_variant(Integer, "sqlite")

# A whole policy as text. SQLite keeps the width that the column was declared with at first, and holds any.
_Policy = String(64).with_variant(String(32), "sqlite")

# The ledger itself: one row.
ledger = Table(
    "ledger",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(32), nullable=False),  # random: two ledgers' receipts never pass for each other's
    Column("created_at", String(32), nullable=False),
    Column("backup_at", String(32)),  # set in a backup only: whoever opens one as a ledger says so in every chain
    CheckConstraint("id = 1", name="one_ledger"),
)

# Public keys that events are signed with; the private one lives in a file. One of them is not retired.
signing_keys = Table(
    "signing_keys",
    metadata,
    Column("fingerprint", String(64), primary_key=True),
    Column("public_key", String(64), nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("retired_at", String(32)),
    Column("endorsed_by", String(64), nullable=False),
    Column("endorsement", String(128), nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("lookup", String(12), nullable=False, unique=True),
    Column("secret_sha256", String(64), nullable=False),
    Column("disclosure", _Policy, nullable=False),
    Column("granted", BigInteger, nullable=False),
    Column("spent", BigInteger, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("expires_at", String(32)),
    Column("revoked_at", String(32)),
    Column("images_per_day", BigInteger),  # null: no limit but the budget
    Column("images_per_second", BigInteger),
    Column("refusing", String(96), nullable=False, server_default=""),  # reasons told in refuse events since a change
    Column("expiry_noted", Integer, nullable=False, server_default="0"),  # 1 once the chain has its expire event
    Column("alerted_percent", Integer, nullable=False, server_default="0"),
    CheckConstraint("spent >= 0 AND spent <= granted", name="spent_within_granted"),
)

# A key's secret before its rotation, valid for a while beside the new one.
retiring_secrets = Table(
    "retiring_secrets",
    metadata,
    Column("lookup", String(12), primary_key=True),
    Column("key_id", BigInteger, ForeignKey("keys.id"), nullable=False),
    Column("secret_sha256", String(64), nullable=False),
    Column("expires_at", String(32), nullable=False),
)

# One key's events form a hash chain: each carries its number and the hash of the one before.
events = Table(
    "events",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("key_id", BigInteger, ForeignKey("keys.id"), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("previous_hash", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("at", String(32), nullable=False),
    Column("key_name", String(64), nullable=False),
    Column("teacher", String(64), nullable=False),
    Column("version", String(200), nullable=False),
    Column("images", BigInteger, nullable=False),
    Column("input_digest", String(64), nullable=False),
    Column("answer_digest", String(64), nullable=False),
    Column("disclosure", _Policy, nullable=False),
    Column("idempotency_key", String(255), nullable=False),
    Column("spent", BigInteger, nullable=False),
    Column("granted", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("format", Integer, nullable=False, server_default="1"),
    Column("teacher_digest", String(64), nullable=False, server_default=""),
    Column("disclosure_digest", String(64), nullable=False, server_default=""),
    Column("detail", Text, nullable=False, server_default=""),
    Column("signing_key", String(64), nullable=False, server_default=""),  # not hashed: beside the event, not in it
    Column("signature", String(128), nullable=False, server_default=""),
    UniqueConstraint("key_id", "sequence", name="one_event_per_sequence"),
    Index("events_by_time", "key_id", "at"),
)

# The row whose uniqueness decides that an idempotency key is charged once, and the answer it was charged for.
answers = Table(
    "answers",
    metadata,
    Column("key_id", BigInteger, ForeignKey("keys.id"), primary_key=True),
    Column("idempotency_key", String(255), primary_key=True),
    Column("teacher", String(64), nullable=False),
    Column("input_digest", String(64), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("disclosed_npy", LargeBinary, nullable=False),  # empty once it expired; the row stays for ever
    Column("answered_at", String(32), nullable=False, server_default=""),
    Column("body_bytes", BigInteger, nullable=False, server_default="0"),
    Index(
        "stored_bodies", "answered_at", sqlite_where=text("body_bytes > 0"), postgresql_where=text("body_bytes > 0")
    ),
)

# Per image and packed (see teacher_server.fingerprints), so that later questions need no stored images.
event_images = Table(
    "event_images",
    metadata,
    Column("key_id", BigInteger, ForeignKey("keys.id"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("fingerprints", LargeBinary, nullable=False),
)

# What noise on a version's answers is drawn from, with the image's digest. Whoever has it can take the noise off.
noise_secrets = Table(
    "noise_secrets",
    metadata,
    Column("teacher", String(64), primary_key=True),
    Column("version", String(200), primary_key=True),
    Column("secret", LargeBinary, nullable=False),
    Column("created_at", String(32), nullable=False),
    CheckConstraint("length(secret) = 32", name="whole_secret"),
)
