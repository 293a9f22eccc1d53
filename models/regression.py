"""Weights by regression on the mask: where DiHyFo starts from.

Kernel ridge regression (kriging) over the cube of masks: two masks are the more alike, the fewer
classes they differ in, at a short and at a long range, and the more alike the shares of the loss
that each class has: one of two retained classes weighs more than one of nine. It cannot know what
a network does with its weights, but it is a good first guess, and a DiHyFo that only learns what
is missing generalises better to unseen masks (docs/science.md).
"""

from collections.abc import Iterator, Mapping
from itertools import product

import torch
from torch import Tensor, nn

# How alike two masks still are for each class they differ in, at short and at long range; how much
# of the variance is short-ranged; how fast likeness falls with the squared distance between the
# classes' shares of the loss; and how much is noise. Leave-one-out chooses.
_SHORT, _LONG, _PART = (0.35, 0.5), (0.8, 0.9), (0.0, 0.1, 0.25)
_SHARES = (0.0, 1.0, 2.0)
_NOISE = (0.001, 0.003, 0.01, 0.03, 0.1)


class Regression(nn.Module):
    """A fitted regression from masks to weights, through r principal components of the weights.

    Args:
        known: masks that it was fitted on, N.
        rank: principal components, r.
        parameters: weights of a network, P.
    """

    def __init__(self, known: int, classes: int, rank: int, parameters: int) -> None:
        super().__init__()
        self.register_buffer("masks", torch.zeros(known, classes))  # 1 = retained
        self.register_buffer("kernel", torch.zeros(3 * (classes + 1,)))  # see `_cells`
        self.register_buffer("duals", torch.zeros(known, rank))
        self.register_buffer("basis", torch.zeros(rank, parameters))
        self.register_buffer("mean", torch.zeros(parameters))

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "Regression":
        """Return the regression whose ``state_dict`` it is."""
        (known, rank), (_, parameters) = state["duals"].shape, state["basis"].shape
        made = cls(known, state["masks"].shape[1], rank, parameters)
        made.load_state_dict(state)
        return made

    def forward(self, masks: Tensor) -> Tensor:
        """Return the expected weights of masks (B, K) bool, (B, P)."""
        cells = _cells(masks, self.get_buffer("masks"))  # three of (B, N)
        scores = self.get_buffer("kernel")[cells] @ self.get_buffer("duals")  # (B, r)
        return torch.addmm(self.get_buffer("mean"), scores, self.get_buffer("basis"))


def regress(masks: Tensor, weights: Tensor, variance: Tensor) -> tuple[Regression, Tensor]:
    """Fit the regression with the least leave-one-out error.

    Args:
        masks: (N, K) bool, each at most once.
        weights: of S seeds, (S, N, P).
        variance: of each weight between the seeds of one mask, (P,).

    Returns:
        The regression, and what it says of each of its masks had that mask been left out, (N, P).
    """
    mean = weights.mean((0, 1))  # (P,)
    scores, basis = _components(weights, mean, variance)  # (N, r), (r, P)
    cells = _cells(masks, masks)  # three of (N, N)
    best: tuple[float, Tensor, Tensor, Tensor] | None = None
    for kernel in _kernels(masks.shape[1]):
        values, vectors = torch.linalg.eigh(kernel[cells])  # (N,), (N, N)
        turned = vectors.T @ scores  # (N, r)
        for noise in _NOISE:
            duals = vectors @ (turned / (values + noise)[:, None])  # (N, r)
            leverage = (vectors.square() / (values + noise)).sum(1)  # (N,)
            # Leaving a sample out of a kernel regression has a closed form.
            missed = duals / leverage[:, None]  # (N, r)
            error = missed.square().sum().item()
            if best is None or error < best[0]:
                best = (error, kernel, duals, missed)
    assert best is not None
    _, kernel, duals, missed = best
    found = Regression(len(masks), masks.shape[1], basis.shape[0], basis.shape[1])
    for name, value in {"masks": masks, "kernel": kernel, "duals": duals}.items():
        found.get_buffer(name).copy_(value)
    found.get_buffer("basis").copy_(basis)
    found.get_buffer("mean").copy_(mean)
    return found, (mean + (scores - missed).float() @ basis)


def _cells(masks: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return how many classes masks (B, K), others (N, K) and both retain, (B, N) int64 each."""
    ours, theirs = masks.float(), others.float()  # (B, K), (N, K)
    both = (ours @ theirs.T).long()  # (B, N)
    sizes = ours.sum(1).long()[:, None], theirs.sum(1).long()[None]  # (B, 1), (1, N)
    return sizes[0].expand_as(both), sizes[1].expand_as(both), both


def _kernels(classes: int) -> Iterator[Tensor]:
    """Return the kernels to choose from, each (K+1, K+1, K+1) float64, see `_cells`."""
    count = torch.arange(classes + 1).double()
    a, b, both = torch.meshgrid(count, count, count, indexing="ij")  # (K+1, K+1, K+1) each
    differ = a + b - 2 * both
    p, q = a.clamp(min=1), b.clamp(min=1)
    shares = 1 / p + 1 / q - 2 * both / (p * q)  # squared distance of the masks over their sizes
    ranges = {(s * (part > 0), long, part) for s, long, part in product(_SHORT, _LONG, _PART)}
    for (short, long, part), fall in product(sorted(ranges), _SHARES):
        yield (part * short**differ + (1 - part) * long**differ) * torch.exp(-fall * shares)


def _components(weights: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores (N, r) float64 and basis (r, P) of the principal components worth keeping.

    What the others hold is less than what the mean over S seeds still differs by at random.
    """
    middle = weights.mean(0) - mean  # (N, P)
    # By the small side's Gram matrix: P is ten times N.
    energy, left = torch.linalg.eigh((middle @ middle.T).double())  # (N,), (N, N)
    energy, left = energy.flip(0).clamp(min=0), left.flip(1)
    noise = variance.sum() * len(middle) / len(weights)  # of all N together
    beyond = energy.sum() - energy.cumsum(0)  # (N,)
    kept = int((beyond > noise).sum()) + 1
    kept = max(1, min(kept, weights.shape[2], int((energy > 1e-9 * energy.sum()).sum())))
    scale = energy[:kept].sqrt().clamp(min=1e-12)  # (r,)
    basis = (left[:, :kept] / scale).T.float() @ middle  # (r, P)
    return left[:, :kept] * scale, basis
