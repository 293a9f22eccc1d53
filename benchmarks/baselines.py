"""DiHyFo against other ways to forget, on the same networks in the same run.

Every method gets the same search: at most 8 settings, tried on a few forget sets that are not
held out, with their networks taken out of the zoo; the setting is kept whose networks come
nearest to retraining on the validation split (see `distance`). What is reported is the test
split over held-out forget sets, one network each. Run `hyperforget train NAME` first, which
leaves the zoo and the retrained networks in HYPERFORGET_HOME, then: .venv/bin/python
benchmarks/baselines.py NAME [--masks 204] [--seed 0] [--out results.json]
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.catalog import Catalog
from core.settings import Settings
from models import baselines, generator, neighbours
from models.audit import loss_mia
from models.classifiers import Classifier, Rows, repeat
from models.datasets import DataError, Split
from models.fitting import Fit, fit
from models.generator import Generator
from models.masks import retain_masks, training_codes
from models.material import Material, draw, load_with_zoo
from models.measure import per_class
from models.progress import Advance
from models.refinement import Refinement
from models.sampler import first_noise
from models.zoo import REFERENCE_SEED, Zoo, grow

TUNING = 12  # forget sets that settings are chosen on
TIMED = 3  # networks made one at a time, of which the median time is reported
RELEARN_SEEDS = 3  # batch orders the relearning figure is the mean of
REQUESTS = (1, 100, 10_000)  # over which training is amortised

Forget = Callable[[Tensor], Rows]  # masks (E, K) -> E networks


@dataclass(frozen=True)
class Bench:
    """What all methods work with.

    Attributes:
        m: the generator's networks and what they are held against.
        zoo: the networks it was made from.
        original: one network that knows all classes.
    """

    generator: Generator
    m: Material
    zoo: Zoo
    original: Rows
    seed: int


@dataclass(frozen=True)
class Method:
    """One way to get networks.

    Attributes:
        make: given a zoo and a setting, the way itself.
        grid: the settings that are searched.
        needs: the parts of ``hyperforget train`` that must have run before a first request.
    """

    title: str
    make: Callable[..., Forget]
    grid: tuple[dict[str, Any], ...] = ({},)
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figures:
    """Accuracies of E networks: on what is kept, what is forgotten, and that after relearning."""

    retain: Tensor
    forget: Tensor
    relearned: Tensor

    def distance(self, gold: "Figures") -> float:
        """Return the sum of the three mean absolute gaps to retrained networks.

        Taken absolutely: to forget deeper than retraining does is a fault too.
        """
        gaps = (
            self.retain - gold.retain,
            self.forget - gold.forget,
            self.relearned - gold.relearned,
        )
        return sum(gap.abs().mean().item() for gap in gaps)


def load(name: str, seed: int) -> Bench:
    """Load a generator, its zoo and its retrained networks, or say what to run first."""
    settings = Settings()
    entry = Catalog(settings.generator_roots).entries.get(name)
    first = f"run `hyperforget train {name}` first, with this HYPERFORGET_HOME ({settings.home})"
    if entry is None:
        sys.exit(f"there is no generator {name}: {first}")
    try:
        loaded = generator.load(entry.folder, settings.data)
        m, zoo = load_with_zoo(loaded, settings.home / "build" / name, said)
    except FileNotFoundError as absent:
        sys.exit(f"{absent} not found: {first}")
    except DataError as error:
        sys.exit(str(error))
    return Bench(loaded, m, zoo, m.retrained.rows(0, m.retrained.where([0])), seed)


@contextmanager
def said(what: str, steps: int) -> Iterator[Advance]:
    """Say which networks are read, and trained if they are lacking."""
    print(what, file=sys.stderr)
    yield lambda: None


def methods(b: Bench) -> dict[str, Method]:
    """Return all methods with what is searched for each."""
    third = max(1, b.m.how.epochs // 3)  # passes: a third of what retraining takes
    given = (b.m.classifier, b.original, b.m.dataset.train)

    # Rates, as multiples of retraining's, lie where each method does well on validation; one
    # row for all would end below what fine-tuning wants, or above what SCRUB survives.
    def trained(
        title: str, way: Callable[..., Rows], times: tuple[float, ...], **choices: tuple[Any, ...]
    ) -> Method:
        def make(zoo: Zoo, passes: int, rate: float, **rest: Any) -> Forget:
            how = Fit(passes, b.m.how.batch, rate)
            return lambda masks: way(*given, masks, how, b.seed, **rest)

        rate = tuple(float(f"{b.m.how.rate * factor:.2g}") for factor in times)
        return Method(title, make, grid(rate=rate, **choices))

    def tune(
        spec: Classifier, original: Rows, train: Split, masks: Tensor, how: Fit, seed: int
    ) -> Rows:
        return fit(spec, train, masks, repeat(original, len(masks)), how, seed)

    def neighbour(title: str, way: Callable[..., Rows]) -> Method:
        return Method(title, lambda zoo: partial(way, zoo), needs=("zoo",))

    def noisy(zoo: Zoo, masks: Tensor) -> Rows:
        apart = neighbours.seed_distance(zoo)
        return neighbours.nearest_plus_noise(zoo, masks, apart, b.seed)

    def drawn(how: Refinement) -> Callable[..., Forget]:
        def first(masks: Tensor) -> Rows:
            return draw(b.m, masks, first_noise(b.m.classifier, range(len(masks))), how)

        return lambda zoo: first

    dihyfo = ("zoo", "dihyfo")
    return {
        "dihyfo": Method("**DiHyFo**, as served", drawn(b.m.hows["dihyfo"]), needs=dihyfo),
        "dihyfo_unrefined": Method(
            "DiHyFo, not refined", drawn(b.m.hows["dihyfo_unrefined"]), needs=dihyfo
        ),
        "logit_masking": Method(
            "logit masking", lambda zoo: lambda masks: baselines.mask_logits(*given, masks)
        ),
        "fine_tuning": trained("fine-tuning", tune, (30, 10, 3, 1), passes=(third, 2 * third)),
        "neg_grad_plus": trained(
            "NegGrad+",
            baselines.neg_grad_plus,
            (10, 3, 1, 0.3),
            passes=(third,),
            retain_weight=(0.9, 0.99),
        ),
        "ssd": Method(
            "SSD",
            lambda zoo, **s: lambda masks: baselines.selective_dampening(*given, masks, **s),
            grid(select=(0.5, 1.0, 1.5, 2.0), dampen=(0.1, 0.5)),
        ),
        "scrub": trained(
            "SCRUB", baselines.scrub, (1, 0.3, 0.1, 0.03), passes=(2 * third,), climbs=(1, 2)
        ),
        "bad_teacher": trained(
            "Bad Teacher",
            baselines.bad_teacher,
            (10, 3, 1, 0.3),
            passes=(third,),
            retain_share=(0.3, 1.0),
        ),
        "amnesiac": trained(
            "Amnesiac", baselines.amnesiac, (10, 3, 1, 0.3), passes=(third, 2 * third)
        ),
        "salun": trained(
            "SalUn",
            baselines.saliency_unlearning,
            (30, 10, 3, 1),
            passes=(third,),
            share=(0.25, 0.5),
        ),
        "nearest_mask": neighbour("nearest mask", baselines.nearest_mask),
        "mean_of_neighbours": neighbour("mean of neighbours", neighbours.mean_of_neighbours),
        "nearest_plus_noise": neighbour("nearest mask plus noise", noisy),
        "regression": Method(
            "regression from the mask",
            lambda zoo, **setting: neighbours.MaskRegression(zoo, **setting).rows,
            grid(penalty=tuple(10.0**power for power in range(-5, 3))),
            needs=("zoo",),
        ),
    }


def grid(**choices: tuple[Any, ...]) -> tuple[dict[str, Any], ...]:
    """Return every combination of some choices, 8 at most: all methods get the same search."""
    found = tuple(dict(zip(choices, values, strict=True)) for values in product(*choices.values()))
    assert len(found) <= 8
    return found


def measure(b: Bench, rows: Rows, masks: Tensor, split: Split) -> Figures:
    """Measure E networks on a split; they relearn on the training split."""
    classifier, train = b.m.classifier, b.m.dataset.train
    measured = per_class(classifier, rows, split)
    again = [
        per_class(classifier, baselines.relearn(classifier, rows, train, seed=seed), split)
        for seed in range(RELEARN_SEEDS)
    ]
    after = torch.stack([each.over(~masks)[0] for each in again]).mean(0)  # (E,)
    return Figures(measured.over(masks)[0], measured.over(~masks)[0], after)


def retrained(b: Bench, zoo: Zoo, codes: np.ndarray, split: Split) -> list[Figures]:
    """Measure the retrained networks of some forget codes, seed by seed."""
    masks, where = retain_masks(codes, b.m.classifier.classes), zoo.where(codes)
    return [measure(b, zoo.rows(s, where), masks, split) for s in range(len(zoo.seeds))]


def references(b: Bench, codes: np.ndarray) -> Zoo:
    """Return retrained networks of forget codes, trained if only others were."""
    m = b.m
    if set(codes) <= set(m.retrained.codes):
        return m.retrained
    folder = Settings().home / "build" / b.generator.id / "tuning"
    return grow(folder, m.classifier, m.dataset, codes, m.retrained.seeds, m.how, bar=said)


def mean(seeds: list[Figures]) -> Figures:
    """Return each mask's mean over seeds."""
    return Figures(
        torch.stack([f.retain for f in seeds]).mean(0),
        torch.stack([f.forget for f in seeds]).mean(0),
        torch.stack([f.relearned for f in seeds]).mean(0),
    )


def search(b: Bench, method: Method, codes: np.ndarray, gold: Figures) -> list[dict[str, Any]]:
    """Try every setting on the validation split; the first of the list is the best."""
    masks = retain_masks(codes, b.m.classifier.classes)
    zoo = neighbours.without(b.zoo, codes)
    trials = []
    for setting in method.grid:
        rows = method.make(zoo, **setting)(masks)
        found = measure(b, rows, masks, b.m.dataset.validation)
        trials.append(
            {
                "setting": setting,
                "distance": found.distance(gold),
                "retain_accuracy": found.retain.mean().item(),
                "forget_accuracy": found.forget.mean().item(),
                "relearned": found.relearned.mean().item(),
            }
        )
    return sorted(trials, key=lambda trial: trial["distance"])


def row(figures: list[Figures], gold: Figures, mia: float) -> dict[str, float]:
    """Return one line of the report; a gap is to the mean of a mask's retrained networks."""
    gap = 100 * torch.stack([gold.retain - f.retain for f in figures])  # (S, E)
    forget = torch.stack([f.forget for f in figures])  # (S, E)
    return {
        "networks": forget.numel(),
        "retain_accuracy": torch.stack([f.retain for f in figures]).mean().item(),
        "retain_gap_points": gap.mean().item(),
        "retain_gap_points_worst": gap.max().item(),
        "forget_accuracy": forget.mean().item(),
        "forget_accuracy_max": forget.max().item(),
        "forget_accuracy_after_4_relearning_steps": mean(figures).relearned.mean().item(),
        "loss_mia_auc": mia,
        "distance": mean(figures).distance(gold),
    }


def seconds(way: Forget, masks: Tensor) -> float:
    """Return the median time to make one network, one at a time, as a user would."""
    took = []
    for e in range(min(TIMED, len(masks))):
        began = time.perf_counter()
        way(masks[e : e + 1])
        took.append(time.perf_counter() - began)
    return float(np.median(took))


def run(b: Bench, held_out: np.ndarray, tuning: np.ndarray) -> dict[str, dict[str, Any]]:
    """Search, then measure and time every method; the retrained networks are the first row."""
    data, classifier = b.m.dataset, b.m.classifier
    masks, where = retain_masks(held_out, classifier.classes), b.m.retrained.where(held_out)
    gold_tuning = mean(retrained(b, references(b, tuning), tuning, data.validation))
    of_seeds = retrained(b, b.m.retrained, held_out, data.test)
    gold = mean(of_seeds)

    def again(one: Tensor) -> Rows:
        return baselines.retrain(classifier, data.train, one, b.m.how, REFERENCE_SEED)

    mias = [
        loss_mia(classifier, b.m.retrained.rows(s, where), masks, data)
        for s in range(len(of_seeds))
    ]
    rows: dict[str, dict[str, Any]] = {
        "retrained": {
            "title": "retrained from scratch",
            "seconds": seconds(again, masks),
            "training_seconds": 0.0,
            **row(of_seeds, gold, float(np.mean(mias))),
        }
    }
    spent = b.generator.config["training"]["seconds"]
    for name, method in methods(b).items():
        print(f"{method.title}: {len(method.grid)} settings", file=sys.stderr)
        trials = search(b, method, tuning, gold_tuning) if len(method.grid) > 1 else []
        began = time.perf_counter()
        way = method.make(b.zoo, **(trials[0]["setting"] if trials else {}))
        made = time.perf_counter() - began
        networks = way(masks)
        figures = measure(b, networks, masks, data.test)
        rows[name] = {
            "title": method.title,
            "seconds": seconds(way, masks),
            "training_seconds": made + sum(spent.get(part, 0.0) for part in method.needs),
            **row([figures], gold, loss_mia(classifier, networks, masks, data)),
            "trials": trials,
        }
    return rows


def report(name: str, rows: dict[str, dict[str, Any]], about: str) -> str:
    """Return the Markdown."""
    others = sorted((k for k in rows if k != "retrained"), key=lambda k: rows[k]["distance"])
    ranked = ", ".join(f"{rows[k]['title']} {rows[k]['distance']:.3f}" for k in others[:3])
    lines = [
        f"Nearest to retraining on {name}, by the sum of the three accuracy gaps: {ranked}.",
        about,
        "",
        "| weights | retain (gap in points: mean, worst) | forget (max) | forget after 4 "
        "relearning steps | loss-MIA AUC | one network, ms | seconds a network, training "
        f"included, after {' / '.join(f'{n:,}' for n in REQUESTS)} |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows.values():
        each = [r["training_seconds"] / n + r["seconds"] for n in REQUESTS]
        gap, worst = (
            round(r[key], 2) + 0.0 for key in ("retain_gap_points", "retain_gap_points_worst")
        )
        cells = [
            r["title"],
            f"{r['retain_accuracy']:.4f} ({gap:.2f}, {worst:.2f})",
            f"{r['forget_accuracy']:.5f} ({r['forget_accuracy_max']:.5f})",
            f"{r['forget_accuracy_after_4_relearning_steps']:.3f}",
            f"{r['loss_mia_auc']:.3f}",
            f"{1e3 * r['seconds']:.1f}",
            " / ".join(f"{s:.3g}" for s in each),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Settings chosen, and what was searched:", ""]
    lines += [f"- {r['title']}: {_settings(r['trials'])}" for r in rows.values() if r.get("trials")]
    return "\n".join(lines)


def _settings(trials: list[dict[str, Any]]) -> str:
    """Return the best setting, and for each of its parts what else was tried."""
    parts = []
    for key, value in trials[0]["setting"].items():
        tried = sorted({trial["setting"][key] for trial in trials})
        part = f"{key} {value:g}"
        if len(tried) > 1:
            part += f" of {', '.join(f'{v:g}' for v in tried)}"
        # A best value at the end of a row of three or more may have better ones beyond.
        if len(tried) > 2 and value in (tried[0], tried[-1]):
            part += " (at the edge)"
        parts.append(part)
    return "; ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="a generator, such as mnist-mlp")
    parser.add_argument("--masks", type=int, help="held-out forget sets; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    options = parser.parse_args()
    if options.masks is not None and options.masks < 1:
        parser.error(f"--masks must be 1 or more, got {options.masks}")

    b = load(options.name, options.seed)
    held_out = np.array(b.generator.config["held_out"])[: options.masks]
    known = training_codes(b.m.classifier.classes)[1:]  # without the original's
    rng = np.random.default_rng(options.seed)
    tuning = rng.choice(known, min(TUNING, len(known) // 2), replace=False)
    rows = run(b, held_out, tuning)
    about = (
        f"n = {len(held_out)} held-out forget sets, {len(b.m.dataset.test):,} test images, "
        f"{len(b.m.retrained.seeds)} retrained networks a set; settings chosen on {len(tuning)} "
        f"other sets and the validation split; seed {options.seed}; {platform.machine()}, "
        f"{os.cpu_count()} CPUs, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(report(options.name, rows, about))
    if options.out:
        found = {
            "generator": options.name,
            "about": about,
            "held_out": held_out.tolist(),
            "tuning": tuning.tolist(),
            "rows": rows,
        }
        options.out.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
