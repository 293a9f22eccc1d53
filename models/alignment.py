"""Prompt alignment: are the losses that are asked for the losses that are reached?

As G.pt measures it (arXiv 2209.12892): R2 between prompt and result over 20 even prompts
between the best and the starting loss of a training run. What goes with a prompt comes from
that run too: a retain loss of 0.2 has its forget loss, and each class its own. Runs are of
reference seeds and held-out masks. Prompts are validation losses, results are test losses.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.metrics import r2_score
from torch import Tensor

from models.classifiers import Rows, groups, repeat
from models.dihyfo import Prompt
from models.fitting import fit
from models.masks import forget_labels, retain_masks
from models.material import Effort, Material, draw
from models.measure import per_class
from models.progress import Bar
from models.prompts import side_losses
from models.sampler import first_noise
from models.zoo import INITIAL_SEED, REFERENCE_SEED, checkpoint_steps

PROMPTS = 20
_GRIDS = 2  # of checkpoints, shifted against each other


@dataclass(frozen=True)
class Run:
    """Losses along one training run, (C, K) each; sides as `side_losses` spreads them."""

    mask: Tensor
    validation: np.ndarray
    test: np.ndarray
    sides: np.ndarray
    sides_test: np.ndarray


def alignment(m: Material, effort: Effort, bar: Bar) -> dict[str, Any]:
    """Prompt DiHyFo on held-out masks.

    Returns:
        For each kind of prompt the mean and least R2 over masks (per class: over masks and
        classes) with all losses given (``full``) and with the one alone (``alone``), and what
        the run itself reaches on test (``retrained``); and the points of the first two kinds.
    """
    codes = m.held_out[: effort.prompted]
    runs = _runs(m, retain_masks(codes, m.classifier.classes), effort)
    kinds: dict[str, Any] = {}
    with bar("audit: prompts", len(runs)) as advance:
        found: dict[str, list[dict[str, Any]]] = {"retain": [], "forget": [], "class": []}
        for code, run in zip(codes, runs, strict=True):
            forget = list(forget_labels(int(code), m.classifier.classes))
            kept = int(torch.nonzero(run.mask)[0])
            for kind, label in (("retain", kept), ("forget", forget[0])):
                found[kind].append({"forget": forget} | _aligned(m, run, label, True, effort))
            for label in range(min(effort.prompted_classes, m.classifier.classes)):
                one = _aligned(m, run, label, False, effort)
                found["class"].append({"forget": forget, "class": label} | one)
            advance()
    for kind, each in found.items():
        kinds[kind] = {
            row: {
                "mean_r2": float(np.mean([one["r2"][row] for one in each])),
                "least_r2": float(np.min([one["r2"][row] for one in each])),
            }
            for row in ("full", "alone", "retrained")
        } | {"n": len(each)}
    return {
        "prompts": PROMPTS,
        "masks": len(runs),
        "images": min(effort.images, len(m.dataset.test)),
        "kinds": kinds,
        "points": {kind: found[kind] for kind in ("retain", "forget")},
    }


def _runs(m: Material, masks: Tensor, effort: Effort) -> list[Run]:
    """Train the masks' reference runs and follow their losses on both splits."""
    validation, test = m.dataset.validation, m.dataset.test.head(effort.images)
    steps = m.how.steps(len(m.dataset.train))
    grids = (checkpoint_steps(steps, grid, _GRIDS) for grid in range(_GRIDS))
    wanted = {step for grid in grids for step in grid}
    runs = []
    for at in groups(m.classifier, len(masks)):
        losses: tuple[list[Tensor], ...] = ([], [], [], [])

        def keep(
            step: int, rows: Rows, at: slice = at, losses: tuple[list[Tensor], ...] = losses
        ) -> None:
            if step in wanted:
                still = [layer.detach() for layer in rows]
                for i, split in enumerate((validation, test)):
                    measured = per_class(m.classifier, still, split)
                    losses[i].append(measured.loss)
                    losses[i + 2].append(side_losses(measured.loss, masks[at], measured.n))

        start = repeat(m.classifier.initial(INITIAL_SEED), len(masks[at]))
        fit(m.classifier, m.dataset.train, masks[at], start, m.how, REFERENCE_SEED, observe=keep)
        stacked = [torch.stack(each).numpy() for each in losses]  # (C, E, K) each
        runs += [Run(mask, *(part[:, e] for part in stacked)) for e, mask in enumerate(masks[at])]
    return runs


def even(leading: np.ndarray, rising: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return even values of a loss between its start and its end, and when a run has them.

    Args:
        leading: the loss along the run, (C,); it need not be monotone.
        rising: whether it rises along the run, as a forgotten class's does.

    Returns:
        The values, (PROMPTS,), and where on the run's axis 0..C-1 they are, (PROMPTS,).
    """
    sign = 1.0 if rising else -1.0
    forward = np.maximum.accumulate(sign * leading)  # (C,): interpolation needs no turning back
    wanted = np.linspace(forward[0], forward[-1], PROMPTS)
    return sign * wanted, np.interp(wanted, forward, np.arange(len(leading)))


def along(losses: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the losses (C, K) of a run at some places between checkpoints, (PROMPTS, K)."""
    index = np.arange(len(losses))
    return np.stack([np.interp(places, index, column) for column in losses.T], axis=1)


def _aligned(m: Material, run: Run, label: int, sides: bool, effort: Effort) -> dict[str, Any]:
    """Prompt one loss, of a class or of the side it is on, over its range."""
    of_validation, of_test = (run.sides, run.sides_test) if sides else (run.validation, run.test)
    prompted, places = even(of_validation[:, label], not run.mask[label])  # (PROMPTS,) each
    same = (run.mask == run.mask[label]).numpy() if sides else np.arange(len(run.mask)) == label
    asked = np.where(same, prompted[:, None], along(of_validation, places))  # (PROMPTS, K)
    alone = np.where(same, asked, np.nan)
    masks = run.mask.expand(PROMPTS, -1)  # (PROMPTS, K)
    noise = first_noise(m.classifier, range(PROMPTS))  # (PROMPTS, P)
    plain = m.hows["dihyfo_unrefined"]
    reached = {"retrained": along(of_test, places)[:, label]}
    for name, wanted in (("full", asked), ("alone", alone)):
        losses = torch.tensor(wanted, dtype=torch.float32)
        prompt = Prompt(losses, torch.full((PROMPTS,), sides))
        rows = draw(m, masks, noise, plain, prompt)
        measured = per_class(m.classifier, rows, m.dataset.test.head(effort.images))
        found = side_losses(measured.loss, masks, measured.n) if sides else measured.loss
        reached[name] = found[:, label].numpy()
    return {
        "prompted": prompted.round(4).tolist(),
        "reached": {name: values.round(4).tolist() for name, values in reached.items()},
        "r2": {name: float(r2_score(prompted, values)) for name, values in reached.items()},
    }
