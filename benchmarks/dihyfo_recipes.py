"""How the size and the training of a DiHyFo decide how close its draws come to retraining.

Trains one DiHyFo for each line of options on the networks that `hyperforget train mnist-mlp` left
in its home, and prints, over the 204 held-out masks of the test split (first sample, nothing
chosen): the gap to retraining of one draw, not refined and refined, the worst mask's, the highest
forget accuracy, the distance of two samples over that of two retrained networks, and how their
errors overlap (IoU). A line may hold any part of an `Architecture` or a `Schedule`, `seeds` (of the
zoo, to learn from fewer) and `sampler` (network evaluations of one sample). Run: .venv/bin/python
benchmarks/dihyfo_recipes.py [--home .hyperforget] [--data ../shared/data] ["width=128 steps=2000"]
["noise_one=0 sampler=8"] [seeds=2] ...
"""

import argparse
import platform
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

import torch

from models import generator
from models.build import PRESETS
from models.classifiers import Rows, flatten, unflatten
from models.dihyfo import Architecture
from models.likeness import mean_overlap, wrong_answers
from models.masks import retain_masks
from models.material import draw, load_with_zoo
from models.measure import per_class
from models.refinement import Refinement
from models.regression import regress
from models.sampler import first_noise
from models.training import Schedule, train

NAME = "mnist-mlp"
T = TypeVar("T", Architecture, Refinement, Schedule)


def parts(text: str) -> dict[str, str]:
    """Return what a line such as ``width=96 steps=2000`` asks for."""
    return dict(part.split("=") for part in text.split())


def changed(plain: T, given: dict[str, str]) -> T:
    """Return a part of a recipe with what a line asks of it."""
    known = {f.name: type(getattr(plain, f.name)) for f in fields(plain)}
    return replace(plain, **{name: known[name](given[name]) for name in known if name in given})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lines", nargs="*", default=[""])
    parser.add_argument("--home", type=Path, default=Path(".hyperforget"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_intermixed_args()
    known = {field.name for kind in (Architecture, Schedule) for field in fields(kind)}
    known |= {"seeds", "sampler"}
    for part in " ".join(options.lines).split():
        if part.partition("=")[0] not in known:
            parser.error(f"{part}: not one of {', '.join(sorted(known))}")
    recipe = PRESETS[NAME][1]
    built = generator.load(options.home / "generators" / NAME, options.data)
    m, whole = load_with_zoo(built, options.home / "build" / NAME)
    masks, where = retain_masks(m.held_out, built.dataset.classes), m.retrained.where(m.held_out)
    gold = [m.retrained.rows(seed, where) for seed in range(len(m.retrained.seeds))]
    test = m.dataset.test
    truth = torch.stack([per_class(m.classifier, rows, test).over(masks)[0] for rows in gold])

    def alike(one: Rows, two: Rows) -> float:
        return mean_overlap(
            *(wrong_answers(m.classifier, test, rows, masks) for rows in (one, two))
        )

    def gap(rows: Rows) -> str:
        measured = per_class(m.classifier, rows, test)
        apart = 100 * (truth.mean(0) - measured.over(masks)[0])  # (E,)
        forget = measured.over(~masks)[0].max()
        return f"{apart.mean():.2f} | {apart.max():.2f} | {forget:.5f}"

    distance = (flatten(gold[0]) - flatten(gold[1])).norm(dim=1).mean()
    print(
        f"{NAME}, n = {len(masks)} held-out masks, test split, references "
        f"{list(m.retrained.seeds)}, "
        f"{platform.machine()}, {torch.get_num_threads()} threads; error IoU of two retrained "
        f"networks {alike(gold[0], gold[1]):.3f}\n"
    )
    print(
        "| DiHyFo | gap | worst | forget max | refined: gap | worst | forget max "
        "| pair L2 ratio | error IoU | trained in |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    centre = regress(whole.masks, whole.weights, whole.variance)[0](masks)  # (E, P)
    print(
        f"| the regression alone | {gap(unflatten(centre, m.classifier))} | | | | | | |", flush=True
    )
    noises = [
        first_noise(m.classifier, range(at, at + len(masks))) for at in (0, 10_000)
    ]  # (E, P) each
    for line in options.lines:
        given = parts(line)
        count = int(given.get("seeds", len(whole.seeds)))
        zoo = replace(whole, seeds=whole.seeds[:count], weights=whole.weights[:count])
        began = time.perf_counter()
        model = train(
            *(zoo, m.dataset.train, changed(recipe.architecture, given)),
            changed(recipe.schedule, given),
        )
        seconds = time.perf_counter() - began
        steps = int(given.get("sampler", m.steps))
        trained = replace(m, model=model.requires_grad_(False), steps=steps)
        plain = draw(trained, masks, noises[0], replace(m.refinement, steps=0))
        one, two = (draw(trained, masks, noise, m.refinement) for noise in noises)
        ratio = (flatten(one) - flatten(two)).norm(dim=1).mean() / distance
        print(
            f"| {line or 'as shipped'} | {gap(plain)} | {gap(one)} | {ratio:.2f} | "
            f"{alike(one, two):.3f} | {seconds:.0f} s |",
            flush=True,
        )


if __name__ == "__main__":
    main()
