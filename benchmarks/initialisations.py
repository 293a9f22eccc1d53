"""How classifiers are initialised decides how well their weights can be foretold.

For each initialisation, trains the recipe's networks of forget sets that are the corners of cubes:
a random forget set, and those that differ from it in any of three random classes. The weights of
each corner are then foretold from the six that differ from it in one or two classes, as if weights
changed evenly. Prints retain accuracy, L2 between networks one class apart, and what the foretold
weights miss: L2, gap and worst gap of retain accuracy in points, and the largest forget accuracy.
Run: .venv/bin/python benchmarks/initialisations.py [cifar10-cnn] [--data ../shared/data]
[--cubes 3]
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models import datasets
from models.build import PRESETS
from models.classifiers import Classifier, Rows, flatten, parse, repeat, unflatten
from models.fitting import fit
from models.layers import initial_rows
from models.masks import retain_masks
from models.measure import per_class
from models.zoo import INITIAL_SEED


def of_torch(spec: Classifier) -> Rows:
    """Return what torch's own layers begin with: all weights and biases up to 1 / sqrt(fan-in)."""
    rng = torch.Generator().manual_seed(INITIAL_SEED)
    return [
        (2 * torch.rand(1, layer.units, layer.fan_in + 1, generator=rng) - 1) * layer.fan_in**-0.5
        for layer in spec.layers
    ]


def of_torch_then_zero(spec: Classifier) -> Rows:
    """Return the same with an output layer of 0."""
    *rows, last = of_torch(spec)
    return [*rows, torch.zeros_like(last)]


INITIALISATIONS: dict[str, Callable[[Classifier], Rows]] = {
    "torch's": of_torch,
    "torch's, output layer 0": of_torch_then_zero,
    "He's, output layer 0": lambda spec: initial_rows(spec.layers, INITIAL_SEED),
    "as used": lambda spec: spec.initial(INITIAL_SEED),
}


def foretold(weights: Tensor) -> Tensor:
    """Return each corner's weights from those of its neighbours, (8, P): even change."""
    corners = []
    for v in range(8):
        near = weights[[v ^ (1 << i) for i in range(3)]].sum(0)  # one class away
        far = weights[[v ^ 7 ^ (1 << i) for i in range(3)]].sum(0)  # two classes away
        corners.append((2 * near - far) / 3)
    return torch.stack(corners)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", default="cifar10-cnn", choices=list(PRESETS))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cubes", type=int, default=3)
    options = parser.parse_args()
    source, recipe = PRESETS[options.name]
    dataset = datasets.load(source, options.data / source)
    spec = parse(recipe.classifier, dataset.shape, dataset.classes)
    rng, k = np.random.default_rng(0), dataset.classes
    cubes = []
    for _ in range(options.cubes):
        labels = rng.permutation(k)  # three may change, three are forgotten, the others retained
        base = sum(1 << int(c) for c in labels[3:6])
        flips = [sum(1 << int(labels[i]) for i in range(3) if v >> i & 1) for v in range(8)]
        cubes.append(retain_masks([base ^ flip for flip in flips], k))  # (8, K)
    print(
        f"{options.name}, {recipe.fit}; n = {8 * options.cubes} forget sets, test split, "
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    print(
        "| initialisation | s a network | retain | L2 one class apart "
        "| foretold: L2 | gap (worst) | forget, max |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, initial in INITIALISATIONS.items():
        began = time.perf_counter()
        retain, gap, missed, edges, forget = [], [], [], [], []
        for masks in cubes:
            start = repeat(initial(spec), 8)
            rows = fit(spec, dataset.train, masks, start, recipe.fit, seed=0)
            flat = flatten(rows)  # (8, P)
            guess = foretold(flat)  # (8, P)
            true = per_class(spec, rows, dataset.test)
            told = per_class(spec, unflatten(guess, spec), dataset.test)
            retain.append(true.over(masks)[0])
            gap.append(100 * (true.over(masks)[0] - told.over(masks)[0]))
            missed.append(torch.linalg.vector_norm(guess - flat, dim=1))
            edges.append(torch.linalg.vector_norm(flat - flat[[1, 0, 3, 2, 5, 4, 7, 6]], dim=1))
            forget.append(told.over(~masks)[0])
        took = (time.perf_counter() - began) / (8 * options.cubes)
        gaps, retained, apart, off = map(torch.cat, (gap, retain, edges, missed))
        print(
            f"| {name} | {took:.1f} | {retained.mean():.4f} | {apart.mean():.2f} "
            f"| {off.mean():.2f} | {gaps.mean():.2f} ({gaps.max():.2f}) "
            f"| {torch.cat(forget).max():.5f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
