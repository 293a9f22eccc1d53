"""Uvicorn, which by itself would wait for event streams to end before it stops."""

import socket

import uvicorn
from fastapi import FastAPI


class Server(uvicorn.Server):
    """Ends the app's event streams when it is to stop."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, end streams, finish the other answers."""
        self._app.state.services.feed.close()
        await super().shutdown(sockets)
