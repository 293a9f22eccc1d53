"""How drawn weights are refined decides how close they come to retraining: settings side by side.

Prints one row for each line of settings, on the *validation* split, where settings are chosen: the
gap to retraining over all held-out masks (first sample) and the worst mask's, the highest forget
accuracy, how far two samples lie apart over two retrained networks, how their errors overlap, and
the forget accuracy after 16 relearning steps. With inside=N the steps are guidance instead: the
sampler takes N steps, and at each the predicted weights go down the same loss. Needs the networks
that `hyperforget train NAME` left in its home. Run: .venv/bin/python benchmarks/refinements.py
mnist-mlp [--home .hyperforget] [--data ../shared/data] [steps=0] ["epsilon=1e-8 spread=0.5"] ...
"""

import argparse
import platform
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import torch
from dihyfo_recipes import changed, parts
from torch import Tensor

from models import baselines, generator
from models.classifiers import Rows, flatten, groups, pick, unflatten
from models.likeness import mean_overlap, wrong_answers
from models.masks import retain_masks
from models.material import Source, draw, head, load_material
from models.measure import per_class
from models.refinement import Refinement, refine
from models.sampler import first_noise, towards

RELEARNED, STEPS = 24, 16  # masks that relearn, and for how long


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="a generator, such as mnist-mlp")
    parser.add_argument("lines", nargs="*", default=[])
    parser.add_argument("--home", type=Path, default=Path(".hyperforget"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_intermixed_args()
    known = {"inside", *(field.name for field in fields(Refinement))}
    for part in " ".join(options.lines).split():
        if part.partition("=")[0] not in known:
            parser.error(f"{part}: not one of {', '.join(sorted(known))}")
    built = generator.load(options.home / "generators" / options.name, options.data)
    m = load_material(built, options.home / "build" / options.name)
    masks, where = retain_masks(m.held_out, built.dataset.classes), m.retrained.where(m.held_out)
    gold = [m.retrained.rows(seed, where) for seed in (0, -1)]
    validation = m.dataset.validation
    truth = torch.stack([per_class(m.classifier, r, validation).over(masks)[0] for r in gold])

    def row(one: Rows, two: Rows, like: float) -> str:
        measured = per_class(m.classifier, one, validation)
        gap = 100 * (truth.mean(0) - measured.over(masks)[0])  # (E,)
        wrong = [wrong_answers(m.classifier, validation, rows, masks) for rows in (one, two)]
        apart = (flatten(one) - flatten(two)).norm(dim=1).mean() / like
        return (
            f"{gap.mean():.2f} ({gap.max():.2f}) | {measured.over(~masks)[0].max():.5f} "
            f"| {apart:.2f} | {mean_overlap(*wrong):.3f} | {relearned(one):.3f} |"
        )

    def relearned(rows: Rows) -> float:
        found, first = [], head(rows, RELEARNED)
        for at in groups(m.classifier, len(first[0])):
            some, forgotten = pick(first, at), ~masks[:RELEARNED][at]
            again = baselines.relearn(m.classifier, some, m.dataset.train, steps=STEPS, seed=0)
            found.append(per_class(m.classifier, again, validation).over(forgotten)[0])
        return torch.cat(found).mean().item()

    between = (flatten(gold[0]) - flatten(gold[1])).norm(dim=1).mean().item()
    print(
        f"{options.name}, n = {len(masks)} held-out masks (relearning: the first "
        f"{min(RELEARNED, len(masks))}), validation split, references {list(m.retrained.seeds)}, "
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n\n"
        "| refinement | gap in points (worst) | forget max | pair L2 ratio | error IoU "
        f"| forget accuracy after {STEPS} relearning steps |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        f"| retrained | {row(gold[0], gold[1], between)}"
    )
    noises = [first_noise(m.classifier, range(at, at + len(masks))) for at in (0, 10_000)]
    for line in ["", *options.lines]:
        how = changed(m.refinement, parts(line))
        steps = int(parts(line).get("inside", 0))
        one, two = (
            guided(m, masks, noise, how, steps) if steps else draw(m, masks, noise, how)
            for noise in noises
        )
        print(f"| {line or 'as served'} | {row(one, two, between)}", flush=True)


def guided(m: Source, masks: Tensor, noise: Tensor, how: Refinement, steps: int) -> Rows:
    """Draw in some steps, each with its share of the training steps inside."""
    x, centre = unflatten(noise, m.classifier), m.model.centre(masks)
    each = replace(how, steps=how.steps // steps, spread=0.0)
    for now, then in pairwise(torch.linspace(1, 0, steps + 1).tolist()):
        with torch.inference_mode():
            clean = m.model(x, torch.full((len(masks),), now), masks, centre, None)
        rows = [layer.clone() for layer in m.model.restore(clean, centre)]
        rows = refine(m.model, rows, noise, masks, m.dataset.train, each)
        clean = m.model.standardise(rows, centre)
        x = towards(x, clean, now, then) if then else clean
    return m.model.restore(x, centre)


if __name__ == "__main__":
    main()
