"""Lets in who has a key, counts what each tenant asks for, and knows who asks."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import pages
from app.problems import Problem
from app.ratelimit import Standing
from app.services import Services
from core import access
from core.access import DEFAULT_TENANT, ApiKey

# All that is seen without a key. A new route needs a key unless it is added here.
PUBLIC = pages.PATHS | {"/healthz", "/readyz", "/keys", "/openapi.json"}
_BEARER = re.compile(r"Bearer +(\S+) *", re.IGNORECASE)


@dataclass(frozen=True)
class Caller:
    """Who asks; without a key it is someone on this machine, before there were any."""

    key: ApiKey | None

    @property
    def tenant(self) -> str:
        return self.key.tenant if self.key else DEFAULT_TENANT

    def may(self, scope: access.Scope) -> bool:
        """Tell whether the caller has a scope."""
        return self.key is None or self.key.may(scope)


class Gate:
    """ASGI middleware: 401 without a key, 429 for too many requests; keeps the `Caller`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PUBLIC:
            await self._app(scope, receive, send)
            return
        use: Services = scope["app"].state.services
        headers: dict[str, str] = {}

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in headers.items():
                    answer.append(name, value)
            await send(message)

        try:
            caller, standing = await run_in_threadpool(_admit, scope, use)
            headers = standing.headers()
            if not standing.allowed:
                raise _too_many(standing.retry_after, use.settings.rate_limit)
        except Problem as problem:
            await problem.response(scope["path"])(scope, receive, counted)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, counted)


def _admit(scope: Scope, use: Services) -> tuple[Caller, Standing]:
    caller = _identify(scope, use)
    return caller, use.limiter.hit(caller.tenant)


def _identify(scope: Scope, use: Services) -> Caller:
    """Return who asks.

    Raises:
        Problem: 401.
    """
    given = Headers(scope=scope).get("authorization")
    if given is not None:
        shaped = _BEARER.fullmatch(given)
        key = use.keys.find(shaped[1]) if shaped else None
        if key is None:
            raise _unknown("the API key is unknown or revoked", 'error="invalid_token"')
        return Caller(key)
    if use.keys.any():
        raise _unknown("this service needs an API key: Authorization: Bearer hf_...")
    address = (scope.get("server") or ("", None))[0]
    # However it was started: who reaches it over a network needs a key. (A path: Unix socket.)
    if not access.is_loopback(address) and not address.startswith("/"):
        raise _unknown("no API key exists yet; make one with `hyperforget keys create`")
    return Caller(None)


def _unknown(detail: str, *parameters: str) -> Problem:
    challenge = ", ".join(('Bearer realm="hyperforget"', *parameters))
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": challenge})


def _too_many(retry_after: int, limit: int) -> Problem:
    detail = f"more than {limit} requests a minute; try again in {retry_after} s"
    return Problem(429, "too-many-requests", detail, headers={"Retry-After": str(retry_after)})


_scheme = HTTPBearer(
    scheme_name="ApiKey",
    description="`Authorization: Bearer hf_...`, made by `hyperforget keys create`. Not needed "
    "on loopback while there are no keys.",
    auto_error=False,
)


async def _caller(
    request: Request,
    required: SecurityScopes,
    _: Annotated[HTTPAuthorizationCredentials | None, Security(_scheme)],
) -> Caller:
    caller: Caller = request.state.caller
    missing = [scope for scope in required.scopes if not caller.may(access.Scope(scope))]
    if missing:
        scopes = " ".join(missing)
        challenge = f'Bearer realm="hyperforget", error="insufficient_scope", scope="{scopes}"'
        raise Problem(
            403,
            "missing-scope",
            f"this API key lacks the scope {scopes}; make one that has it with "
            f"`hyperforget keys create --scopes {','.join(missing)}`",
            headers={"WWW-Authenticate": challenge},
        )
    return caller


def _needs(*scopes: access.Scope) -> Any:
    return Security(_caller, scopes=[str(scope) for scope in scopes])


Known = Annotated[Caller, _needs()]
Unlearner = Annotated[Caller, _needs(access.Scope.UNLEARN)]
Reader = Annotated[Caller, _needs(access.Scope.JOBS)]
Downloader = Annotated[Caller, _needs(access.Scope.ARTIFACTS)]
Admin = Annotated[Caller, _needs(access.Scope.ADMIN)]
