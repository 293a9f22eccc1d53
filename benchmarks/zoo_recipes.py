"""How the way classifiers are trained decides how well their weights can be foretold.

For each recipe, trains all forget sets of MNIST's 784-10-10 with three data orders, and prints:
retain accuracy of the held-out forget sets' networks, mean and worst; L2 and error IoU of two data
orders; the gap of the mean of two networks' weights, which tells whether they lie in one basin; and
gap and worst gap of a regression on the mask, fitted to two data orders of the other forget sets:
what an unseen forget set has of its own. Run: .venv/bin/python benchmarks/zoo_recipes.py
[--data ../shared/data] [RECIPE ...]
"""

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models import datasets
from models.classifiers import Rows, flatten, parse, repeat, unflatten
from models.ensembles import overlap
from models.fitting import Fit, follow, masked_loss
from models.masks import held_out_codes, proper_codes, retain_masks
from models.measure import per_class
from models.regression import regress
from models.zoo import INITIAL_SEED, REFERENCE_SEED

SEEDS = (0, 1, REFERENCE_SEED)
RECIPES = {
    "Adam 2e-3, no warm-up": ("adam", Fit(3, 128, 2e-3)),
    "Adam 2e-3": ("adam", Fit(3, 128, 2e-3, 0.3)),
    "Adam 1e-3": ("adam", Fit(3, 128, 1e-3, 0.3)),
    "SGD 5e-2": ("sgd", Fit(3, 128, 5e-2, 0.3)),
    "SGD 1e-2": ("sgd", Fit(3, 128, 1e-2, 0.3)),
}


def optimiser(kind: str, rows: Rows, rate: float) -> torch.optim.Optimizer:
    """Return Adam, or SGD as the zoo uses it."""
    if kind == "adam":
        return torch.optim.Adam(rows, lr=rate, fused=True)
    return torch.optim.SGD(rows, lr=rate, momentum=0.9, fused=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"of {', '.join(RECIPES)}")
    options = parser.parse_args()
    chosen = options.recipes or list(RECIPES)
    for name in chosen:
        if name not in RECIPES:
            parser.error(f"{name}: not one of {', '.join(RECIPES)}")
    dataset = datasets.load("mnist", options.data / "mnist")
    train, test, k = dataset.train, dataset.test, dataset.classes
    spec = parse("mlp:10", dataset.shape, k)
    codes = proper_codes(k)
    masks = retain_masks(codes, k)  # (E, K)
    unseen = torch.from_numpy(np.isin(codes, held_out_codes(k)))  # (E,)
    held = masks[unseen]  # (H, K)

    def trained(kind: str, how: Fit, seed: int) -> Tensor:
        """Return all networks of one data order, (E, P)."""
        total = how.steps(len(train))
        rng = torch.Generator().manual_seed(seed)
        orders = (torch.randperm(len(train), generator=rng) for _ in range(how.epochs))
        rows = follow(
            spec,
            train,
            repeat(spec.initial(INITIAL_SEED), len(masks)),
            (index for order in orders for index in torch.split(order, how.batch)),
            lambda logits, index, step: masked_loss(logits, train.y[index], masks),
            lambda rows: optimiser(kind, rows, how.rate),
            lambda step: how.factor(step, total),
        )
        return flatten(rows)

    def retain(flat: Tensor) -> Tensor:
        """Return the retain accuracy of the held-out sets' networks (H, P), (H,)."""
        return per_class(spec, unflatten(flat, spec), test).over(held)[0]

    def wrong(flat: Tensor) -> np.ndarray:
        """Return which retained test images each network gets wrong, (H, N) bool."""
        answers = spec.forward_many(unflatten(flat, spec), test.x).argmax(2)  # (H, N)
        return ((answers != test.y) & held[:, test.y]).numpy()

    print(
        f"MNIST, MLP 784-10-10, 3 epochs, batch 128, warm-up 30% unless said; n = {len(held)} "
        f"held-out forget sets, data orders {SEEDS}, test split, {platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    print(
        "| recipe | s a seed | retain (worst) | L2 of two seeds | error IoU "
        "| mean of two: gap | regression: gap (worst) |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in chosen:
        began = time.perf_counter()
        flat = torch.stack([trained(*RECIPES[name], seed) for seed in SEEDS])  # (3, E, P)
        took = (time.perf_counter() - began) / len(SEEDS)
        two, reference = flat[:2], flat[2, unseen]  # (2, E, P), (H, P)
        known = two[:, ~unseen]
        regression, _ = regress(masks[~unseen], known, known.var(0).mean(0))
        truth = retain(reference)
        mean_gap = 100 * (truth - retain(two[:, unseen].mean(0)))
        gap = 100 * (truth - retain(regression(held)))
        apart = (two[0, unseen] - reference).norm(dim=1).mean()
        pairs = zip(wrong(two[0, unseen]), wrong(reference), strict=True)
        iou = np.mean([overlap(a, b) for a, b in pairs])
        print(
            f"| {name} | {took:.0f} | {truth.mean():.4f} ({truth.min():.4f}) | {apart:.2f} "
            f"| {iou:.3f} | {mean_gap.mean():.2f} | {gap.mean():.2f} ({gap.max():.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
