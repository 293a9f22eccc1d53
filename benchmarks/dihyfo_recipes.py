"""How the size and the training of a DiHyFo decide how close its draws come to retraining.

Trains one DiHyFo for each line of options on a zoo that `hyperforget train mnist-mlp` left in its
home, and prints, over the 204 held-out masks of the test split (first sample, nothing chosen):
the gap to retraining of one draw, not refined and refined, the worst mask's, the highest forget
accuracy, the distance of two samples over that of two retrained networks, and how their errors
overlap (IoU). Run: .venv/bin/python benchmarks/dihyfo_recipes.py [--home .hyperforget]
[--data ../shared/data] [width=128 steps=2000] [dropout=0.2] ...
"""

import argparse
import platform
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from models import classifiers, datasets, regression
from models.build import PRESETS
from models.classifiers import Rows, flatten, unflatten
from models.dihyfo import Architecture
from models.ensembles import overlap
from models.masks import held_out_codes, proper_codes, reference_codes, retain_masks, training_codes
from models.measure import per_class
from models.refinement import refine
from models.sampler import first_noise, sample
from models.training import Schedule, train
from models.zoo import REFERENCE_SEED, grow

NAME = "mnist-mlp"
T = TypeVar("T", Architecture, Schedule)


def changed(plain: T, text: str) -> T:
    """Return sizes or a schedule with what a line such as ``width=96 steps=2000`` asks for."""
    given = dict(part.split("=") for part in text.split())
    known = {f.name: type(getattr(plain, f.name)) for f in fields(plain)}
    return replace(plain, **{name: known[name](given[name]) for name in known if name in given})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lines", nargs="*", default=[""])
    parser.add_argument("--home", type=Path, default=Path(".hyperforget"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    known = {field.name for kind in (Architecture, Schedule) for field in fields(kind)}
    for part in " ".join(options.lines).split():
        if part.partition("=")[0] not in known:
            parser.error(f"{part}: not one of {', '.join(sorted(known))}")
    dataset = datasets.load("mnist", options.data / "mnist")
    recipe = PRESETS[NAME][1]
    k = dataset.classes
    spec = classifiers.parse(recipe.classifier, dataset.shape, k)
    work = options.home / "build" / NAME
    zoo = grow(
        *(work / "zoo", spec, dataset, training_codes(k), range(recipe.zoo_seeds), recipe.fit),
        traced=recipe.prompt_seeds,
    )
    seeds = range(REFERENCE_SEED, REFERENCE_SEED + recipe.reference_seeds)
    retrained = grow(work / "reference", spec, dataset, reference_codes(k, None), seeds, recipe.fit)
    assert len(retrained.codes) == len(proper_codes(k)) + 1
    codes = held_out_codes(k)
    masks, where = retain_masks(codes, k), retrained.where(codes)
    gold = [retrained.rows(seed, where) for seed in range(len(seeds))]
    truth = torch.stack([per_class(spec, rows, dataset.test).over(masks)[0] for rows in gold])

    def wrong(rows: Rows) -> np.ndarray:
        found = spec.forward_many(rows, dataset.test.x).argmax(2) != dataset.test.y  # (E, N)
        return (found & masks[:, dataset.test.y]).numpy()  # (E, N)

    def alike(one: Rows, two: Rows) -> float:
        return float(np.mean([overlap(a, b) for a, b in zip(wrong(one), wrong(two), strict=True)]))

    def gap(rows: Rows) -> str:
        measured = per_class(spec, rows, dataset.test)
        apart = 100 * (truth.mean(0) - measured.over(masks)[0])  # (E,)
        forget = measured.over(~masks)[0].max()
        return f"{apart.mean():.2f} | {apart.max():.2f} | {forget:.5f}"

    distance = (flatten(gold[0]) - flatten(gold[1])).norm(dim=1).mean()
    print(
        f"{NAME}, n = {len(codes)} held-out masks, test split, references {list(seeds)}, "
        f"{platform.machine()}, {torch.get_num_threads()} threads; error IoU of two retrained "
        f"networks {alike(gold[0], gold[1]):.3f}\n"
    )
    print(
        "| DiHyFo | gap | worst | forget max | refined: gap | worst | forget max "
        "| pair L2 ratio | error IoU | trained in |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    centre = regression.regress(zoo.masks, zoo.weights)[0](masks)  # (E, P)
    print(f"| the regression alone | {gap(unflatten(centre, spec))} | | | | | | |", flush=True)
    noises = [first_noise(spec, range(at, at + len(codes))) for at in (0, 10_000)]  # (E, P) each
    for line in options.lines:
        began = time.perf_counter()
        model = train(
            *(zoo, dataset.train, changed(recipe.architecture, line)),
            changed(recipe.schedule, line),
        )
        seconds = time.perf_counter() - began
        model.requires_grad_(False)
        plain = [sample(model, masks, noise, recipe.steps) for noise in noises]
        one, two = (
            refine(model, rows, noise, masks, dataset.train, recipe.refinement)
            for rows, noise in zip(plain, noises, strict=True)
        )
        ratio = (flatten(one) - flatten(two)).norm(dim=1).mean() / distance
        print(
            f"| {line or 'as shipped'} | {gap(plain[0])} | {gap(one)} | {ratio:.2f} | "
            f"{alike(one, two):.3f} | {seconds:.0f} s |",
            flush=True,
        )


if __name__ == "__main__":
    main()
