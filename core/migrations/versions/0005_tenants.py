"""Tenants, API keys, deadlines and the answers kept for idempotency keys."""

import sqlalchemy as sa
from alembic import op

revision = "0005_tenants"
down_revision = "0004_tallies"


def upgrade() -> None:
    tenant = sa.Column("tenant", sa.String(64), nullable=False, server_default="default")
    op.add_column("jobs", tenant)
    op.add_column("jobs", sa.Column("deadline_at", sa.Double))
    op.create_index("jobs_tenant_seq", "jobs", ["tenant", "seq"])
    op.create_index("jobs_status_tenant", "jobs", ["status", "tenant"])
    op.create_index("jobs_status_deadline", "jobs", ["status", "deadline_at"])
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("revoked_at", sa.Double),
    )
    op.create_table(
        "answers",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("request", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("location", sa.String(200)),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("busy_until", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.create_index("answers_expires_at", "answers", ["expires_at"])


def downgrade() -> None:
    op.drop_table("answers")
    op.drop_table("api_keys")
    for index in ("jobs_status_deadline", "jobs_status_tenant", "jobs_tenant_seq"):
        op.drop_index(index, "jobs")
    op.drop_column("jobs", "deadline_at")
    op.drop_column("jobs", "tenant")
