"""The ledger's first tables: jobs and workers."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(36), nullable=False, unique=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("generator", sa.String(64), nullable=False),
        sa.Column("forget", sa.JSON, nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("external_id", sa.String(200)),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("lost", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(64)),
        sa.Column("lease_until", sa.Double),
        sa.Column("stage", sa.String(32)),
        sa.Column("fraction", sa.Double, nullable=False),
        sa.Column("metrics", sa.JSON),
        sa.Column("artifacts", sa.JSON),
        sa.Column("error", sa.JSON),
    )
    op.create_index("jobs_status_seq", "jobs", ["status", "seq"])
    op.create_index("jobs_external_id", "jobs", ["external_id"])
    op.create_table(
        "workers",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.Column("generators", sa.JSON, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("workers")
    op.drop_table("jobs")
