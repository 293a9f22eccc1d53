"""Settings, from ``HYPERFORGET_*`` environment variables; the defaults need no server."""

import os
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import quote

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from core import addresses, embedded, logs

REPOSITORY = Path(__file__).resolve().parent.parent
SHIPPED_GENERATORS = REPOSITORY / "generators"
NEIGHBOUR_DATA = REPOSITORY.parent / "shared" / "data"

Folder = Annotated[Path, AfterValidator(lambda path: path.expanduser().resolve())]


class Settings(BaseSettings):
    """All that can be set, each by the environment variable of its name."""

    model_config = SettingsConfigDict(env_prefix="HYPERFORGET_", env_ignore_empty=True)

    home: Folder = Field(Path(".hyperforget"), description="holds all state", validate_default=True)
    database_url: str = Field("", description="SQLAlchemy URL; default: SQLite in home")
    redis_url: str = Field(
        "", description="Redis or Valkey, see core.queue; default: the embedded one"
    )
    artifacts_url: str = Field(
        "", description="file:///folder or s3://bucket/prefix; default: a folder in home"
    )
    signing_key: Folder | None = Field(
        None, description="Ed25519 key (PEM) that workers sign with; default: made in home"
    )
    generators: Annotated[tuple[Folder, ...], NoDecode] = Field(
        (), description="folders of generators beside the shipped ones, joined as in PATH"
    )
    default_generator: str = Field("digits-mlp", description="used when a request names none")
    data: Folder | None = Field(None, description="folder of data sets, such as mnist/")
    host: str = Field("127.0.0.1", description="where the API listens; loopback only without keys")
    port: int = Field(8000, ge=0, le=65_535)
    log_format: logs.Format = Field("text", description="of log lines: json or text")
    rate_limit: int = Field(30_000, ge=1, description="requests a minute of each tenant")
    max_waiting: int = Field(10_000, ge=1, description="most jobs of a tenant that may wait")
    max_waiting_total: int = Field(50_000, ge=1, description="most jobs of all that may wait")
    group_size: int = Field(32, ge=1, description="most jobs that a worker answers in one batch")
    threads: int = Field(
        1, ge=1, description="of a worker's arithmetic; more only where cores are idle"
    )
    lease_seconds: float = Field(
        30.0, gt=0, description="a worker silent for so long has lost its jobs"
    )
    reconcile_seconds: float = Field(
        5.0, gt=0, description="how often unfinished jobs are rung again"
    )
    webhook_allow: str = Field(
        "", description="networks that callback URLs may lead to beside public ones, by commas"
    )
    webhook_attempts: int = Field(12, ge=1, le=100, description="made to deliver an event")
    webhook_retry_seconds: float = Field(
        5.0, gt=0, description="before the second attempt; three times as long before each further"
    )
    max_lost: int = Field(5, ge=1, description="workers lost on a job before it fails")

    @field_validator("generators", mode="before")
    @classmethod
    def _split_folders(cls, value: object) -> object:
        return [v for v in value.split(os.pathsep) if v] if isinstance(value, str) else value

    @field_validator("webhook_allow")
    @classmethod
    def _check_networks(cls, value: str) -> str:
        addresses.networks(value)
        return value

    @model_validator(mode="after")
    def _embedded_defaults(self) -> Self:
        if self.data is None:
            self.data = NEIGHBOUR_DATA if NEIGHBOUR_DATA.is_dir() else self.home / "data"
        if not self.database_url:
            self.database_url = f"sqlite:///{quote(str(self.home / 'ledger.sqlite'))}"
        if not self.artifacts_url:
            self.artifacts_url = (self.home / "artifacts").as_uri()
        return self

    @property
    def queue_url(self) -> str:
        """The Redis URL, or the embedded server's of the home folder."""
        return self.redis_url or embedded.url(self.home)

    @property
    def webhook_networks(self) -> tuple[addresses.Network, ...]:
        """Networks that callback URLs may lead to beside public ones."""
        return addresses.networks(self.webhook_allow)

    @cached_property
    def generator_roots(self) -> tuple[Path, ...]:
        """Folders searched for generators; an earlier one wins."""
        return (*self.generators, self.home / "generators", SHIPPED_GENERATORS)
