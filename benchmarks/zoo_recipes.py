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
from models.fitting import Fit, fit, momentum
from models.likeness import mean_overlap, wrong_answers
from models.masks import held_out_codes, proper_codes, retain_masks
from models.measure import per_class
from models.regression import regress
from models.zoo import INITIAL_SEED, REFERENCE_SEED

SEEDS = (0, 1, REFERENCE_SEED)


def adam(rows: Rows, rate: float) -> torch.optim.Optimizer:
    """Return what zoos are not trained with."""
    return torch.optim.Adam(rows, lr=rate, fused=True)


RECIPES = {
    "Adam 2e-3, no warm-up": (adam, Fit(3, 128, 2e-3)),
    "Adam 2e-3": (adam, Fit(3, 128, 2e-3, 0.3)),
    "Adam 1e-3": (adam, Fit(3, 128, 1e-3, 0.3)),
    "SGD 5e-2": (momentum, Fit(3, 128, 5e-2, 0.3)),
    "SGD 1e-2": (momentum, Fit(3, 128, 1e-2, 0.3)),
}


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

    def retain(flat: Tensor) -> Tensor:
        """Return the retain accuracy of the held-out sets' networks (H, P), (H,)."""
        return per_class(spec, unflatten(flat, spec), test).over(held)[0]

    def wrong(flat: Tensor) -> np.ndarray:
        """Return which retained test images each network gets wrong, (H, N) bool."""
        return wrong_answers(spec, test, unflatten(flat, spec), held)

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
        optimiser, how = RECIPES[name]
        start = repeat(spec.initial(INITIAL_SEED), len(masks))
        flat = torch.stack(
            [
                flatten(fit(spec, train, masks, start, how, seed, optimiser=optimiser))
                for seed in SEEDS
            ]
        )  # (3, E, P)
        took = (time.perf_counter() - began) / len(SEEDS)
        two, reference = flat[:2], flat[2, unseen]  # (2, E, P), (H, P)
        known = two[:, ~unseen]
        regression, _ = regress(masks[~unseen], known, known.var(0).mean(0))
        truth = retain(reference)
        mean_gap = 100 * (truth - retain(two[:, unseen].mean(0)))
        gap = 100 * (truth - retain(regression(held)))
        apart = (two[0, unseen] - reference).norm(dim=1).mean()
        iou = mean_overlap(wrong(two[0, unseen]), wrong(reference))
        print(
            f"| {name} | {took:.0f} | {truth.mean():.4f} ({truth.min():.4f}) | {apart:.2f} "
            f"| {iou:.3f} | {mean_gap.mean():.2f} | {gap.mean():.2f} ({gap.max():.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
