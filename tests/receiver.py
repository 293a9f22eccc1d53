"""A receiver of webhooks: a real HTTP server on a socket, which answers what a list says."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Step = int | tuple[int, dict[str, str]]
PATIENCE = 30.0  # seconds until a slow machine is given up


class Receiver:
    """What came in, and what is answered: ``script`` in order, then 204."""

    def __init__(self) -> None:
        self.script: list[Step] = []
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""
        self.answering = threading.Event()  # cleared: answers have to wait
        self.answering.set()
        self._news = threading.Condition()

    def note(self, path: str, headers: dict[str, str], body: bytes) -> Step:
        with self._news:
            self.got.append((path, headers, body))
            self._news.notify_all()
            return self.script.pop(0) if self.script else 204

    def wait(self, count: int) -> None:
        """Wait until so many requests came in."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.got) >= count, PATIENCE), len(self.got)


@contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            step = receiver.note(self.path, dict(self.headers), body)
            receiver.answering.wait(PATIENCE)
            status, headers = (step, {}) if isinstance(step, int) else step
            self.send_response(status)
            for name, value in ({"Content-Length": "0"} | headers).items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    receiver.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}"
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
