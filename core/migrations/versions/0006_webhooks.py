"""Callback addresses of jobs, deliveries of their ends, and the tenants' signing secrets."""

import sqlalchemy as sa
from alembic import op

revision = "0006_webhooks"
down_revision = "0005_tenants"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("callback_url", sa.String(2_048)))
    op.create_table(
        "deliveries",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(36), nullable=False, unique=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("job", sa.String(36), nullable=False),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("url", sa.String(2_048), nullable=False),
        sa.Column("host", sa.String(253), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("forgiven", sa.Integer, nullable=False),
        sa.Column("due_at", sa.Double),
        sa.Column("tried_at", sa.Double),
        sa.Column("last_status", sa.Integer),
        sa.Column("last_error", sa.String(200)),
    )
    op.create_index("deliveries_due_at", "deliveries", ["due_at"])
    op.create_index("deliveries_job", "deliveries", ["job"])
    op.create_index("deliveries_state", "deliveries", ["state"])
    op.create_index("deliveries_tenant_seq", "deliveries", ["tenant", "seq"])
    op.create_table(
        "webhook_secrets",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("secret", sa.String(64), nullable=False),
        sa.Column("ends_at", sa.Double),
    )
    op.create_index("webhook_secrets_tenant", "webhook_secrets", ["tenant"])


def downgrade() -> None:
    op.drop_table("webhook_secrets")
    op.drop_table("deliveries")
    op.drop_column("jobs", "callback_url")
