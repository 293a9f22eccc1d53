import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.forward import probabilities
from models import classifiers
from models.classifiers import CNN, MLP
from tests.app.test_graphs import NORMALIZE, mlps
from tests.models.test_cnn import cnns


def check(spec: MLP | CNN, module: torch.nn.Module, pixels: torch.Tensor) -> None:
    """Compare with torch; pixels are flat."""
    weights = {name: values.numpy() for name, values in module.state_dict().items()}
    expected = module((pixels - NORMALIZE["mean"]) / NORMALIZE["std"]).detach().softmax(1)
    got = probabilities(spec.describe(), NORMALIZE, weights, pixels.numpy())
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)


@given(spec=mlps | cnns(), seed=st.integers(0, 99), batch=st.integers(1, 4))
@settings(max_examples=60)
def test_any_network_agrees_with_torch(spec: MLP | CNN, seed: int, batch: int) -> None:
    torch.manual_seed(seed)
    inputs = spec.sizes[0] if isinstance(spec, MLP) else int(np.prod(spec.shape))
    check(spec, spec.module(), torch.rand(batch, inputs))


@pytest.mark.parametrize("text", ["8k5s2-16k3s2/flat-32", "16k3s2-32k3/pool"])
def test_a_cnn_of_images(text: str) -> None:
    spec = classifiers.parse(f"cnn:{text}", (28, 28), 10)
    check(spec, spec.module(), torch.rand(64, 784))


def test_great_logits_do_not_overflow() -> None:
    spec = classifiers.parse("mlp:3", (4,), 2)
    state = {name: 1e6 * values for name, values in spec.module().state_dict().items()}
    weights = {name: values.numpy() for name, values in state.items()}
    got = probabilities(spec.describe(), NORMALIZE, weights, np.ones((2, 4), np.float32))
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-6)
