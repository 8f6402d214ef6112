"""Signed events, limits per key, secrets that overlap, answers that expire.

Only adds: a row that was there keeps every byte that its hash covers.

Revision ID: 0002
"""

import secrets
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Three tables more, and columns that say of old rows that they had none of this."""
    ledger = op.create_table(
        "ledger",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("backup_at", sa.String(32)),
        sa.CheckConstraint("id = 1", name="one_ledger"),
    )
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    op.bulk_insert(ledger, [{"id": 1, "name": secrets.token_hex(16), "created_at": now, "backup_at": None}])
    op.create_table(
        "signing_keys",
        sa.Column("fingerprint", sa.String(64), primary_key=True),
        sa.Column("public_key", sa.String(64), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("retired_at", sa.String(32)),
        sa.Column("endorsed_by", sa.String(64), nullable=False),
        sa.Column("endorsement", sa.String(128), nullable=False),
    )
    op.create_table(
        "retiring_secrets",
        sa.Column("lookup", sa.String(12), primary_key=True),
        sa.Column("key_id", sa.BigInteger, sa.ForeignKey("keys.id"), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("expires_at", sa.String(32), nullable=False),
    )
    _add_to_keys()
    _add_to_events()
    _add_to_answers()


def _add_to_keys() -> None:
    op.add_column("keys", sa.Column("images_per_day", sa.BigInteger))
    op.add_column("keys", sa.Column("images_per_second", sa.BigInteger))
    op.add_column("keys", sa.Column("refusing", sa.String(96), nullable=False, server_default=""))
    op.add_column("keys", sa.Column("expiry_noted", sa.Integer, nullable=False, server_default="0"))
    op.add_column("keys", sa.Column("alerted_percent", sa.Integer, nullable=False, server_default="0"))


def _add_to_events() -> None:
    op.add_column("events", sa.Column("format", sa.Integer, nullable=False, server_default="1"))
    op.add_column("events", sa.Column("teacher_digest", sa.String(64), nullable=False, server_default=""))
    op.add_column("events", sa.Column("disclosure_digest", sa.String(64), nullable=False, server_default=""))
    op.add_column("events", sa.Column("detail", sa.Text, nullable=False, server_default=""))
    op.add_column("events", sa.Column("signing_key", sa.String(64), nullable=False, server_default=""))
    op.add_column("events", sa.Column("signature", sa.String(128), nullable=False, server_default=""))
    op.create_index("events_by_time", "events", ["key_id", "at"])


def _add_to_answers() -> None:
    op.add_column("answers", sa.Column("answered_at", sa.String(32), nullable=False, server_default=""))
    op.add_column("answers", sa.Column("body_bytes", sa.BigInteger, nullable=False, server_default="0"))
    op.execute(
        "UPDATE answers SET body_bytes = length(disclosed_npy), answered_at = (SELECT events.at FROM events "
        "WHERE events.key_id = answers.key_id AND events.sequence = answers.sequence)"
    )
    stored = sa.text("body_bytes > 0")
    op.create_index("stored_bodies", "answers", ["answered_at"], sqlite_where=stored, postgresql_where=stored)
