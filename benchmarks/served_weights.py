"""Downloaded weights, judged by numpy alone on the official digits.

Starts the service, posts 50 random forget sets of 1 to 9 classes over HTTP, downloads the
weights and evaluates them without this project's code. Run: .venv/bin/python
benchmarks/served_weights.py [--sets 50] [--seed 0]
"""

import argparse
import os
import platform
import random
import tempfile
import time

import httpx
import numpy as np
from safetensors.numpy import load
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from core.settings import Settings
from core.stack import Stack


def accuracy(weights: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
    """What anybody can write: two matrix products and a maximum."""
    hidden = np.maximum(x @ weights["fc1.weight"].T + weights["fc1.bias"], 0)
    logits = hidden @ weights["fc2.weight"].T + weights["fc2.bias"]
    return float((logits.argmax(1) == y).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)

    x, y = load_digits(return_X_y=True)
    _, x, _, y = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)

    forgot, gaps, took = [], [], []
    with (
        tempfile.TemporaryDirectory() as home,
        Stack(Settings(home=home, port=0)) as stack,
        httpx.Client(base_url=stack.url, timeout=60) as client,
    ):
        described = client.get("/generators/digits-mlp").json()
        mean, std = described["normalize"]["mean"], described["normalize"]["std"]
        x = (x / 16 - mean) / std
        for i in range(options.sets):
            forget = sorted(rng.sample(range(10), 1 + i % 9))
            began = time.perf_counter()
            job = client.post("/unlearn", json={"forget": forget, "seed": i}).json()
            where = job["links"]["self"]
            while job["status"] in ("queued", "running"):
                time.sleep(0.002)
                job = client.get(where).json()
            weights = load(client.get(job["links"]["weights"]).content)
            took.append(1e3 * (time.perf_counter() - began))
            out = np.isin(y, forget)
            forgot.append(accuracy(weights, x[out], y[out]))
            retain = accuracy(weights, x[~out], y[~out])
            gaps.append(100 * (job["metrics"]["retrained"]["retain_accuracy"] - retain))

    print(
        f"digits-mlp over HTTP, n = {options.sets} forget sets of 1 to 9 classes, seed "
        f"{options.seed}, {len(y)} test images, {platform.machine()}, {os.cpu_count()} CPUs"
    )
    print(f"forget accuracy: max {max(forgot):.4f}, at 0 in {np.mean(np.array(forgot) == 0):.0%}")
    print(f"retain gap to retrained, points: mean {np.mean(gaps):.2f}, worst {max(gaps):.2f}")
    print(f"request to weights, ms: median {np.median(took):.0f}, worst {max(took):.0f}")


if __name__ == "__main__":
    main()
