"""Attacks: what an adversary, or a little more training, gets out of one network.

Everything here works on arrays. "MIA" is three different numbers in the literature, so each
convention has its own name; none means much except beside a retrained network's.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC


def loss_auc(members: np.ndarray, others: np.ndarray) -> float:
    """Return the AUC of telling training from unseen images by their loss (arXiv 1709.01604).

    0.5 = both are treated alike; a member is betrayed by its lower loss.

    Args:
        members, others: losses of forgotten classes' training and test images, (N,) and (M,).
    """
    truth = np.r_[np.ones(len(members)), np.zeros(len(others))]
    return float(roc_auc_score(truth, -np.r_[members, others]))


def ssd_mia(retain_train: np.ndarray, test: np.ndarray, forget_train: np.ndarray) -> float:
    """Return the share of forgotten training images called members, SSD's convention.

    Selective Synaptic Dampening (arXiv 2308.07707), after Bad Teacher (2205.08096): logistic
    regression, classes balanced, on the entropy of the output; retained training images are
    members, test images are not. Low = forgotten.

    Args:
        retain_train, test, forget_train: entropies in nats, (N,) each.
    """
    attacker = LogisticRegression(class_weight="balanced")
    attacker.fit(*_labelled(retain_train, test))
    return float(attacker.predict(forget_train[:, None]).mean())


def salun_mia(retain_train: np.ndarray, retain_test: np.ndarray, forget_train: np.ndarray) -> float:
    """Return the share of forgotten training images called non-members, SalUn's convention.

    SalUn (arXiv 2310.12508), "MIA-efficacy": an SVC (RBF, C = 3) on the confidence in the true
    class; retained training images are members, *retained* test images are not. High = forgotten.

    Args:
        retain_train, retain_test, forget_train: confidences, (N,) each.
    """
    return 1 - _svc(retain_train, retain_test, forget_train)


def kodge_mia(retain_train: np.ndarray, test: np.ndarray, forget_train: np.ndarray) -> float:
    """Return the share of forgotten training images called non-members, Kodge's convention.

    Gradient-free class forgetting (arXiv 2312.00761), as we read it: the same SVC on confidence,
    but non-members are test images of *all* classes, the forgotten ones too. High = forgotten.

    Args:
        retain_train, test, forget_train: confidences, (N,) each.
    """
    return 1 - _svc(retain_train, test, forget_train)


def _svc(members: np.ndarray, others: np.ndarray, judged: np.ndarray) -> float:
    attacker = SVC(C=3, gamma="auto", kernel="rbf")
    attacker.fit(*_labelled(members, others))
    return float(attacker.predict(judged[:, None]).mean())


def _labelled(members: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, 1) and whether each is a member's (N,)."""
    x = np.r_[members, others][:, None]
    return x, np.r_[np.ones(len(members)), np.zeros(len(others))]


def linear_probe(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> float:
    """Return how well a linear classifier reads the forgotten classes off hidden features.

    A linear probe (arXiv 1610.01644): logistic regression on standardised features of training
    images of the forgotten classes, its accuracy on their test images. It answers with
    forgotten classes only, so it needs two of them at least. A network that never saw them has
    useful features too: only the distance to the retrained network's figure says something.

    Args:
        x, x_test: features, (N, F) and (M, F).
        y, y_test: labels, (N,) and (M,).
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5_000))
    probe.fit(x, y)
    return float(probe.score(x_test, y_test))
