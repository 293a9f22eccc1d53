"""Other ways to forget, and one way to remember: what DiHyFo is held against.

Each takes one network that knows all classes and unlearns E forget sets side by side. All
share the mini-batches of `models.fitting.descend`; where a paper has a loader for the forget
set and one for the retain set, a batch here holds samples of both, and each network tells
them apart by its mask. Optimiser and rate decay are those of retraining, for all alike.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vmap

from models.classifiers import Classifier, Rows, flatten, repeat, unflatten
from models.datasets import Split
from models.fitting import Fit, Loss, descend, fit, follow, mean_over
from models.measure import sample_losses
from models.zoo import INITIAL_SEED, Zoo

_SAMPLES = 256  # whose gradients are held at once, each of P numbers


def retrain(classifier: Classifier, train: Split, masks: Tensor, how: Fit, seed: int) -> Rows:
    """Train from scratch on the retained classes, one network for each mask (E, K)."""
    start = repeat(classifier.initial(INITIAL_SEED), len(masks))
    return fit(classifier, train, masks, start, how, seed)


def mask_logits(classifier: Classifier, original: Rows, train: Split, masks: Tensor) -> Rows:
    """Lower the forgotten classes' logits: free, and forgets nothing.

    Their biases go down by the least constant that lets them win on no training image.

    Args:
        original: one weight set (E = 1) that knows all classes.
        masks: (E, K) bool, true = retained.
    """
    logits = classifier.forward_many(original, train.x)[0]  # (N, K)
    rows = repeat(original, len(masks))
    for output, mask in zip(rows[-1], masks, strict=True):  # (K, fan_in + 1), (K,)
        lead = logits[:, ~mask].amax(1) - logits[:, mask].amax(1)  # (N,)
        output[~mask, -1] -= lead.max() + 1
    return rows


def fine_tune(
    classifier: Classifier, original: Rows, train: Split, masks: Tensor, how: Fit, seed: int
) -> Rows:
    """Train the original on for one epoch, on the retained classes only."""
    one = Fit(1, how.batch, how.rate / 3)
    return fit(classifier, train, masks, repeat(original, len(masks)), one, seed)


def neg_grad_plus(
    classifier: Classifier,
    original: Rows,
    train: Split,
    masks: Tensor,
    how: Fit,
    seed: int,
    *,
    retain_weight: float = 0.95,
) -> Rows:
    """Descend on the retained samples' loss and climb on the forgotten ones' at once.

    NegGrad+ of Kurmanji et al., NeurIPS 2023 (arXiv 2302.09880).

    Args:
        original: one weight set (E = 1) that knows all classes; left as it is.
        masks: (E, K) bool, true = retained.
        how: passes over the training split; the same in all functions below.
        retain_weight: of the retained samples' mean loss; the rest weighs the forgotten ones'.
    """

    def loss(logits: Tensor, index: Tensor, step: int) -> Tensor:
        y = train.y[index]  # (B,)
        each, keep = sample_losses(logits, y), masks[:, y]  # (E, B), (E, B)
        return retain_weight * mean_over(each, keep) - (1 - retain_weight) * mean_over(each, ~keep)

    return descend(classifier, train, repeat(original, len(masks)), how, seed, loss)


def selective_dampening(
    classifier: Classifier,
    original: Rows,
    train: Split,
    masks: Tensor,
    *,
    select: float = 1.0,
    dampen: float = 1.0,
) -> Rows:
    """Shrink the weights that matter more to the forget set than to all data; no training.

    SSD of Foster et al., AAAI 2024 (arXiv 2308.07707). Importance is the diagonal of the
    empirical Fisher. As the forget set is a part of all data, its importance is at most
    N / n(forget) times the whole's: a ``select`` above that touches nothing.

    Args:
        select: alpha, how many times more important a weight must be to be dampened.
        dampen: lambda; a weight is multiplied with lambda x importance(all) /
            importance(forget), where that is below 1.
    """
    fisher = _fisher_of_classes(classifier, original, train)  # (K, P)
    n = torch.bincount(train.y, minlength=classifier.classes).float()  # (K,)
    everything = n @ fisher / n.sum()  # (P,)
    forgotten = ~masks * n  # (E, K)
    matters = forgotten @ fisher / forgotten.sum(1, keepdim=True)  # (E, P)
    shrunk = (dampen * everything / matters).clamp(max=1)  # (E, P)
    factor = torch.where(matters > select * everything, shrunk, 1.0)  # (E, P)
    return unflatten(flatten(original) * factor, classifier)


def _fisher_of_classes(classifier: Classifier, original: Rows, train: Split) -> Tensor:
    """Return the mean squared gradient of a sample's loss, for each class, (K, P).

    Every forget set's importance is a weighted mean of these.
    """

    def loss(rows: Rows, x: Tensor, y: Tensor) -> Tensor:
        return sample_losses(classifier.forward_many(rows, x[None]), y[None]).sum()

    of_samples = vmap(grad(loss), (None, 0, 0))
    total = torch.zeros(classifier.classes, classifier.parameters)
    for index in torch.split(torch.arange(len(train)), _SAMPLES):
        y = train.y[index]  # (B,)
        gradients = of_samples(original, train.x[index], y)  # (B, 1, units, fan_in + 1) a layer
        total.index_add_(0, y, flatten(gradients).square())
    return total / torch.bincount(train.y, minlength=classifier.classes)[:, None]


def scrub(
    classifier: Classifier,
    original: Rows,
    train: Split,
    masks: Tensor,
    how: Fit,
    seed: int,
    *,
    climbs: int = 1,
    distil: float = 0.5,
    learn: float = 1.0,
) -> Rows:
    """Move away from the original on the forgotten samples, stay close on the retained.

    SCRUB of Kurmanji et al., NeurIPS 2023 (arXiv 2302.09880): epochs that raise the KL from
    the teacher on the forget set alternate with epochs that lower it on the retain set. One
    pass holds one of each: a network climbs for the forget set's share of the steps, then
    descends for the retain set's, so that both get the steps that loaders of their own give.

    Args:
        climbs: the passes, from the first, that begin with climbing.
        distil, learn: alpha and gamma, weights of the KL and of the labels when descending.

    Raises:
        ValueError: more passes are to climb than there are.
    """
    if not 0 <= climbs <= how.epochs:
        raise ValueError(f"climbs must be 0 to {how.epochs}, the passes, got {climbs}")
    teacher = _log_probabilities(classifier, original, train)  # (N, K)
    of_pass = how.steps(len(train)) // how.epochs
    share = (~masks)[:, train.y].float().mean(1)  # (E,)
    until = (share * of_pass).ceil()  # (E,)

    def loss(logits: Tensor, index: Tensor, step: int) -> Tensor:
        y = train.y[index]  # (B,)
        keep, apart = masks[:, y], _divergence(teacher[index], logits)  # (E, B), (E, B)
        number, within = divmod(step, of_pass)
        climbing = (until > within)[:, None] & (number < climbs)  # (E, 1)
        near = distil * apart + learn * sample_losses(logits, y)  # (E, B)
        return mean_over(near, keep & ~climbing) - mean_over(apart, ~keep & climbing)

    return descend(classifier, train, repeat(original, len(masks)), how, seed, loss)


def bad_teacher(
    classifier: Classifier,
    original: Rows,
    train: Split,
    masks: Tensor,
    how: Fit,
    seed: int,
    *,
    retain_share: float = 0.3,
) -> Rows:
    """Learn forgotten samples from an untrained teacher and retained ones from the original.

    Chundawat et al., AAAI 2023 (arXiv 2205.08096).

    Args:
        retain_share: of the retained samples that are looked at; 0.3 in the paper.
    """
    rng = torch.Generator().manual_seed(seed)
    good = _log_probabilities(classifier, original, train)  # (N, K)
    # No classifier of the house starts from this seed's weights.
    bad = _log_probabilities(classifier, classifier.initial(INITIAL_SEED + 1), train)  # (N, K)
    looked_at = torch.rand(len(train), generator=rng) < retain_share  # (N,)

    def loss(logits: Tensor, index: Tensor, step: int) -> Tensor:
        keep = masks[:, train.y[index]]  # (E, B)
        teacher = torch.where(keep[..., None], good[index], bad[index])  # (E, B, K)
        return mean_over(_divergence(teacher, logits), ~keep | looked_at[index])

    return descend(classifier, train, repeat(original, len(masks)), how, seed, loss)


def amnesiac(
    classifier: Classifier, original: Rows, train: Split, masks: Tensor, how: Fit, seed: int
) -> Rows:
    """Train on with the forgotten samples relabelled at random among the retained classes.

    What the class-unlearning literature calls Amnesiac, after Graves et al., AAAI 2021
    (arXiv 2010.10981).
    """
    loss = _relabelled_loss(train, masks, seed)
    return descend(classifier, train, repeat(original, len(masks)), how, seed, loss)


def saliency_unlearning(
    classifier: Classifier,
    original: Rows,
    train: Split,
    masks: Tensor,
    how: Fit,
    seed: int,
    *,
    share: float = 0.5,
) -> Rows:
    """Relabel as `amnesiac` does, but change only the weights the forget set depends on.

    SalUn of Fan et al., ICLR 2024 (arXiv 2310.12508).

    Args:
        share: of all weights, those with the steepest forget loss, that may change.
    """
    slope = _slope_of_classes(classifier, original, train)  # (K, P)
    n = torch.bincount(train.y, minlength=classifier.classes).float()  # (K,)
    steep = ((~masks * n) @ slope).abs()  # (E, P), up to a factor for each network
    count = max(1, round(share * classifier.parameters))
    salient = torch.zeros_like(steep, dtype=torch.bool)
    salient.scatter_(1, steep.topk(count, dim=1).indices, True)  # (E, P)
    free, loss = unflatten(salient, classifier), _relabelled_loss(train, masks, seed)
    return descend(classifier, train, repeat(original, len(masks)), how, seed, loss, free=free)


def _slope_of_classes(classifier: Classifier, original: Rows, train: Split) -> Tensor:
    """Return the gradient of each class's mean loss, (K, P)."""
    slopes = []
    for c in range(classifier.classes):
        x = train.x[train.y == c]  # (n, D)
        rows = [layer.clone().requires_grad_() for layer in original]
        y = torch.full((len(x),), c)  # (n,)
        sample_losses(classifier.forward_many(rows, x), y).mean().backward()  # type: ignore[no-untyped-call]
        slopes.append(torch.cat([layer.grad.flatten() for layer in rows if layer.grad is not None]))
    return torch.stack(slopes)


def _relabelled_loss(train: Split, masks: Tensor, seed: int) -> Loss:
    """Return the mean loss over all samples, forgotten ones with a random retained label.

    A sample keeps its random label through all passes.
    """
    draw = torch.rand(len(train), generator=torch.Generator().manual_seed(seed))  # (N,)
    order = masks.int().argsort(1, descending=True)  # (E, K), retained classes first
    retained = masks.sum(1, keepdim=True)  # (E, 1)

    def loss(logits: Tensor, index: Tensor, step: int) -> Tensor:
        y = train.y[index]  # (B,)
        other = order.gather(1, (draw[index] * retained).long())  # (E, B)
        return sample_losses(logits, torch.where(masks[:, y], y, other)).mean(1).sum()

    return loss


def _log_probabilities(classifier: Classifier, rows: Rows, split: Split) -> Tensor:
    """Return what one network (E = 1) answers on a split, (N, K)."""
    with torch.no_grad():
        return classifier.forward_many(rows, split.x)[0].log_softmax(1)


def _divergence(teacher: Tensor, logits: Tensor) -> Tensor:
    """Return KL(teacher || student) in nats, (E, B), from log-probabilities and logits."""
    return (teacher.exp() * (teacher - logits.log_softmax(2))).sum(2)


def nearest_mask(zoo: Zoo, masks: Tensor) -> Rows:
    """Return the zoo's network of the most similar mask (Hamming distance, first of equals)."""
    differing = (masks[:, None] != zoo.masks[None]).sum(2)  # (E, zoo)
    return zoo.rows(0, differing.argmin(1))


def relearn(
    classifier: Classifier,
    rows: Rows,
    train: Split,
    *,
    steps: int = 4,
    batch: int = 128,
    rate: float = 0.05,
    seed: int = 0,
    observe: Callable[[int, Rows], None] = lambda step, rows: None,
) -> Rows:
    """Train a few SGD steps on *all* classes: what was only hidden comes back fast.

    All E networks see the same batches.

    Args:
        observe: shown the networks before each step, and at last the trained ones.
    """
    rng = torch.Generator().manual_seed(seed)

    def loss(logits: Tensor, index: Tensor, step: int) -> Tensor:
        return sample_losses(logits, train.y[index]).mean(1).sum()

    return follow(
        classifier,
        train,
        rows,
        (torch.randint(len(train), (batch,), generator=rng) for _ in range(steps)),
        loss,
        lambda free: torch.optim.SGD(free, lr=rate),
        observe=observe,
    )
