"""Every forget set of a generator as the service answers it: 8 candidates, the best on validation.

Prints forget accuracy and the gap to retraining on the test split: mean, worst, and how many of
the 1,022 sets miss a bar, held-out sets beside those DiHyFo learned from.
Run: .venv/bin/python benchmarks/every_forget_set.py [generators/mnist-mlp] [--data ../shared/data]
[--candidates 8] [--seed 1]
"""

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import torch

from models import generator
from models.masks import forget_labels, proper_codes
from models.unlearning import ForgetRequest, unlearn

GAP = 1.5  # points: what a gap is to stay below
TOGETHER = 16  # requests a batch, as a busy worker takes them


def retrained(found: generator.Generator, code: int) -> np.ndarray:
    """Return the forget accuracy of each retrained network of a forget set, (R,)."""
    labels = list(forget_labels(code, found.classifier.classes))
    accuracy, _ = found.reference.of(code)  # (R, K)
    n = found.reference.n[labels]
    return np.asarray((accuracy[:, labels] * n).sum(1) / n.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("generators/mnist-mlp"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    found = generator.load(options.folder, options.data)
    k = found.classifier.classes
    codes = proper_codes(k)
    began = time.perf_counter()
    gaps, forgot, accepted = [], [], []
    for start in range(0, len(codes), TOGETHER):
        requests = [
            ForgetRequest(forget_labels(int(code), k), options.candidates, options.seed)
            for code in codes[start : start + TOGETHER]
        ]
        for answer in unlearn(found, requests):
            metrics = answer.metrics
            gaps.append(
                100 * (metrics["retrained"]["retain_accuracy"] - metrics["retain"]["accuracy"])
            )
            forgot.append(metrics["forget"]["accuracy"])
            accepted.append(answer.accepted)
    seconds = time.perf_counter() - began
    gap, forget = np.array(gaps), np.array(forgot)  # (2**K - 2,) each
    gold = np.array([retrained(found, int(code)) for code in codes])  # (2**K - 2, R)
    held_out = np.isin(codes, found.config["held_out"])
    print(
        f"{options.folder.name}: {len(codes)} forget sets, {options.candidates} candidates, seed "
        f"{options.seed}, {seconds:.0f} s; {platform.machine()}, {torch.get_num_threads()} threads"
    )
    for name, part in (("all", np.ones_like(held_out)), ("held out", held_out)):
        print(
            f"{name:9} n = {part.sum():4}  gap mean {gap[part].mean():.2f} worst "
            f"{gap[part].max():.2f}, {int((gap[part] >= GAP).sum())} at {GAP} or more; forget "
            f"accuracy max {forget[part].max():.5f}, {int((forget[part] > 0).sum())} above 0"
        )
    for seed, values in enumerate(gold.T):
        above = int((values > 0).sum())
        print(f"retrained {seed}: forget accuracy max {values.max():.5f}, {above} above 0")
    print(f"sets without an accepted candidate: {sum(count == 0 for count in accepted)}")
    for title, order in (("gap", np.argsort(-gap)), ("forget accuracy", np.argsort(-forget))):
        print(f"worst by {title}:")
        for i in order[:5]:
            labels = forget_labels(int(codes[i]), k)
            print(
                f"  forget {labels}: gap {gap[i]:.2f}, forget accuracy {forget[i]:.5f}, retrained "
                f"{', '.join(f'{value:.5f}' for value in gold[i])}"
            )


if __name__ == "__main__":
    main()
