"""The zoo: one trained classifier for each (mask, data-order seed), in one file.

All classifiers start from one initialisation, so their neurons stay aligned. The file is
safetensors, written anew after each seed, so a stopped run goes on with the next seed.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.classifiers import Classifier, Rows, flatten, repeat, unflatten
from models.datasets import Dataset
from models.fitting import Fit, fit
from models.masks import retain_masks
from models.measure import per_class
from models.progress import Bar, silent

INITIAL_SEED = 0  # of the one initialisation that all classifiers share
_THINNING, _CHECKPOINTS = 0.72, 13  # 0.72**13 = 1.4% of a run lie before the second checkpoint
REFERENCE_SEED = 1_000  # data-order seeds of the zoo stay below, those of references begin here


@dataclass(frozen=True)
class Zoo:
    """Trained classifiers of every (seed, mask).

    Attributes:
        codes: forget codes, (E,) int64.
        seeds: data-order seeds, S of them.
        weights: (S, E, P) float32.
        accuracy, loss: of every class on the validation split, (S, E, K) float64.
    """

    classifier: Classifier
    codes: np.ndarray
    seeds: tuple[int, ...]
    weights: Tensor
    accuracy: Tensor
    loss: Tensor

    @property
    def masks(self) -> Tensor:
        """Masks of the codes, (E, K) bool."""
        return retain_masks(self.codes, self.classifier.classes)

    def rows(self, seed: int, index: Tensor | slice = slice(None)) -> Rows:
        """Return the networks of the ``seed``-th seed at some masks."""
        return unflatten(self.weights[seed][index], self.classifier)

    def where(self, codes: Sequence[int] | np.ndarray) -> Tensor:
        """Return the position of each code on the mask axis, (len(codes),)."""
        position = {int(code): i for i, code in enumerate(self.codes)}
        return torch.tensor([position[int(code)] for code in codes])


def grow(
    path: Path,
    classifier: Classifier,
    dataset: Dataset,
    codes: np.ndarray,
    seeds: Sequence[int],
    how: Fit,
    bar: Bar = silent,
) -> Zoo:
    """Train what the zoo file at ``path`` still lacks and return the whole zoo.

    A file that was grown with other settings or data is replaced.
    """
    recipe = _recipe(classifier, dataset, codes, how)
    done = _read(path, recipe)
    masks = retain_masks(codes, classifier.classes)
    start = repeat(classifier.initial(INITIAL_SEED), len(codes))
    for i, seed in enumerate(seeds, start=1):
        if f"weights.{seed}" in done:
            continue
        what = f"{path.stem}: seed {i} of {len(seeds)}, {len(codes)} networks"
        with bar(what, how.steps(len(dataset.train))) as advance:
            rows = fit(classifier, dataset.train, masks, start, how, seed, advance)
        measured = per_class(classifier, rows, dataset.validation)
        done[f"weights.{seed}"] = flatten(rows)
        done[f"accuracy.{seed}"] = measured.accuracy
        done[f"loss.{seed}"] = measured.loss
        _write(path, recipe, done)
    return Zoo(
        classifier,
        codes,
        tuple(seeds),
        *(torch.stack([done[f"{k}.{s}"] for s in seeds]) for k in ("weights", "accuracy", "loss")),
    )


@dataclass(frozen=True)
class Trajectories:
    """Checkpoints along training runs, with what each class lost at them.

    Attributes:
        masks: of the E networks of a run, (E, K) bool.
        weights: (C, E, P) float16, C checkpoints of all runs.
        loss: of every class on the validation split in nats, (C, E, K) float32.
        n: validation samples of each class, (K,).
    """

    classifier: Classifier
    masks: Tensor
    weights: Tensor
    loss: Tensor
    n: Tensor


def checkpoint_steps(steps: int, run: int, runs: int) -> list[int]:
    """Return at which steps run ``run`` is checkpointed: the first, the last, and ever closer.

    Losses fall fastest at the start, so the steps between lie on a geometric grid, which
    each run shifts: together the runs cover the losses between.
    """
    between = (round(steps * _THINNING ** (i + (run + 1) / runs)) for i in range(_CHECKPOINTS))
    return sorted({0, steps, *between})


def trace(
    path: Path,
    classifier: Classifier,
    dataset: Dataset,
    codes: np.ndarray,
    seeds: Sequence[int],
    how: Fit,
    bar: Bar = silent,
) -> Trajectories:
    """Train runs of all codes with checkpoints, in a file that grows and resumes as a zoo's."""
    recipe = _recipe(classifier, dataset, codes, how)
    done = _read(path, recipe)
    masks = retain_masks(codes, classifier.classes)
    steps = how.steps(len(dataset.train))
    for i, seed in enumerate(seeds):
        if f"weights.{seed}" not in done:
            wanted = checkpoint_steps(steps, i, len(seeds))
            what = f"{path.stem}: run {i + 1} of {len(seeds)}, {len(codes)} networks"
            with bar(what, steps) as advance:
                kept = _run(classifier, dataset, masks, how, seed, wanted, advance)
            done[f"weights.{seed}"], done[f"loss.{seed}"] = kept
            _write(path, recipe, done)
    return Trajectories(
        classifier,
        masks,
        torch.cat([done[f"weights.{seed}"] for seed in seeds]),
        torch.cat([done[f"loss.{seed}"] for seed in seeds]),
        F.one_hot(dataset.validation.y, classifier.classes).sum(0),
    )


def _run(
    classifier: Classifier,
    dataset: Dataset,
    masks: Tensor,
    how: Fit,
    seed: int,
    wanted: Sequence[int],
    advance: Callable[[], None],
) -> tuple[Tensor, Tensor]:
    """Train one run and return its checkpoints (C, E, P) and their losses (C, E, K)."""
    weights, losses = [], []

    def keep(step: int, rows: Rows) -> None:
        if step in wanted:
            still = [layer.detach() for layer in rows]
            weights.append(flatten(still).half())
            losses.append(per_class(classifier, still, dataset.validation).loss.float())

    start = repeat(classifier.initial(INITIAL_SEED), len(masks))
    fit(classifier, dataset.train, masks, start, how, seed, advance, keep)
    return torch.stack(weights), torch.stack(losses)


def _recipe(classifier: Classifier, dataset: Dataset, codes: np.ndarray, how: Fit) -> str:
    """Return what must agree for two runs to be parts of one zoo."""
    parts = {
        "classifier": classifier.describe(),
        "data": dataset.digest,
        "codes": hashlib.sha256(codes.tobytes()).hexdigest(),
        "fit": asdict(how),
        "initial_seed": INITIAL_SEED,
    }
    return json.dumps(parts, sort_keys=True)


def _read(path: Path, recipe: str) -> dict[str, Tensor]:
    if not path.exists():
        return {}
    with safe_open(path, "pt") as file:
        if (file.metadata() or {}).get("recipe") != recipe:
            return {}
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def _write(path: Path, recipe: str, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={"recipe": recipe})
    part.replace(path)
