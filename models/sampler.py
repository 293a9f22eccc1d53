"""Draw classifier weights from a DiHyFo, many masks at once, in a few steps."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from models.classifiers import Classifier, Rows, pick, unflatten
from models.dihyfo import DiHyFo, Prompt, signal_and_noise
from models.guidance import Guidance, guide


def draw_noise(classifier: Classifier, seed: int, count: int) -> Tensor:
    """Return the starting noise of one request's candidates, (count, P), from its seed.

    Candidate i of a seed is the same whatever ``count`` is.
    """
    rng = torch.Generator().manual_seed(seed)
    # One by one: torch fills a larger tensor with other numbers from the same seed.
    return torch.stack([torch.randn(classifier.parameters, generator=rng) for _ in range(count)])


def first_noise(classifier: Classifier, seeds: Iterable[int]) -> Tensor:
    """Return the noise of each seed's first candidate, (len(seeds), P)."""
    return torch.cat([draw_noise(classifier, seed, 1) for seed in seeds])


@torch.inference_mode()
def sample(
    model: DiHyFo,
    masks: Tensor,
    noise: Tensor,
    steps: int,
    prompt: Prompt | None = None,
    guidance: Guidance | None = None,
) -> Rows:
    """Turn noise into weights (DDIM, deterministic: arXiv 2010.02502).

    Args:
        model: in eval mode.
        masks: (B, K) bool, true = retained.
        noise: (B, P), see `draw_noise`.
        steps: network evaluations; 1 predicts the weights from noise in one go.
        prompt: of all B; default: none asks for a loss.
        guidance: of those that ask for no loss; default: none is guided.

    Returns:
        Weights, (B, units, fan_in + 1) a layer.

    Raises:
        ValueError: ``steps`` is not positive.
    """
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, got {steps}")
    x = unflatten(noise, model.classifier)
    centre = model.centre(masks, prompt)
    times = torch.linspace(1, 0, steps + 1).tolist()
    for now, then in pairwise(times):
        clean = model(x, torch.full((len(masks),), now), masks, centre, prompt)
        x = towards(x, clean, now, then) if then else clean
    rows = model.restore(x, centre)
    if guidance is None:
        return rows
    if prompt is None:
        return guide(guidance, model.classifier, rows, masks)
    free = torch.nonzero(prompt.losses.isnan().all(1))[:, 0]  # (B',)
    if len(free):
        guided = guide(guidance, model.classifier, pick(rows, free), masks[free])
        rows[-1] = rows[-1].index_copy(0, free, guided[-1])  # the other layers stay
    return rows


def towards(x: Rows, clean: Rows, now: float, then: float) -> Rows:
    """Move x from time ``now`` to ``then`` along the predicted clean weights."""
    times: Sequence[float] = (now, then)
    signal, noise = signal_and_noise(torch.tensor(times))
    ratio = noise[1] / noise[0]
    return [ratio * a + (signal[1] - ratio * signal[0]) * b for a, b in zip(x, clean, strict=True)]
