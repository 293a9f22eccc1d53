"""The one `metadata` that all SQL tables hang on: the ledger's, the audit log's and the rest."""

import sqlalchemy as sa

metadata = sa.MetaData()
