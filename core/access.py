"""Who may do what: API keys, their scopes and tenants.

A token reads ``hf_<id>_<secret>``: the prefix lets scanners recognise a leaked one, the id
finds its row, and only the sha256 of the whole is stored. A fast hash is enough, since the
secret holds 256 random bits: there is nothing to guess.
"""

import hashlib
import hmac
import ipaddress
import re
import secrets
import time
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy import Row

from core.database import Database
from core.tables import metadata

TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
DEFAULT_TENANT = "default"  # of a key that names none, and of everyone while there are no keys
_TOKEN = re.compile(r"hf_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),  # sha256 of the token, hex
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("revoked_at", sa.Double),
)


class Scope(StrEnum):
    """What a key may do; ``admin`` may do all of it, in its own tenant."""

    UNLEARN = "unlearn:write"
    JOBS = "jobs:read"
    ARTIFACTS = "artifacts:read"
    ADMIN = "admin"


@dataclass(frozen=True)
class ApiKey:
    """A key as it is kept. Times are seconds since the epoch."""

    id: str
    tenant: str
    name: str
    scopes: frozenset[Scope]
    created_at: float
    revoked_at: float | None

    def may(self, scope: Scope) -> bool:
        """Tell whether the key has a scope."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


class Keys:
    """The API keys in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, scopes: set[Scope], tenant: str = DEFAULT_TENANT, name: str = ""
    ) -> tuple[ApiKey, str]:
        """Make a key; its token is returned here and kept nowhere.

        Raises:
            ValueError: there is no scope, the tenant's name is not allowed, or the key's too long.
        """
        if not scopes:
            raise ValueError(f"scopes: name one or more of {', '.join(Scope)}")
        if not TENANT.fullmatch(tenant):
            raise ValueError(f"tenant: use small letters, digits and hyphens, not {tenant!r}")
        if len(name) > 200 or not name.isprintable():
            raise ValueError("name: use at most 200 printable characters")
        identity = secrets.token_hex(6)
        token = f"hf_{identity}_{secrets.token_urlsafe(32)}"
        row = {"id": identity, "tenant": tenant, "name": name, "scopes": sorted(scopes)}
        with self._database.write() as connection:
            made = connection.execute(
                sa.insert(api_keys)
                .values(**row, digest=_digest(token), created_at=time.time())
                .returning(api_keys)
            ).one()
        return _key(made), token

    def find(self, token: str) -> ApiKey | None:
        """Return the key of a token, or None when it is unknown or revoked."""
        shaped = _TOKEN.fullmatch(token)
        if shaped is None:
            return None
        query = sa.select(api_keys).where(api_keys.c.id == shaped[1])
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None or row.revoked_at is not None:
            return None
        return _key(row) if hmac.compare_digest(row.digest, _digest(token)) else None

    def any(self) -> bool:
        """Tell whether a key was ever made: revoking the last one opens nothing."""
        with self._database.read() as connection:
            return connection.execute(sa.select(api_keys.c.id).limit(1)).one_or_none() is not None

    def all(self) -> list[ApiKey]:
        """Return all keys, revoked ones too, the oldest first."""
        query = sa.select(api_keys).order_by(api_keys.c.created_at)
        with self._database.read() as connection:
            return [_key(row) for row in connection.execute(query)]

    def revoke(self, identity: str) -> bool:
        """End a key for good; False when there is none of this id that still works."""
        with self._database.write() as connection:
            done = connection.execute(
                sa.update(api_keys)
                .where(api_keys.c.id == identity, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=time.time())
            )
        return bool(done.rowcount)


def is_loopback(host: str) -> bool:
    """Tell whether an address can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def may_listen(host: str, keys: Keys) -> None:
    """Check that the API may listen on an address.

    Raises:
        ValueError: others could reach it, and no key keeps them out.
    """
    if not is_loopback(host) and not keys.any():
        raise ValueError(
            f"HYPERFORGET_HOST: {host!r} is not a loopback address, and without an API key "
            "whoever reaches it may use it; run `hyperforget keys create` first, or use 127.0.0.1"
        )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _key(row: Row[tuple[object, ...]]) -> ApiKey:
    scopes = frozenset(Scope(scope) for scope in row.scopes)
    return ApiKey(row.id, row.tenant, row.name, scopes, row.created_at, row.revoked_at)
