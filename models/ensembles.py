"""Tests on distributions: many samples of one forget set against many retrained networks.

Each works on what N networks make of the same images. With tens of networks the estimates are
biased: even two ensembles of retrained networks differ, and that figure, the noise floor,
belongs beside.
"""

import numpy as np

_DELTA = 1e-5
_BIN, _BINS = 0.5, 13  # of epsilon, as in the competition
_MARGIN_BINS = 10  # of KLOM: N is tens here, where the paper has hundreds and 20 bins


def forgetting_score(unlearned: np.ndarray, retrained: np.ndarray) -> tuple[float, float]:
    """Return the forgetting score of the NeurIPS 2023 competition and the median epsilon.

    Triantafillou et al. (arXiv 2406.09073): for each forgotten training image the best
    threshold on a network's confidence, of either direction, that tells unlearned from
    retrained networks gives an epsilon; an image scores 2 / 2**n with epsilon in the n-th bin
    of width 0.5 (13 bins), and the mean over images is the score. 1 = alike.
    The competition then multiplies with the ratios of utility, which the audit gives apart.

    Args:
        unlearned, retrained: log-odds of the true class, (N, images) and (M, images).
    """
    epsilon = _epsilon(unlearned, retrained)  # (images,)
    n = np.minimum(np.floor(epsilon / _BIN) + 1, _BINS)
    # At most 2 / 2**1, so that images nobody can tell apart give 1.
    return float((2 / 2**n).mean()), float(np.median(np.minimum(epsilon, _BIN * _BINS)))


def _epsilon(unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
    """Return each image's epsilon, (images,); perfectly separated = infinite."""
    both = np.concatenate([unlearned, retrained])  # (N + M, images)
    order = both.argsort(0)
    ours = np.take_along_axis((np.arange(len(both)) < len(unlearned))[:, None], order, 0)
    below = ours.cumsum(0)[:-1] / len(unlearned)  # share of unlearned at or below a cut
    rank = np.arange(1, len(both))[:, None]
    below_retrained = (rank - ours.cumsum(0)[:-1]) / len(retrained)
    best = np.zeros(both.shape[1])
    for fpr, fnr in ((below, 1 - below_retrained), (1 - below, below_retrained)):
        # fpr: unlearned called retrained; fnr: retrained called unlearned.
        perfect = (fpr < 1e-9) & (fnr < 1e-9)
        usable = (fpr > 1e-9) & (fnr > 1e-9)  # one of them 0 says nothing with N this small
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.fmax(
                np.log(1 - _DELTA - fpr) - np.log(fnr), np.log(1 - _DELTA - fnr) - np.log(fpr)
            )
        found = np.where(perfect, np.inf, np.where(usable & ~np.isnan(found), found, 0.0))
        best = np.maximum(best, found.max(0))
    return best


def klom(unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
    """Return KLOM of every image in nats, (images,): 0 = alike.

    Georgiev et al., "Attribute-to-Delete" (arXiv 2410.23232): the KL divergence from the
    histogram of retrained networks' margins to that of unlearned ones. Bins are even over the
    range of both, 10 of them, and each counts half a network more, so that tens of networks
    give finite figures.

    Args:
        unlearned, retrained: margins (log-odds of the true class), (N, images), (M, images).
    """
    both = np.concatenate([unlearned, retrained])
    low, high = both.min(0), both.max(0)  # (images,)
    width = np.maximum(high - low, 1e-12)
    share = []
    for margins in (retrained, unlearned):
        at = np.minimum((margins - low) / width * _MARGIN_BINS, _MARGIN_BINS - 1).astype(int)
        counts = (at[:, None, :] == np.arange(_MARGIN_BINS)[:, None]).sum(0) + 0.5  # (bins, images)
        share.append(counts / counts.sum(0))
    true, ours = share
    divergence: np.ndarray = (true * np.log(true / ours)).sum(0)
    return divergence


def tow(unlearned: np.ndarray, retrained: np.ndarray) -> float:
    """Return ToW, the tug of war: 1 = the accuracies of retraining on all three sets.

    Zhao et al. (arXiv 2406.01257): the product of 1 - |difference in accuracy| over the forget
    set, the retain set and the test split. Mean over unlearned networks, each against the mean
    of the retrained ones.

    Args:
        unlearned, retrained: accuracies, (N, 3) and (M, 3).
    """
    return float((1 - np.abs(unlearned - retrained.mean(0))).prod(1).mean())


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Return the IoU of two error sets, (images,) bool; two empty ones overlap wholly.

    G.pt and its critics compare networks by which images they get wrong (arXiv 2209.12892).
    """
    either = (a | b).sum()
    return float((a & b).sum() / either) if either else 1.0
