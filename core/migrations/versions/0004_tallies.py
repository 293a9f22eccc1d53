"""How jobs ended and how long their stages took, counted for `/metrics`."""

import sqlalchemy as sa
from alembic import op

revision = "0004_tallies"
down_revision = "0002_audit_log"


def upgrade() -> None:
    op.create_table(
        "tallies",
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("generator", sa.String(64), primary_key=True),
        sa.Column("label", sa.String(64), primary_key=True),
        sa.Column("detail", sa.String(64), primary_key=True),
        sa.Column("value", sa.Double, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("tallies")
