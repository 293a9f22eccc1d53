"""Is the process alive, and can the service do its work."""

import logging
from collections.abc import Callable

import redis
import sqlalchemy.exc
from fastapi import APIRouter, Response
from pydantic import BaseModel

from app.services import Services, Use
from core.artifacts import StoreDown

log = logging.getLogger("hyperforget.app")
router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The process answers."""

    status: str


class Readiness(BaseModel):
    """Whether the service can do its work, and what each part says."""

    ready: bool
    parts: dict[str, str]
    workers: dict[str, list[str]]


@router.get("/healthz")
def healthz() -> Health:
    """Tell that the process answers."""
    return Health(status="alive")


@router.get("/readyz", responses={503: {"model": Readiness}})
def readyz(response: Response, use: Use) -> Readiness:
    """Tell whether jobs will be answered, and if not, which part is down."""
    workers: dict[str, list[str]] = {}
    parts = {
        "ledger": _try(lambda: workers.update(_serving(use))),
        "queue": _try(use.redis.ping),
        "artifacts": _try(use.store.check),
    }
    serving = any(workers.values())
    parts["worker"] = "ok" if serving else "no live worker serves a generator"
    ready = all(said == "ok" for said in parts.values())
    response.status_code = 200 if ready else 503
    return Readiness(ready=ready, parts=parts, workers=workers)


def _serving(use: Services) -> dict[str, list[str]]:
    return {
        worker.id: [name for name, reason in worker.generators.items() if reason is None]
        for worker in use.live_workers()
    }


def _try(check: Callable[[], object]) -> str:
    try:
        check()
    except StoreDown as error:
        log.warning("artifact store: %s", error)
        return f"down: {error.reason}"
    except (redis.exceptions.RedisError, sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        return f"down: {type(error).__name__}"
    return "ok"
