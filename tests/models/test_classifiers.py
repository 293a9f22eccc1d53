import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import classifiers
from models.classifiers import CNN, MLP

sizes = st.lists(st.integers(1, 9), min_size=2, max_size=4).map(tuple)


@given(sizes=sizes, sets=st.integers(1, 4), batch=st.integers(1, 5))
@settings(max_examples=40)
def test_many_at_once_agree_with_the_plain_module(
    sizes: tuple[int, ...], sets: int, batch: int
) -> None:
    spec = MLP(sizes)
    rows = [torch.randn(sets, layer.units, layer.fan_in + 1) for layer in spec.layers]
    x = torch.randn(batch, sizes[0])
    logits = spec.forward_many(rows, x)
    assert logits.shape == (sets, batch, sizes[-1])
    for e in range(sets):
        module = spec.module()
        module.load_state_dict(classifiers.state_dict(rows, e, spec))
        torch.testing.assert_close(logits[e], module(x), rtol=1e-4, atol=1e-4)


@given(sizes=sizes, sets=st.integers(1, 4))
@settings(max_examples=40)
def test_flatten_and_back(sizes: tuple[int, ...], sets: int) -> None:
    spec = MLP(sizes)
    flat = torch.randn(sets, spec.parameters)
    assert torch.equal(classifiers.flatten(classifiers.unflatten(flat, spec)), flat)


def test_keys_of_the_served_weights() -> None:
    spec = MLP((64, 16, 10))
    state = classifiers.state_dict(spec.initial(0), 0, spec)
    assert {key: list(value.shape) for key, value in state.items()} == spec.shapes()
    assert list(state) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert sum(value.numel() for value in state.values()) == spec.parameters == 1210


def test_description_round_trip() -> None:
    spec = MLP((784, 10, 10))
    assert classifiers.from_description(spec.describe()) == spec
    with pytest.raises(ValueError, match="unknown classifier kind"):
        classifiers.from_description({"kind": "transformer"})


def test_parse() -> None:
    assert classifiers.parse("mlp:32-16", (2, 4), 5) == MLP((8, 32, 16, 5))
    small = classifiers.parse("cnn:small", (1, 28, 28), 10)
    assert isinstance(small, CNN)
    assert classifiers.parse("cnn:small", (28, 28), 10) == small


def test_a_cnn_needs_images() -> None:
    with pytest.raises(ValueError, match="needs images"):
        classifiers.parse("cnn:small", (784,), 10)


@pytest.mark.parametrize("text", ["mlp", "mlp:", "mlp:0", "mlp:-3", "mlp:a", "mlp:4-", ""])
def test_parse_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="mlp:HIDDEN"):
        classifiers.parse(text, (8,), 5)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    spec = MLP((5, 3, 2))
    assert torch.equal(spec.initial(1)[0], spec.initial(1)[0])
    assert not torch.equal(spec.initial(1)[0], spec.initial(2)[0])
