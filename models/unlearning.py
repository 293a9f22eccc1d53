"""Answer forget requests: sample, refine, choose on validation, measure on test."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.classifiers import Rows, pick, state_dict
from models.generator import Generator
from models.masks import forget_code, retain_masks
from models.measure import PerClass, per_class
from models.prompts import LossPrompt, stack
from models.refinement import Refinement, refine
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
        gate: what a candidate must reach; default: forget accuracy 0, or with a prompt nothing.
        prompt: losses to aim at; default: none, as if retrained.
        refine_steps: default: the generator's own, or with a prompt 0.
    """

    forget: tuple[int, ...]
    candidates: int
    seed: int
    gate: Gate | None = None
    prompt: LossPrompt = field(default_factory=LossPrompt)
    refine_steps: int | None = None

    @property
    def accepts(self) -> Gate:
        """The gate that holds."""
        return self.gate or Gate(max_forget_accuracy=1.0 if self.prompt else 0.0)

    def refinement(self, generator: Generator) -> Refinement:
        """How this request's candidates are refined."""
        if self.refine_steps is not None:
            return replace(generator.refinement, steps=self.refine_steps)
        return replace(generator.refinement, steps=0) if self.prompt else generator.refinement


def from_record(forget: Sequence[int], record: Mapping[str, Any]) -> ForgetRequest:
    """Return the request that a job's record (JSON) describes."""
    require, prompt = record.get("require"), dict(record.get("prompt") or {})
    by_class = {int(label): loss for label, loss in prompt.pop("class_losses", {}).items()}
    return ForgetRequest(
        tuple(forget),
        record["candidates"],
        record["seed"],
        Gate(**require) if require else None,
        LossPrompt(**prompt, class_losses=by_class),
        record.get("refine_steps"),
    )


@dataclass(frozen=True)
class Candidate:
    """Validation figures of one drawn weight set: what the choice was made on.

    Attributes:
        prompt_error: mean absolute log ratio of losses reached to losses asked for.
    """

    index: int
    forget_accuracy: float
    retain_accuracy: float
    retain_loss: float
    accepted: bool
    prompt_error: float | None = None


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

    marks: dict[str, float] = {}

    def begin(name: str, fraction: float) -> None:
        marks[name] = time.perf_counter()
        stage(name, fraction)

    rows = draw(generator, requests, begin)
    begin("choosing", 0.4)
    on_validation = per_class(classifier, rows, generator.dataset.validation)
    starts = (counts.cumsum(0) - counts).tolist()
    drawn = [
        _judge(request, mask, _slice(on_validation, start, request.candidates))
        for request, mask, start in zip(requests, masks, starts, strict=True)
    ]
    best = [_choose(candidates) for candidates in drawn]
    chosen = pick(rows, [start + index for start, index in zip(starts, best, strict=True)])

    begin("measuring", 0.7)
    on_test = per_class(classifier, chosen, generator.dataset.test)
    timing = {
        "sampling": 1e3 * (marks["refining"] - marks["sampling"]),
        "refining": 1e3 * (marks["choosing"] - marks["refining"]),
        "evaluating": 1e3 * (time.perf_counter() - marks["choosing"]),
    }
    return [
        Unlearned(
            weights=state_dict(chosen, i, classifier),
            chosen=best[i],
            candidates=drawn[i],
            metrics=_metrics(generator, codes[i], masks[i], _slice(on_test, i, 1), drawn[i])
            | _sampler(generator, requests[i], masks[i], _slice(on_test, i, 1)),
            timing_ms=timing,
        )
        for i in range(len(requests))
    ]


def draw(
    generator: Generator,
    requests: Sequence[ForgetRequest],
    begin: Callable[[str, float], None] = lambda name, fraction: None,
) -> Rows:
    """Draw and refine the candidates of all requests, the first one's first, as one batch.

    Args:
        begin: told when sampling and refining begin, and the fraction done.

    Returns:
        Weights, (E, units, fan_in + 1) a layer.
    """
    classifier = generator.classifier
    codes = [forget_code(request.forget) for request in requests]
    counts = torch.tensor([request.candidates for request in requests])  # (R,)
    masks = retain_masks(codes, classifier.classes).repeat_interleave(counts, 0)  # (E, K)
    begin("sampling", 0.1)
    noise = torch.cat([draw_noise(classifier, r.seed, r.candidates) for r in requests])  # (E, P)
    prompts = [r.prompt for r in requests for _ in range(r.candidates)]
    prompt = stack(prompts, masks) if any(prompts) else None
    rows = sample(generator.model, masks, noise, generator.steps, prompt, generator.guidance)
    begin("refining", 0.2)
    return _refine(generator, requests, counts, rows, noise, masks)


def _refine(
    generator: Generator,
    requests: Sequence[ForgetRequest],
    counts: Tensor,
    rows: Rows,
    noise: Tensor,
    masks: Tensor,
) -> Rows:
    """Refine each request's candidates as it asks for; those that ask alike together."""
    hows = [request.refinement(generator) for request in requests]
    asked = torch.tensor([how.steps for how in hows]).repeat_interleave(counts)  # (E,)
    rows = [layer.clone() for layer in rows]
    for how in {how.steps: how for how in hows}.values():
        at = torch.nonzero(asked == how.steps)[:, 0]  # (E',)
        train = generator.dataset.train
        done = refine(generator.model, pick(rows, at), noise[at], masks[at], train, how)
        for layer, part in zip(rows, done, strict=True):
            layer[at] = part
    return rows


def _sampler(
    generator: Generator, request: ForgetRequest, mask: Tensor, measured: PerClass
) -> dict[str, Any]:
    """Say how the weights came to be and, if losses were asked for, which were reached."""
    how = request.refinement(generator)
    result: dict[str, Any] = {
        "sampler": {
            "steps": generator.steps,
            "guidance": None if request.prompt else generator.config["sampler"]["guidance"],
            "refinement": asdict(how) if how.steps else None,
        }
    }
    if request.prompt:
        result["prompt"] = {
            "requested": request.prompt.wanted(),
            "achieved": request.prompt.reached(measured, mask),
            "warnings": request.prompt.warnings(mask, generator.config["prompts"]),
        }
    return result


def _slice(measured: PerClass, start: int, count: int) -> PerClass:
    here = slice(start, start + count)
    return PerClass(measured.accuracy[here], measured.loss[here], measured.n)


def _judge(request: ForgetRequest, mask: Tensor, measured: PerClass) -> list[Candidate]:
    retain, loss = measured.over(mask.expand(request.candidates, -1))  # (C,), (C,)
    forget, _ = measured.over(~mask.expand(request.candidates, -1))  # (C,)
    gate, found = request.accepts, []
    for i in range(request.candidates):
        f, r = forget[i].item(), retain[i].item()
        accepted = f <= gate.max_forget_accuracy and r >= gate.min_retain_accuracy
        error = _prompt_error(request.prompt, _slice(measured, i, 1), mask)
        found.append(Candidate(i, f, r, loss[i].item(), accepted, error))
    return found


def _prompt_error(prompt: LossPrompt, measured: PerClass, mask: Tensor) -> float | None:
    if not prompt:
        return None
    reached, wanted = prompt.reached(measured, mask), prompt.wanted()
    return sum(abs(log(max(reached[k], 1e-6) / wanted[k])) for k in wanted) / len(wanted)


def _choose(candidates: Sequence[Candidate]) -> int:
    """Return the best of the accepted, else the best forgetter.

    The best is the best retainer or, if losses were asked for, who comes nearest to them.
    """

    def rank(candidate: Candidate) -> tuple[float, ...]:
        forgotten = 0.0 if candidate.accepted else candidate.forget_accuracy
        return (
            -float(candidate.accepted),
            forgotten,
            candidate.prompt_error or 0.0,
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
    original = reference.of(0)[0].mean(0)  # (K,)
    # A large zoo is retrained for some forget sets only: the others have no reference.
    known = code in reference
    retrained = reference.of(code)[0].mean(0) if known else None  # (K,)
    retrained_retain = reference.retain_accuracy(code) if known else np.empty(0)  # (R,)
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
                "retrained_accuracy": None if retrained is None else float(retrained[c]),
            }
            for c in range(len(names))
        ],
        "original": {"retain_accuracy": float(reference.retain_accuracy(code, of_code=0).mean())},
        "retrained": {
            "retain_accuracy": float(retrained_retain.mean()) if seeds else None,
            "sd": float(retrained_retain.std(ddof=1)) if seeds > 1 else None,
            "n": seeds,
        },
        "candidates": {
            "drawn": len(candidates),
            "accepted": sum(candidate.accepted for candidate in candidates),
        },
    }
