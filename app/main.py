"""The FastAPI app."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.responses import RedirectResponse

from app import (
    downloads,
    generators,
    health,
    jobs,
    keys,
    metrics,
    openapi,
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
    )
    app.add_middleware(BodyLimit)
    app.add_middleware(Gate)  # outside of it: no body is read of who may not come in
    app.state.meters = metrics.registry()
    app.add_middleware(Observe, RequestMeters(app.state.meters))  # the outermost
    problems.install(app)
    for module in (
        *(unlearning, jobs, downloads, predictions, generators),
        *(webhooks, keys, health, metrics),
    ):
        app.include_router(module.router)

    @app.get("/", include_in_schema=False)
    def index() -> RedirectResponse:
        return RedirectResponse("/docs")

    openapi.install(app)
    return app


app = create_app()
