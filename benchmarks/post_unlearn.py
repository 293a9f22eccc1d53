"""How long POST /unlearn takes, against a bare FastAPI route that writes one row.

2.6 times as long (medians of 77 and 29 ms; 2.5 to 3.2 by rounds), p99 0.6 times (148 and 251 ms);
API process 121 MB, no torch. n = 7 rounds of 500 requests in turns, 50 connections, nothing random,
x86_64, 2 CPUs, quiet.

Both are uvicorn processes on a SQLite file of their own with the ledger's pragmas
(write-ahead log, synchronous=FULL: on disk before the answer), asked in turns, in one run.
The service also checks, counts against its limits, and rings on Redis. Run: .venv/bin/python
benchmarks/post_unlearn.py [--rounds 7] [--requests 500] [--connections 50]
"""

import argparse
import asyncio
import json
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from core import embedded
from core.settings import Settings
from core.stack import environment

BODY = json.dumps({"forget": [3, 7], "external_id": "ticket-118", "seed": 1}).encode()


class Row(BaseModel):
    """What the bare route takes."""

    forget: list[int]
    external_id: str
    seed: int


def bare(path: str, port: int) -> None:
    """Serve a route that writes its body into one row."""
    import sqlalchemy as sa

    from core.database import Database

    database, metadata = Database(f"sqlite:///{path}"), sa.MetaData()
    rows = sa.Table(
        "rows",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("forget", sa.JSON),
        sa.Column("external_id", sa.String(200)),
        sa.Column("seed", sa.Integer),
    )
    with database.write() as connection:
        metadata.create_all(connection)
    app = FastAPI()

    @app.post("/unlearn", status_code=202)
    def write(row: Row) -> dict[str, int]:
        with database.write() as connection:
            made = connection.execute(sa.insert(rows).values(**row.model_dump()))
        return {"id": made.lastrowid}

    uvicorn.run(app, port=port, log_config=None, access_log=False, server_header=False)


@contextmanager
def process(command: list[str], port: int, settings: Settings) -> Iterator[int]:
    """Run a server and give its process id once it listens."""
    server = subprocess.Popen(
        [sys.executable, *command],
        env=os.environ | environment(settings),
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            assert server.poll() is None
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield server.pid
    finally:
        server.terminate()
        server.wait()


async def ask(port: int, requests: int, connections: int) -> list[float]:
    """POST over kept connections; return the milliseconds of each request."""
    head = b"POST /unlearn HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    message = head + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    left, took = requests, list[float]()

    async def client() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left > 0:
            left -= 1
            began = time.perf_counter()
            writer.write(message)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
            assert answer.startswith(b"HTTP/1.1 202")
            assert length is not None
            await reader.readexactly(int(length[1]))
            took.append(1e3 * (time.perf_counter() - began))
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return took


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def resident(pid: int) -> float:
    """Return a process' VmRSS in MB."""
    (kilobytes,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kilobytes) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--bare", nargs=2, metavar=("FILE", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare(options.bare[0], int(options.bare[1]))
        return

    ports = {"POST /unlearn": free_port(), "bare route": free_port()}
    took: dict[str, list[list[float]]] = {name: [] for name in ports}
    with ExitStack() as opened:
        home = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        many = 2 * (options.rounds + 1) * options.requests
        settings = Settings(
            home=home,
            port=ports["POST /unlearn"],
            max_waiting=many,
            max_waiting_total=many,
            rate_limit=60 * many,
        )
        valkey = embedded.start(home)
        opened.callback(valkey.terminate)
        api = opened.enter_context(
            process(["-m", "hyperforget", "api"], ports["POST /unlearn"], settings)
        )
        command = [__file__, "--bare", str(home / "bare.sqlite"), str(ports["bare route"])]
        opened.enter_context(process(command, ports["bare route"], settings))
        for i in range(options.rounds + 1):
            for name, port in ports.items():
                round_ = asyncio.run(ask(port, options.requests, options.connections))
                if i:  # the first warms up
                    took[name].append(round_)
        memory, torch = resident(api), "libtorch" in Path(f"/proc/{api}/maps").read_text()

    print(
        f"n = {options.rounds} rounds of {options.requests} requests, in turns, "
        f"{options.connections} connections, no worker, {platform.machine()}, {os.cpu_count()} CPUs"
    )
    for name, rounds in took.items():
        flat = np.concatenate(rounds)
        seconds = 1e-3 * flat.sum() / options.connections
        print(
            f"{name}: median {np.median(flat):.1f} ms, p99 {np.quantile(flat, 0.99):.1f} ms, "
            f"{len(flat) / seconds:.0f} a second"
        )
    mine, theirs = took.values()
    each = [np.median(a) / np.median(b) for a, b in zip(mine, theirs, strict=True)]
    p99 = np.quantile(np.concatenate(mine), 0.99) / np.quantile(np.concatenate(theirs), 0.99)
    ratio = np.median(np.concatenate(mine)) / np.median(np.concatenate(theirs))
    print(
        f"ratio of medians {ratio:.2f} (rounds {min(each):.2f} to {max(each):.2f}), "
        f"of p99 {p99:.2f}"
    )
    print(f"API process: {memory:.0f} MB resident, torch {'loaded' if torch else 'not loaded'}")


if __name__ == "__main__":
    main()
