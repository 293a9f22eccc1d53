"""How the method grows with the classifier: weights drawn, training time, gap, sampling time.

All learn from as many networks: 160 training masks of one data order, 24 of them once more; 24
held-out masks are retrained with two data orders. Printed for each classifier (MNIST, test split,
first sample of each held-out mask, nothing chosen): accuracy of the original and of retraining,
gap to retraining of a draw as served and not refined, with the worst mask's, the highest forget
accuracy, and what building and drawing take. Resumes from its networks in HYPERFORGET_HOME.
Run: .venv/bin/python benchmarks/growth.py [--data ../shared/data] [mlp:10 cnn:small ...]
"""

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import torch

from core.settings import Settings
from models import classifiers, datasets
from models.audit import time_draws
from models.build import PRESETS
from models.masks import held_out_codes, reference_codes, retain_masks, training_codes
from models.material import Source, draw
from models.measure import per_class
from models.reference import measure_reference
from models.sampler import first_noise
from models.training import train
from models.zoo import REFERENCE_SEED, grow

CLASSIFIERS = ("mlp:10", "mlp:32", "mlp:64", "cnn:small")
MASKS, TWINS, HELD_OUT, BATCH = 160, 24, 24, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("classifiers", nargs="*", default=CLASSIFIERS)
    options = parser.parse_args()
    dataset = datasets.load("mnist", options.data / "mnist")
    print(
        f"MNIST, test split, n = {HELD_OUT} held-out masks, references {REFERENCE_SEED} and "
        f"{REFERENCE_SEED + 1}, {platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}\n"
    )
    print(
        "| classifier | weights | original, retrained | gap as served (worst) | forget max "
        "| gap not refined (worst) | training DiHyFo, s | retrain, ms | draw, ms "
        f"| of {BATCH}, ms | draw and refine, ms |"
    )
    print("| --- " * 11 + "|")
    for text in options.classifiers:
        print(row(text, dataset), flush=True)


def row(text: str, dataset: datasets.Dataset) -> str:
    """Build, measure and describe one classifier's generator."""
    k = dataset.classes
    spec = classifiers.parse(text, dataset.shape, k)
    recipe = PRESETS["mnist-cnn" if text.startswith("cnn") else "mnist-mlp"][1]
    work = Settings().home / "build" / "growth" / text.replace(":", "-").replace("/", "-")
    zoo = grow(
        *(work / "zoo", spec, dataset, training_codes(k, MASKS), range(1), recipe.fit),
        twins=TWINS,
        traced=1,
    )
    seeds = range(REFERENCE_SEED, REFERENCE_SEED + 2)
    retrained = grow(
        work / "reference", spec, dataset, reference_codes(k, HELD_OUT), seeds, recipe.fit
    )
    codes = held_out_codes(k)[:HELD_OUT]
    masks = retain_masks(codes, k)  # (E, K)
    began = time.perf_counter()
    model = train(zoo, dataset.train, recipe.architecture, recipe.schedule)
    took = time.perf_counter() - began
    m = Source(
        *(spec, dataset, model.requires_grad_(False), None, recipe.steps, recipe.refinement),
        *(codes, recipe.fit),
    )
    reference = measure_reference(retrained, dataset)
    truth = np.array([reference.retain_accuracy(int(code)).mean() for code in codes])  # (E,)
    gaps, forget = {}, {}
    for name, how in m.hows.items():
        rows = draw(m, masks, first_noise(spec, range(len(codes))), how)
        measured = per_class(spec, rows, dataset.test)
        gap = 100 * (truth - measured.over(masks)[0].numpy())
        gaps[name] = f"{gap.mean():.2f} ({gap.max():.2f})"
        forget[name] = measured.over(~masks)[0].max()
    timing = time_draws(m, BATCH)
    served, plain = timing["dihyfo"], timing["dihyfo_unrefined"]
    return (
        f"| {text} | {spec.parameters:,} | {reference.retain_accuracy(0).mean():.4f}, "
        f"{truth.mean():.4f} | {gaps['dihyfo']} | {forget['dihyfo']:.5f} "
        f"| {gaps['dihyfo_unrefined']} | {took:.0f} | {timing['retrain_one_ms']:.0f} "
        f"| {plain['one_ms']:.1f} | {plain['each_in_batch_ms']:.2f} | {served['one_ms']:.0f} |"
    )


if __name__ == "__main__":
    main()
