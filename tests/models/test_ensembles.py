import numpy as np
import pytest

from models.ensembles import forgetting_score, klom, overlap, tow

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(2, 64, 50))  # 64 networks, 50 images


def test_the_forgetting_score_falls_as_networks_differ() -> None:
    alike, _ = forgetting_score(A, B)
    shifted, epsilon = forgetting_score(A, B + 1)
    apart, endless = forgetting_score(A, B + 100)
    assert 1 >= alike > shifted > apart
    assert apart == pytest.approx(2 / 2**13)
    assert 0.5 < epsilon < endless
    assert forgetting_score(A, B + 1)[0] == pytest.approx(forgetting_score(-A, -B - 1)[0])


def test_a_known_epsilon() -> None:
    # One cut: a quarter of the retrained lie below it, three quarters of the unlearned do.
    unlearned = np.array([0.0, 0, 0, 1])[:, None]
    retrained = np.array([0.0, 1, 1, 1])[:, None]
    # Equal values cannot be cut between, so spread them without changing their order.
    order = np.arange(4)[:, None] * 1e-3
    score, epsilon = forgetting_score(unlearned + order, retrained + order + 5e-4)
    assert epsilon >= np.log(3) - 1e-4  # log(1 - 1/4) - log(1/4)
    assert score <= 2 / 2**3


def test_klom_is_zero_for_the_same_ensemble() -> None:
    assert klom(A, A) == pytest.approx(np.zeros(50))
    assert klom(A, B).mean() < klom(A, B + 1).mean() < klom(A, B + 100).mean() < np.inf
    constant = np.zeros((8, 2))
    assert klom(constant, constant) == pytest.approx(np.zeros(2))


def test_tow_rewards_equal_accuracies_only() -> None:
    gold = np.array([[0.0, 0.96, 0.5]])
    assert tow(gold, gold) == 1
    assert tow(gold + np.array([0.1, 0, 0]), gold) == pytest.approx(0.9)
    assert tow(gold + np.array([0.1, -0.2, 0]), gold) == pytest.approx(0.9 * 0.8)


def test_overlap_of_error_sets() -> None:
    a, b = np.array([True, True, False]), np.array([False, True, True])
    assert overlap(a, b) == pytest.approx(1 / 3)
    assert overlap(a & ~a, a & ~a) == 1
