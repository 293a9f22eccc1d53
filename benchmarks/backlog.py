"""How fast the service takes requests in and works a backlog off.

Posts N jobs at once over HTTP, then waits until all have succeeded. Run: .venv/bin/python
benchmarks/backlog.py [--jobs 200]
"""

import argparse
import os
import platform
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np

from core.ledger import Ledger
from core.settings import Settings
from core.stack import Stack
from core.states import Status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    options = parser.parse_args()

    with (
        tempfile.TemporaryDirectory() as home,
        Stack(Settings(home=home, port=0)) as stack,
        httpx.Client(base_url=stack.url, timeout=60) as client,
    ):

        def post(i: int) -> float:
            began = time.perf_counter()
            client.post("/unlearn", json={"forget": [i % 10], "seed": i}).raise_for_status()
            return 1e3 * (time.perf_counter() - began)

        began = time.perf_counter()
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(post, range(options.jobs)))
        posted = time.perf_counter()
        ledger = Ledger(stack.settings.database_url)
        while len(ledger.page(options.jobs, status=Status.SUCCEEDED)) < options.jobs:
            time.sleep(0.02)
        ended = time.perf_counter()
        ledger.close()

    print(
        f"{options.jobs} jobs of 8 candidates on digits-mlp, one worker, 16 connections, "
        f"{platform.machine()}, {os.cpu_count()} CPUs"
    )
    print(f"POST /unlearn: {options.jobs / (posted - began):.0f} a second, ", end="")
    print(f"median {np.median(answers):.1f} ms, p95 {np.quantile(answers, 0.95):.1f} ms")
    print(
        f"all succeeded after {ended - began:.2f} s: {options.jobs / (ended - began):.0f} a second"
    )


if __name__ == "__main__":
    main()
