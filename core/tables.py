"""The one `metadata` that all SQL tables hang on: the ledger's and the audit log's."""

import sqlalchemy as sa

metadata = sa.MetaData()
