"""The zoo: one trained classifier for each (mask, data-order seed), in one folder.

All classifiers start from one initialisation, so their neurons stay aligned. Networks are
trained in groups; each group's file (safetensors) is written when it is done, so a stopped
run goes on with the next group. Some seeds also keep checkpoints along their runs, from which
a DiHyFo learns to answer loss prompts.
"""

import hashlib
import json
import time
from collections.abc import Sequence
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
REFERENCE_SEED = 1_000  # data-order seeds of the zoo stay below, those of references begin here
_THINNING, _CHECKPOINTS = 0.72, 13  # 0.72**13 = 1.4% of a run lie before the second checkpoint


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


@dataclass(frozen=True)
class Zoo:
    """Trained classifiers of every (seed, mask).

    Attributes:
        codes: forget codes, (E,) int64.
        seeds: data-order seeds, S of them.
        weights: (S, E, P) float32.
        variance: of each weight between the seeds of one mask, mean over masks, (P,); 0 where no
            mask has two.
        seconds: that training took, all groups of networks added up.
        trajectories: the checkpoints of the traced runs, if there are any.
    """

    classifier: Classifier
    codes: np.ndarray
    seeds: tuple[int, ...]
    weights: Tensor
    variance: Tensor
    seconds: float = 0.0
    trajectories: Trajectories | None = None

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
    folder: Path,
    classifier: Classifier,
    dataset: Dataset,
    codes: np.ndarray,
    seeds: Sequence[int],
    how: Fit,
    *,
    twins: int = 0,
    traced: int = 0,
    bar: Bar = silent,
) -> Zoo:
    """Train what the zoo in ``folder`` still lacks and return the whole zoo.

    Files that were grown with other settings or data are replaced.

    Args:
        twins: how many of the codes, from the first, are trained once more: where the time goes
            into many masks of one seed, they tell how seeds differ.
        traced: how many of the runs, from the last, keep checkpoints; with twins, 1 at most.

    Raises:
        ValueError: more than one run is traced beside twins.
    """
    if twins and traced > 1:
        raise ValueError(f"with twins, traced must be 0 or 1, got {traced}")
    folder.mkdir(parents=True, exist_ok=True)
    runs = [(seed, _groups(codes, classifier)) for seed in seeds]
    if twins:
        runs.append((seeds[-1] + 1, _groups(codes[:twins], classifier)))
    first, steps = len(runs) - traced, how.steps(len(dataset.train))
    found: list[list[dict[str, Tensor]]] = []
    what = f"{folder.name}: {len(codes) * len(seeds) + twins} networks"
    with bar(what, sum(len(groups) for _, groups in runs)) as advance:
        for i, (seed, groups) in enumerate(runs):
            checkpoints = checkpoint_steps(steps, i - first, traced) if i >= first else []
            found.append([])
            for g, group in enumerate(groups):
                path = folder / f"{seed}-{g:03}.safetensors"
                recipe = _recipe(classifier, dataset, group, how, checkpoints)
                tensors = _read(path, recipe)
                if not tensors:
                    began = time.monotonic()
                    tensors = _train(classifier, dataset, group, how, seed, checkpoints)
                    tensors["seconds"] = torch.tensor(time.monotonic() - began)
                    _write(path, recipe, tensors)
                found[-1].append(tensors)
                advance()
    trajectories = None
    if traced:
        trajectories = Trajectories(
            classifier,
            retain_masks(codes[:twins] if twins else codes, classifier.classes),
            _joined(found[first:], "checkpoints"),
            _joined(found[first:], "loss"),
            F.one_hot(dataset.validation.y, classifier.classes).sum(0),
        )
    trained = [torch.cat([group["weights"] for group in run]) for run in found]  # (E, P) each
    weights = torch.stack(trained[: len(seeds)])  # (S, E, P)
    variance = torch.zeros(classifier.parameters)
    if twins:
        variance = torch.stack([weights[-1, :twins], trained[-1]]).var(0).mean(0)
    elif len(seeds) > 1:
        variance = weights.var(0).mean(0)
    seconds = sum(group["seconds"].item() for run in found for group in run)
    return Zoo(classifier, codes, tuple(seeds), weights, variance, seconds, trajectories)


def _groups(codes: np.ndarray, classifier: Classifier) -> list[np.ndarray]:
    """Split codes into those whose networks are trained side by side."""
    return np.array_split(codes, -(-len(codes) // classifier.together))


def _joined(seeds: Sequence[list[dict[str, Tensor]]], key: str) -> Tensor:
    """Join groups along the networks and seeds along the checkpoints, (C, E, ...)."""
    return torch.cat([torch.cat([g[key] for g in groups], dim=1) for groups in seeds])


def checkpoint_steps(steps: int, run: int, runs: int) -> list[int]:
    """Return at which steps run ``run`` is checkpointed: the first, the last, and ever closer.

    Losses fall fastest at the start, so the steps between lie on a geometric grid, which
    each run shifts: together the runs cover the losses between.
    """
    between = (round(steps * _THINNING ** (i + (run + 1) / runs)) for i in range(_CHECKPOINTS))
    return sorted({0, steps, *between})


def _train(
    classifier: Classifier,
    dataset: Dataset,
    codes: np.ndarray,
    how: Fit,
    seed: int,
    checkpoints: Sequence[int],
) -> dict[str, Tensor]:
    """Train one group: weights (E, P), checkpoints (C, E, P) and their losses (C, E, K)."""
    kept, losses = [], []

    def keep(step: int, rows: Rows) -> None:
        if step in checkpoints:
            still = [layer.detach() for layer in rows]
            kept.append(flatten(still).half())
            losses.append(per_class(classifier, still, dataset.validation).loss.float())

    masks = retain_masks(codes, classifier.classes)
    start = repeat(classifier.initial(INITIAL_SEED), len(codes))
    rows = fit(classifier, dataset.train, masks, start, how, seed, observe=keep)
    result = {"weights": flatten(rows)}
    if kept:
        result |= {"checkpoints": torch.stack(kept), "loss": torch.stack(losses)}
    return result


def _recipe(
    classifier: Classifier,
    dataset: Dataset,
    codes: np.ndarray,
    how: Fit,
    checkpoints: Sequence[int],
) -> str:
    """Return what must agree for a file to be part of a zoo."""
    parts = {
        "classifier": classifier.describe(),
        "data": dataset.digest,
        "codes": _digest(codes),
        "fit": asdict(how),
        "initial": _digest(flatten(classifier.initial(INITIAL_SEED)).numpy()),
        "checkpoints": list(checkpoints),
    }
    return json.dumps(parts, sort_keys=True)


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


def _read(path: Path, recipe: str) -> dict[str, Tensor]:
    if not path.exists():
        return {}
    with safe_open(path, "pt") as file:
        if (file.metadata() or {}).get("recipe") != recipe:
            return {}
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def _write(path: Path, recipe: str, tensors: dict[str, Tensor]) -> None:
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={"recipe": recipe})
    part.replace(path)
