"""The whole service as processes of one machine: embedded Valkey, API, workers."""

import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import httpx

from core import embedded
from core.settings import Settings

log = logging.getLogger("hyperforget.stack")

_GRACE_SECONDS = 30.0  # for a worker to finish its group
_RESTART_SECONDS = 1.0  # between two starts of a process that keeps ending


class StackError(RuntimeError):
    """The service could not be started; the message says what to do."""


class Stack:
    """Starts the service's processes, keeps them up and ends them.

    Use as a context manager, or call `start` and `stop`.

    Args:
        settings: a port of 0 takes a free one, see `url`.
        workers: how many worker processes.
        log: where the processes' messages go; default: standard error.
    """

    def __init__(self, settings: Settings, workers: int = 1, log: Path | None = None) -> None:
        self.settings = settings
        self._log = log
        self._names = ["api", *(f"worker-{i}" for i in range(workers))]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started: dict[str, float] = {}
        self._valkey: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._lock: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """Where the API answers."""
        assert self._socket is not None
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def pid(self, name: str) -> int:
        """Return the process id of ``api`` or ``worker-0`` and so on."""
        return self._processes[name].pid

    def start(self, patience: float = 120.0) -> None:
        """Start everything and return once the service is ready.

        Raises:
            StackError: the home folder or the port is taken, or it is not ready in time.
        """
        try:
            self._take_home()
            self._listen()
            if not self.settings.redis_url:
                self._start_valkey()
            for name in self._names:
                self._launch(name)
            self._wait_ready(time.monotonic() + patience)
        except BaseException:
            self.stop()
            raise

    def tend(self) -> None:
        """Start again what has ended; call it now and then."""
        if self._valkey is not None and self._valkey.poll() is not None:
            log.warning("the embedded Valkey ended, starting it again")
            self._start_valkey()
        for name, process in self._processes.items():
            ended = process.poll() is not None
            if ended and time.monotonic() - self._started[name] > _RESTART_SECONDS:
                log.warning("%s ended with %s, starting it again", name, process.returncode)
                self._launch(name)

    def stop(self) -> None:
        """End every process, workers first, and free home and port."""
        processes = list(reversed(self._processes.values()))
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in processes:
            _wait(process, deadline)
        if self._valkey is not None:
            self._valkey.terminate()
            _wait(self._valkey, time.monotonic() + _GRACE_SECONDS)
        for held in (self._socket, self._lock):
            if held is not None:
                held.close()
        self._processes, self._valkey, self._socket, self._lock = {}, None, None, None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _start_valkey(self) -> None:
        try:
            self._valkey = embedded.start(self.settings.home)
        except embedded.EmbeddedError as error:
            raise StackError(str(error)) from None

    def _take_home(self) -> None:
        home = self.settings.home
        home.mkdir(parents=True, exist_ok=True)
        self._lock = (home / "serve.lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(
                f"{home} is in use by another service; stop it or set HYPERFORGET_HOME"
            ) from None

    def _listen(self) -> None:
        host, port = self.settings.host, self.settings.port
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self._socket = socket.create_server((host, port), family=family, backlog=2048)
        except OSError as error:
            raise StackError(f"can't listen on {host}:{port}: {error}; set PORT") from None

    def _launch(self, name: str) -> None:
        assert self._socket is not None
        command = [sys.executable, "-m", "hyperforget", name.partition("-")[0]]
        handed: Sequence[int] = ()
        if name == "api":
            handed = (self._socket.fileno(),)
            command += ["--fd", str(handed[0])]
        with ExitStack() as opened:
            log = opened.enter_context(self._log.open("ab")) if self._log else None
            self._processes[name] = subprocess.Popen(
                [*command, "--parent", str(os.getpid())],
                env=os.environ | environment(self.settings),
                pass_fds=handed,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the parent alone, which stops in order
            )
        self._started[name] = time.monotonic()

    def _wait_ready(self, deadline: float) -> None:
        said = "nothing yet"
        while time.monotonic() < deadline:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise StackError(f"{name} ended at once with {process.returncode}, see above")
            try:
                # trust_env: a proxy is no way to our own loopback.
                answer = httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False)
                if answer.status_code == 200:
                    return
                said, workers = answer.text, answer.json().get("workers", {})
            except (httpx.TransportError, ValueError) as error:
                said, workers = repr(error), {}
            if workers and not any(workers.values()):
                raise StackError("no generator can be served; the worker says why above")
            time.sleep(0.05)
        raise StackError(f"the service is not ready in time; it says: {said}")


def environment(settings: Settings) -> dict[str, str]:
    """Return the settings as the environment a child process reads them from."""
    values = {
        name: os.pathsep.join(map(str, value)) if isinstance(value, tuple) else str(value)
        for name, value in settings.model_dump(exclude_none=True).items()
    }
    return {f"HYPERFORGET_{name.upper()}": value for name, value in values.items()}


def _wait(process: subprocess.Popen[bytes], deadline: float) -> None:
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
