"""Answer forget requests with a generator: sample, choose on validation, measure on test."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.classifiers import Rows, pick, state_dict
from models.generator import Generator
from models.masks import forget_code, retain_masks
from models.measure import PerClass, per_class
from models.sampler import draw_noise, sample


@dataclass(frozen=True)
class Gate:
    """What a candidate must reach on the validation split to be accepted."""

    max_forget_accuracy: float = 0.0
    min_retain_accuracy: float = 0.0


@dataclass(frozen=True)
class ForgetRequest:
    """One request.

    Attributes:
        forget: labels to forget, 1 to K-1 distinct ones.
        candidates: how many weight sets to draw.
        seed: of the noise; the same seed draws the same candidates.
        gate: what a candidate must reach.
    """

    forget: tuple[int, ...]
    candidates: int
    seed: int
    gate: Gate = Gate()


@dataclass(frozen=True)
class Candidate:
    """Validation figures of one drawn weight set: what the choice was made on."""

    index: int
    forget_accuracy: float
    retain_accuracy: float
    retain_loss: float
    accepted: bool


@dataclass(frozen=True)
class Unlearned:
    """The answer to one request.

    Attributes:
        weights: the chosen candidate's ``state_dict``.
        chosen: its index among the candidates.
        metrics: test figures, as the API's contract lays them out, without ``timing_ms``.
        timing_ms: ``sampling`` and ``evaluating`` of the batch this request was part of.
    """

    weights: dict[str, Tensor]
    chosen: int
    candidates: list[Candidate]
    metrics: dict[str, Any]
    timing_ms: dict[str, float]

    @property
    def accepted(self) -> int:
        """How many candidates passed the gate."""
        return sum(candidate.accepted for candidate in self.candidates)


def unlearn(
    generator: Generator,
    requests: Sequence[ForgetRequest],
    stage: Callable[[str, float], None] = lambda name, fraction: None,
) -> list[Unlearned]:
    """Answer requests together; all candidates of all of them are one batch.

    Args:
        stage: told what begins, and the fraction of the work that is done.
    """
    k, classifier = generator.classifier.classes, generator.classifier
    codes = [forget_code(request.forget) for request in requests]
    masks = retain_masks(codes, k)  # (R, K)
    counts = torch.tensor([request.candidates for request in requests])  # (R,)

    stage("sampling", 0.1)
    began = time.perf_counter()
    rows = draw(generator, requests)
    sampled = time.perf_counter()

    stage("choosing", 0.4)
    on_validation = per_class(classifier, rows, generator.dataset.validation)
    starts = (counts.cumsum(0) - counts).tolist()
    drawn = [
        _judge(request, mask, _slice(on_validation, start, request.candidates))
        for request, mask, start in zip(requests, masks, starts, strict=True)
    ]
    best = [_choose(candidates) for candidates in drawn]
    chosen = pick(rows, [start + index for start, index in zip(starts, best, strict=True)])

    stage("measuring", 0.7)
    on_test = per_class(classifier, chosen, generator.dataset.test)
    timing = {
        "sampling": 1e3 * (sampled - began),
        "evaluating": 1e3 * (time.perf_counter() - sampled),
    }
    return [
        Unlearned(
            weights=state_dict(chosen, i, classifier),
            chosen=best[i],
            candidates=drawn[i],
            metrics=_metrics(generator, codes[i], masks[i], _slice(on_test, i, 1), drawn[i]),
            timing_ms=timing,
        )
        for i in range(len(requests))
    ]


def draw(generator: Generator, requests: Sequence[ForgetRequest]) -> Rows:
    """Draw the candidates of all requests, the first one's first, as one batch.

    Returns:
        Weights, (E, units, fan_in + 1) a layer.
    """
    classifier = generator.classifier
    codes = [forget_code(request.forget) for request in requests]
    counts = torch.tensor([request.candidates for request in requests])  # (R,)
    masks = retain_masks(codes, classifier.classes).repeat_interleave(counts, 0)  # (E, K)
    noise = torch.cat([draw_noise(classifier, r.seed, r.candidates) for r in requests])  # (E, P)
    return sample(generator.model, masks, noise, generator.steps)


def _slice(measured: PerClass, start: int, count: int) -> PerClass:
    here = slice(start, start + count)
    return PerClass(measured.accuracy[here], measured.loss[here], measured.n)


def _judge(request: ForgetRequest, mask: Tensor, measured: PerClass) -> list[Candidate]:
    retain, loss = measured.over(mask.expand(request.candidates, -1))  # (C,), (C,)
    forget, _ = measured.over(~mask.expand(request.candidates, -1))  # (C,)
    gate = request.gate
    return [
        Candidate(i, f, r, ls, f <= gate.max_forget_accuracy and r >= gate.min_retain_accuracy)
        for i, (f, r, ls) in enumerate(
            zip(forget.tolist(), retain.tolist(), loss.tolist(), strict=True)
        )
    ]


def _choose(candidates: Sequence[Candidate]) -> int:
    """Return the best retainer among the accepted, else the best forgetter."""

    def rank(candidate: Candidate) -> tuple[float, ...]:
        forgotten = 0.0 if candidate.accepted else candidate.forget_accuracy
        return (
            -float(candidate.accepted),
            forgotten,
            -candidate.retain_accuracy,
            candidate.retain_loss,
        )

    return min(candidates, key=rank).index


def _metrics(
    generator: Generator,
    code: int,
    mask: Tensor,
    measured: PerClass,
    candidates: Sequence[Candidate],
) -> dict[str, Any]:
    """Lay out one network's test figures beside the original's and the retrained ones'."""
    names, reference = generator.config["classes"], generator.reference
    sides: dict[str, Any] = {}
    for side, classes in (("forget", ~mask), ("retain", mask)):
        accuracy, loss = measured.over(classes[None])
        n = int(measured.n[classes].sum())
        sides[side] = {"accuracy": accuracy.item(), "loss": loss.item(), "n": n}
    original, retrained = reference.of(0)[0].mean(0), reference.of(code)[0].mean(0)  # (K,), (K,)
    retrained_retain = reference.retain_accuracy(code)  # (R,)
    seeds = len(retrained_retain)
    return {
        **sides,
        "per_class": [
            {
                "label": c,
                "name": names[c],
                "forgotten": not mask[c],
                "accuracy": measured.accuracy[0, c].item(),
                "loss": measured.loss[0, c].item(),
                "n": int(measured.n[c]),
                "original_accuracy": float(original[c]),
                "retrained_accuracy": float(retrained[c]),
            }
            for c in range(len(names))
        ],
        "original": {"retain_accuracy": float(reference.retain_accuracy(code, of_code=0).mean())},
        "retrained": {
            "retain_accuracy": float(retrained_retain.mean()),
            "sd": float(retrained_retain.std(ddof=1)) if seeds > 1 else None,
            "n": seeds,
        },
        "candidates": {
            "drawn": len(candidates),
            "accepted": sum(candidate.accepted for candidate in candidates),
        },
    }
