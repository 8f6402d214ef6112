"""The ledger's tables, as the newest migration leaves them (a test compares the two)."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

metadata = MetaData()

# SQLite only numbers rows by itself in a column of type INTEGER.
_RowId = BigInteger().with_variant(Integer, "sqlite")

keys = Table(
    "keys",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("lookup", String(12), nullable=False, unique=True),
    Column("secret_sha256", String(64), nullable=False),
    Column("disclosure", String(32), nullable=False),
    Column("granted", BigInteger, nullable=False),
    Column("spent", BigInteger, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("expires_at", String(32)),
    Column("revoked_at", String(32)),
    CheckConstraint("spent >= 0 AND spent <= granted", name="spent_within_granted"),
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
    Column("disclosure", String(32), nullable=False),
    Column("idempotency_key", String(255), nullable=False),
    Column("spent", BigInteger, nullable=False),
    Column("granted", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    UniqueConstraint("key_id", "sequence", name="one_event_per_sequence"),
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
    Column("disclosed_npy", LargeBinary, nullable=False),
)

# Per image and packed (see teacher_server.fingerprints), so that later questions need no stored images.
event_images = Table(
    "event_images",
    metadata,
    Column("key_id", BigInteger, ForeignKey("keys.id"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("fingerprints", LargeBinary, nullable=False),
)
