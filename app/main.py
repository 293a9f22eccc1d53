"""The FastAPI app."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from app import (
    backlog,
    downloads,
    events,
    generators,
    health,
    jobs,
    keys,
    metrics,
    openapi,
    pages,
    predictions,
    problems,
    unlearning,
    webhooks,
)
from app.access import Gate
from app.limits import BodyLimit
from app.observing import Observe, RequestMeters
from app.services import Services
from core.settings import Settings

DESCRIPTION = """
Ask for a classifier to forget some of its classes; get, in milliseconds, weights that a
diffusion hypernetwork drew as if the classifier had never seen them, with the measured
comparison to retraining.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the app; without settings it reads the environment when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.services = Services(settings or Settings())
        app.state.services.start()
        yield
        app.state.services.close()

    app = FastAPI(
        title="HyperForget",
        version=version("hyperforget"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere, see `app.pages`
        redoc_url=None,
    )
    app.add_middleware(BodyLimit)
    app.add_middleware(Gate)  # outside of it: no body is read of who may not come in
    app.state.meters = metrics.registry()
    app.add_middleware(Observe, RequestMeters(app.state.meters))  # the outermost
    problems.install(app)
    for module in (
        *(unlearning, events, jobs, downloads, predictions, generators),
        *(webhooks, keys, health, backlog, metrics, pages),
    ):
        app.include_router(module.router)
    openapi.install(app)
    return app


app = create_app()
