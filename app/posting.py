"""One POST to a callback URL, of which nothing is trusted: not the name, not the answer.

The name is looked up, every address checked, and one of those very addresses connected to, while
`Host` and the TLS certificate stay the name's. httpcore below httpx follows no redirect, reads no
proxy from the environment and unpacks no answer; the answer's body is thrown away.
"""

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

import httpcore
import httpx

from core.addresses import Addresses, Refused, parse

_CONNECT_SECONDS = 3.0  # for each address
_BODY_SECONDS = 1.0
_BODY_BYTES = 16_384  # read, so that a receiver is not cut off while it sends a short one
_BROKEN = (httpcore.NetworkError, httpcore.ProtocolError)


class Answer(NamedTuple):
    """What is kept of a receiver's answer."""

    status: int
    retry_after: str | None


class Unanswered(Exception):
    """There was no answer; the message says why in a few words."""


class Poster:
    """Posts to callback URLs.

    Args:
        addresses: says which may be connected to.
        seconds: for one POST in all, the look-up of the name included.
        tls: default: the trusted authorities of httpx, or those that SSL_CERT_FILE names.
    """

    def __init__(
        self, addresses: Addresses, seconds: float = 10.0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._addresses = addresses
        self._seconds = seconds
        self._tls = tls or httpx.create_ssl_context()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Post, once, on a connection of its own.

        Raises:
            Unanswered: no answer, or the URL may not be called.
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await self._post(url, headers, body)
        except Refused as refused:
            raise Unanswered(f"callback_url {refused}"[:200]) from None
        except (TimeoutError, httpcore.TimeoutException):
            raise Unanswered(f"no answer within {self._seconds:g} s") from None
        except _BROKEN as error:
            raise Unanswered(_why(error)) from None

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        guard = _Guard(self._addresses, parse(url).plain)
        sent = [
            ("Host", urlsplit(url).netloc),
            *headers.items(),
        ]  # httpcore's lacks IPv6's brackets
        seconds = dict.fromkeys(("read", "write", "pool"), self._seconds)
        options = {"timeout": seconds | {"connect": _CONNECT_SECONDS}}
        async with (
            httpcore.AsyncConnectionPool(self._tls, network_backend=guard) as pool,
            pool.stream("POST", url, headers=sent, content=body, extensions=options) as answer,
        ):
            with suppress(TimeoutError, httpcore.TimeoutException, *_BROKEN):
                async with asyncio.timeout(_BODY_SECONDS):
                    await _throw_away(answer)
            after = next((v for k, v in answer.headers if k.lower() == b"retry-after"), None)
            return Answer(answer.status, after.decode("latin-1") if after else None)


class _Guard(httpcore.AsyncNetworkBackend):
    """Connects to checked addresses only: what was checked is what is connected to."""

    def __init__(self, addresses: Addresses, plain: bool) -> None:
        self._addresses = addresses
        self._plain = plain
        self._real = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failed: Exception = httpcore.ConnectError("no address")
        for address in await self._addresses.resolve(host, port, self._plain):
            try:
                return await self._real.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed


async def _throw_away(answer: httpcore.Response) -> None:
    read = 0
    async for chunk in answer.aiter_stream():
        read += len(chunk)
        if read > _BODY_BYTES:
            return


def _why(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"TLS: {cause.verify_message}"[:200]
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {cause.reason}"[:200]
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpcore.ConnectError):
        return "could not connect"
    return "the connection broke off, or what answered was not HTTP"
