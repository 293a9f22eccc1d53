"""Guide drawn weights to the answers that the zoo foretells.

What retrained networks answer is a smoother function of the mask than their weights are: for a
mask that it never saw, a regression foretells answers better than weights. A drawn network is
therefore held against the foretold answers on a few training images of the retained classes, and
the output layer's rows of these classes move until both agree. No label, no image of a forgotten
class and no gradient of the layers below is needed, so it costs less than one training step.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.classifiers import Classifier, Rows
from models.datasets import Split
from models.dihyfo import DiHyFo
from models.regression import Regression, regress
from models.zoo import Zoo

_POOL, _ASKED = 300, 64  # images of each class to choose from, and networks that are asked


@dataclass(frozen=True)
class Guiding:
    """How weights are guided.

    Attributes:
        images: of each class.
        penalty: of what the output layer moves by, squared, in units of what the regression on
            the mask misses of it.
        iterations: of the descent.
    """

    images: int = 4
    penalty: float = 1e-3
    iterations: int = 10


@dataclass(frozen=True)
class Guidance:
    """What a generator's weights are guided by.

    Attributes:
        at: positions of the images in the training split, (S,) int64.
        x, y: their inputs (S, D) and labels (S,); a label only tells whether a mask retains it.
        answers: from a mask to the probabilities that a retrained network gives, (S * K).
        penalty: of the squared move, per weight.
        iterations: of the descent.
    """

    at: Tensor
    x: Tensor
    y: Tensor
    answers: Regression
    penalty: float
    iterations: int


def foretell(zoo: Zoo, model: DiHyFo, train: Split, how: Guiding) -> Guidance:
    """Learn what a zoo's networks answer on a few images of the training split."""
    at = _unsure(zoo, train, how.images)  # (S,)
    answers = torch.stack(
        [_answers(zoo, seed, slice(None), train.x[at]).flatten(1) for seed in range(len(zoo.seeds))]
    )  # (seeds, N, S * K)
    regression, _ = regress(zoo.masks, answers, torch.zeros(answers.shape[2]))
    missed = model.get_buffer("scale")[-1].item()
    return Guidance(
        at, train.x[at], train.y[at], regression, how.penalty / missed**2, how.iterations
    )


def _unsure(zoo: Zoo, train: Split, count: int) -> Tensor:
    """Return positions of the images of each class, (S,), that networks which know it doubt most.

    Where all networks are sure, answers tell nothing of their weights.
    """
    rng = torch.Generator().manual_seed(0)
    order = torch.randperm(len(train), generator=rng)
    some = torch.randperm(len(zoo.codes), generator=rng)[:_ASKED]
    found = []
    for c in range(zoo.classifier.classes):
        pool = order[train.y[order] == c][:_POOL]
        knowing = some[zoo.masks[some, c]]
        answers = _answers(zoo, 0, knowing, train.x[pool])  # (E, B, K)
        doubt = torch.special.entr(answers).sum((0, 2))  # (B,)
        found.append(pool[doubt.topk(min(count, len(pool))).indices])
    return torch.cat(found)


def _answers(zoo: Zoo, seed: int, at: Tensor | slice, x: Tensor) -> Tensor:
    """Return the probabilities that networks of one seed give, (E, B, K)."""
    return zoo.classifier.forward_many(zoo.rows(seed, at), x).softmax(2)


def guide(guidance: Guidance, classifier: Classifier, rows: Rows, masks: Tensor) -> Rows:
    """Return E weight sets whose output layers agree with the foretold answers.

    The divergence of the network's answers from the foretold ones falls in every iteration: its
    curvature is bounded by that of Böhning (1992), which needs to be inverted only once.

    Args:
        rows: (E, units, fan_in + 1) a layer; left as they are.
        masks: (E, K) bool, true = retained.
    """
    features = _features(guidance, classifier, rows, masks)  # (E, S, F+1)
    n = masks[:, guidance.y].sum(1)[:, None, None]  # (E, 1, 1)
    wanted = guidance.answers(masks).view(*features.shape[:2], -1)  # (E, S, K)
    wanted = wanted.clamp(min=1e-4) * masks[:, None]
    wanted = wanted / wanted.sum(2, keepdim=True)
    across = features.transpose(1, 2) / n  # (E, F+1, S)
    stiff = guidance.penalty * torch.eye(features.shape[2])  # (F+1, F+1)
    bound = torch.linalg.cholesky(0.5 * across @ features + stiff)  # (E, F+1, F+1)
    never = torch.zeros(masks.shape).masked_fill(~masks, -torch.inf)[:, None]  # (E, 1, K)
    before = features @ rows[-1].transpose(1, 2) + never  # (E, S, K)
    move = torch.zeros(len(masks), features.shape[2], masks.shape[1])  # (E, F+1, K)
    for _ in range(guidance.iterations):
        apart = wanted - (before + features @ move).softmax(2)  # (E, S, K)
        fall = across @ apart - guidance.penalty * move  # (E, F+1, K)
        move = move + torch.cholesky_solve(fall, bound)
    return [*rows[:-1], rows[-1] + move.transpose(1, 2)]


def _features(guidance: Guidance, classifier: Classifier, rows: Rows, masks: Tensor) -> Tensor:
    """Return what feeds the output layers, a 1 for the bias beside it, (E, S, F+1).

    It is 0 at the images of forgotten classes.
    """
    retained = masks[:, guidance.y]  # (E, S)
    h = classifier.features_many(rows, guidance.x, retained)  # (E, S, F)
    return F.pad(h, (0, 1), value=1.0).masked_fill(~retained[:, :, None], 0)
