import numpy as np
import pytest

from models.attacks import kodge_mia, linear_probe, loss_auc, salun_mia, ssd_mia

RNG = np.random.default_rng(0)
SURE, UNSURE = RNG.uniform(0.9, 1.0, 200), RNG.uniform(0.1, 0.5, 200)  # confidences


def test_loss_betrays_members() -> None:
    assert loss_auc(np.array([0.1, 0.2]), np.array([1.0, 2.0])) == 1
    assert loss_auc(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 0.5


@pytest.mark.parametrize("forgotten", [True, False])
def test_conventions_count_on_their_own_side(forgotten: bool) -> None:
    judged = (UNSURE if forgotten else SURE)[:50]
    entropy = 1 - judged
    assert ssd_mia(1 - SURE, 1 - UNSURE, entropy) == pytest.approx(float(not forgotten), abs=0.05)
    assert salun_mia(SURE, UNSURE, judged) == pytest.approx(float(forgotten), abs=0.05)
    assert kodge_mia(SURE, UNSURE, judged) == pytest.approx(float(forgotten), abs=0.05)


def test_the_probe_reads_what_the_features_hold() -> None:
    y = np.arange(300) % 3
    told = np.eye(3)[y] + 0.1 * RNG.normal(size=(300, 3))
    blind = RNG.normal(size=(300, 3))
    assert linear_probe(told[:200], y[:200], told[200:], y[200:]) == 1
    assert linear_probe(blind[:200], y[:200], blind[200:], y[200:]) < 0.6
    dead = np.zeros((300, 3))  # units that never fire
    assert linear_probe(dead[:200], y[:200], dead[200:], y[200:]) < 0.5
