"""The artifact store on S3, or on any server that speaks it and has conditional writes.

``s3://bucket/prefix?endpoint=https://s3.example.com&region=eu-central-1``: prefix, endpoint and
region may be left out, then the last two come from ``AWS_ENDPOINT_URL_S3`` or
``AWS_ENDPOINT_URL`` and ``AWS_REGION``. Credentials never stand in a URL, which gets logged:
they come from ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY`` and ``AWS_SESSION_TOKEN``, or from
the role of the machine or container. They need to get, put and delete objects, and to list the
bucket (else an absent object reads as a refusal).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlparse

import obstore
from obstore import store
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from core.artifacts import CHUNK, Artifact, ArtifactStore, StoreDown, describe, key

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult

_OPTIONS = frozenset({"endpoint", "region"})
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
# A server that says nothing for so long is down: clients get their 503, workers try again.
_PATIENCE = timedelta(seconds=5)
_WHOLE_ANSWER = timedelta(hours=1)  # a client may read slowly


class S3Store(ArtifactStore):
    """Artifacts as objects of a bucket.

    Attributes:
        endpoint: the server's URL; None: AWS' own.

    Raises:
        ValueError: the URL names no bucket, or more than it may, or one of two keys is missing.
    """

    def __init__(self, url: str) -> None:
        parsed = urlparse(url)
        options = dict(parse_qsl(parsed.query, keep_blank_values=True))
        if parsed.netloc != parsed.hostname or parsed.fragment or options.keys() - _OPTIONS:
            # Not echoed: it may hold a secret.
            raise ValueError(
                "HYPERFORGET_ARTIFACTS_URL must be s3://bucket/prefix, followed by ?endpoint= and "
                "&region= if need be; credentials belong into AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY"
            )
        self.bucket = parsed.netloc
        self.endpoint = next(
            filter(None, [options.get("endpoint"), *map(os.environ.get, _ENDPOINT_VARIABLES)]), None
        )
        prefix = unquote(parsed.path).strip("/")
        try:
            self._store = store.S3Store(
                self.bucket,
                prefix=prefix or None,
                config={
                    **({"region": options["region"]} if "region" in options else {}),
                    **({"aws_endpoint_url_s3": self.endpoint} if self.endpoint else {}),
                },
                client_options={
                    # Whoever writes http:// means it.
                    "allow_http": (self.endpoint or "").startswith("http://"),
                    "connect_timeout": _PATIENCE,
                    "read_timeout": _PATIENCE,
                    "timeout": _WHOLE_ANSWER,
                },
                retry_config={"max_retries": 2, "retry_timeout": _PATIENCE},
            )
        except BaseError as error:
            said = str(error).partition("\n")[0]
            raise ValueError(f"HYPERFORGET_ARTIFACTS_URL and AWS_*: {said}") from None

    def put(self, content: bytes) -> Artifact:
        artifact = describe(content)
        try:
            with self._refusals(absent_is_bucket=True):
                obstore.put(self._store, key(artifact.sha256), content, mode="create")
        except AlreadyExistsError:
            pass  # under this name lie these bytes
        return artifact

    def delete(self, sha256: str) -> None:
        with self._refusals(absent_is_bucket=True):
            obstore.delete(self._store, key(sha256))

    def check(self) -> None:
        with self._refusals(absent_is_bucket=True):
            obstore.put(self._store, "writable", b"", mode="overwrite")

    def _open(self, sha256: str, span: tuple[int, int] | None) -> tuple[int, Iterator[bytes]]:
        options: GetOptions = {} if span is None else {"range": span}
        with self._refusals():
            found = obstore.get(self._store, key(sha256), options=options)
            return found.meta["size"], self._chunks(found)

    def _chunks(self, found: "GetResult") -> Iterator[bytes]:
        with self._refusals():
            for chunk in found.stream(CHUNK):
                yield bytes(chunk)

    @contextmanager
    def _refusals(self, absent_is_bucket: bool = False) -> Iterator[None]:
        """Say what is wrong with the store in our words.

        Args:
            absent_is_bucket: what is done needs no object, so it can only be the bucket.
        """
        where = f"s3://{self.bucket} at {self.endpoint or 'AWS'}"
        try:
            yield
        except FileNotFoundError as error:
            if not absent_is_bucket and "NoSuchBucket" not in str(error):
                raise
            raise StoreDown(
                "no such bucket",
                f"{where}; make it, or name another in HYPERFORGET_ARTIFACTS_URL",
            ) from None
        except AlreadyExistsError:
            raise
        except (PermissionDeniedError, UnauthenticatedError):
            raise StoreDown(
                "access denied",
                f"{where}; look at AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may do "
                "with this bucket",
            ) from None
        except BaseError as error:
            said = str(error).partition("\n")[0]
            raise StoreDown("no good answer", f"{where}; {said}") from None
