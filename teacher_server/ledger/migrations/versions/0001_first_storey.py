"""Keys, their event chains, the answers charged and the fingerprints of the images.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the four tables."""
    op.create_table(
        "keys",
        sa.Column("id", _ROW_ID, primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("lookup", sa.String(12), nullable=False, unique=True),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("disclosure", sa.String(32), nullable=False),
        sa.Column("granted", sa.BigInteger, nullable=False),
        sa.Column("spent", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("expires_at", sa.String(32)),
        sa.Column("revoked_at", sa.String(32)),
        sa.CheckConstraint("spent >= 0 AND spent <= granted", name="spent_within_granted"),
    )
    op.create_table(
        "events",
        sa.Column("id", _ROW_ID, primary_key=True),
        sa.Column("key_id", sa.BigInteger, sa.ForeignKey("keys.id"), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("previous_hash", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("key_name", sa.String(64), nullable=False),
        sa.Column("teacher", sa.String(64), nullable=False),
        sa.Column("version", sa.String(200), nullable=False),
        sa.Column("images", sa.BigInteger, nullable=False),
        sa.Column("input_digest", sa.String(64), nullable=False),
        sa.Column("answer_digest", sa.String(64), nullable=False),
        sa.Column("disclosure", sa.String(32), nullable=False),
        sa.Column("idempotency_key", sa.String(255), nullable=False),
        sa.Column("spent", sa.BigInteger, nullable=False),
        sa.Column("granted", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.UniqueConstraint("key_id", "sequence", name="one_event_per_sequence"),
    )
    op.create_table(
        "answers",
        sa.Column("key_id", sa.BigInteger, sa.ForeignKey("keys.id"), primary_key=True),
        sa.Column("idempotency_key", sa.String(255), primary_key=True),
        sa.Column("teacher", sa.String(64), nullable=False),
        sa.Column("input_digest", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("disclosed_npy", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "event_images",
        sa.Column("key_id", sa.BigInteger, sa.ForeignKey("keys.id"), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True),
        sa.Column("fingerprints", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """A ledger is never taken back: its rows are evidence."""
    raise RuntimeError("ledger migrations only go forward")
