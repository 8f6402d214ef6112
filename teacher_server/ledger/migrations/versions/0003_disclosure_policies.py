"""Room for a whole disclosure policy, and the secrets that noise is drawn from.

Only adds: a row that was there keeps every byte that its hash covers.

Revision ID: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One table more, and a wider column in two. SQLite holds any length, whatever a column's declaration says."""
    if op.get_bind().dialect.name == "postgresql":
        for table in ("keys", "events"):
            op.alter_column(table, "disclosure", type_=sa.String(64), existing_nullable=False)
    op.create_table(
        "noise_secrets",
        sa.Column("teacher", sa.String(64), primary_key=True),
        sa.Column("version", sa.String(200), primary_key=True),
        sa.Column("secret", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.CheckConstraint("length(secret) = 32", name="whole_secret"),
    )
