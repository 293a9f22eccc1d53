"""How the way classifiers are trained decides how far two data orders end up apart.

    python benchmarks/zoo_recipes.py [--data ../shared/data/mnist] [--masks 24] [--seed 5]

MNIST, MLP 784-10-10. For each recipe: retain accuracy of the networks, distance and overlap of
errors of two seeds, and the retain accuracy of the mean of four seeds' weights, which tells
whether they lie in one basin.
"""

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import torch

from core.settings import Settings
from models.baselines import retrain
from models.classifiers import flatten, parse, unflatten
from models.datasets import load_mnist
from models.ensembles import overlap
from models.fitting import Fit
from models.masks import proper_codes, retain_masks
from models.measure import per_class

RECIPES = {
    "3 epochs, batch 128, rate 3e-3, no warm-up": Fit(3, 128, 3e-3),
    "3 epochs, batch 128, rate 1e-3, no warm-up": Fit(3, 128, 1e-3),
    "3 epochs, batch 128, rate 2e-3, warm-up 30%": Fit(3, 128, 2e-3, 0.3),
    "3 epochs, batch 128, rate 3e-3, warm-up 30%": Fit(3, 128, 3e-3, 0.3),
}
SEEDS = 4


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path)
    arguments.add_argument("--masks", type=int, default=24)
    arguments.add_argument("--seed", type=int, default=5)
    given = arguments.parse_args()
    root = Settings().data
    dataset = load_mnist(given.data or (root / "mnist" if root else Path("mnist")))
    spec = parse("mlp:10", dataset.shape, dataset.classes)
    codes = np.random.default_rng(given.seed).permutation(proper_codes(10))[: given.masks]
    masks = retain_masks(codes, 10)
    print(
        f"MNIST, MLP 784-10-10, n = {given.masks} forget sets x {SEEDS} seeds, drawn with seed "
        f"{given.seed}, test split, {platform.machine()}, torch {torch.__version__}\n"
    )
    print("| recipe | s a seed | retain | L2 of two seeds | error IoU | retain of mean weights |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, how in RECIPES.items():
        began = time.perf_counter()
        nets = [retrain(spec, dataset.train, masks, how, seed) for seed in range(SEEDS)]
        took = (time.perf_counter() - began) / SEEDS
        flat = torch.stack([flatten(rows) for rows in nets])  # (S, E, P)
        retain = torch.stack([per_class(spec, r, dataset.test).over(masks)[0] for r in nets])
        wrong = []
        for rows in nets[:2]:
            answers = spec.forward_many(rows, dataset.test.x).argmax(2)  # (E, N)
            wrong.append((answers != dataset.test.y) & masks[:, dataset.test.y])
        iou = np.mean([overlap(*pair) for pair in zip(*(w.numpy() for w in wrong), strict=True)])
        mean = per_class(spec, unflatten(flat.mean(0), spec), dataset.test).over(masks)[0].mean()
        apart = (flat[0] - flat[1]).norm(dim=1).mean()
        print(
            f"| {name} | {took:.1f} | {retain.mean():.4f} | {apart:.2f} | {iou:.3f} | {mean:.4f} |"
        )


if __name__ == "__main__":
    main()
