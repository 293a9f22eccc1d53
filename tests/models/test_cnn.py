import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import classifiers
from models.classifiers import CNN
from models.cnn import Conv, parse
from models.datasets import Split
from models.fitting import Fit, fit
from models.masks import retain_masks
from models.measure import per_class


@st.composite
def cnns(draw: st.DrawFn) -> CNN:
    """CNNs of one or two convolutions; images of 7 pixels are large enough for any of them."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(7, 9)), draw(st.integers(7, 9)))
    convs = []
    for kernel in draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)):
        padding = draw(st.none() | st.integers(0, kernel - 1))
        convs.append(Conv(draw(st.integers(1, 4)), kernel, draw(st.integers(1, 2)), padding))
    hidden = tuple(draw(st.lists(st.integers(1, 5), max_size=2)))
    return CNN(shape, tuple(convs), hidden, draw(st.integers(2, 4)), draw(st.booleans()))


@given(spec=cnns(), sets=st.integers(1, 3), batch=st.integers(1, 4))
@settings(max_examples=40)
def test_many_at_once_agree_with_the_plain_module(spec: CNN, sets: int, batch: int) -> None:
    rows = [torch.randn(sets, n.units, n.fan_in + 1, requires_grad=True) for n in spec.layers]
    x = torch.randn(batch, *spec.shape).flatten(1)
    logits = spec.forward_many(rows, x)
    assert logits.shape == (sets, batch, spec.classes)
    logits.square().sum().backward()
    gradients = [layer.grad for layer in rows]
    for e in range(sets):
        module = spec.module()
        module.load_state_dict(classifiers.state_dict(rows, e, spec))
        one = module(x)
        torch.testing.assert_close(logits[e], one, rtol=1e-3, atol=1e-3)
        one.square().sum().backward()
        theirs = {key: value.grad for key, value in module.named_parameters()}
        ours = classifiers.state_dict(gradients, e, spec)
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-2, atol=1e-2)


@given(spec=cnns())
@settings(max_examples=40)
def test_description_weights_and_shapes_agree(spec: CNN) -> None:
    assert classifiers.from_description(spec.describe()) == spec
    flat = torch.randn(2, spec.parameters)
    assert torch.equal(classifiers.flatten(classifiers.unflatten(flat, spec)), flat)
    state = spec.module().state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == spec.shapes()


def test_many_images_are_run_in_parts() -> None:
    spec = parse("2k3s2/pool", (1, 6, 6), 3)
    rows, x = spec.initial(0), torch.randn(150, 36)  # more than two parts
    module = spec.module()
    module.load_state_dict(classifiers.state_dict(rows, 0, spec))
    torch.testing.assert_close(spec.forward_many(rows, x)[0], module(x), rtol=1e-4, atol=1e-5)


@given(spec=cnns(), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_inputs_that_are_not_shown_change_nothing(spec: CNN, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    seen = torch.rand(3, 5, generator=rng) < 0.5
    seen[0] = False  # a network may be shown nothing at all
    x = torch.randn(5, *spec.shape, generator=rng).flatten(1)
    found = []
    for shown in (None, seen):
        rows = [
            torch.randn(3, n.units, n.fan_in + 1, generator=torch.Generator().manual_seed(seed))
            for n in spec.layers
        ]
        rows = [layer.requires_grad_() for layer in rows]
        logits = spec.forward_many(rows, x, shown)
        logits[seen].square().sum().backward()
        found.append([logits[seen], *(layer.grad for layer in rows)])
    for every, some in zip(*found, strict=True):
        torch.testing.assert_close(some, every, rtol=1e-3, atol=1e-3)


def test_convolutions_skip_what_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, run = parse("2k3/pool", (1, 4, 4), 3), []
    real = CNN._convolve

    def counted(self: CNN, images: torch.Tensor, weights: tuple) -> torch.Tensor:
        run.append(len(images))
        return real(self, images, weights)

    monkeypatch.setattr(CNN, "_convolve", counted)
    rows = [torch.randn(2, n.units, n.fan_in + 1) for n in spec.layers]
    y = torch.tensor([0, 1, 2, 2])
    split = Split(torch.randn(4, 16), y)
    fit(spec, split, retain_masks([1, 6], 3), rows, Fit(epochs=1, batch=4, rate=0.1), 0)
    assert run == [3, 1]


def test_features_feed_the_output_layer() -> None:
    spec = parse("2k3/flat-5", (1, 4, 4), 3)
    rows, x = [torch.randn(2, n.units, n.fan_in + 1) for n in spec.layers], torch.randn(6, 16)
    features = spec.features_many(rows, x)
    assert features.shape == (2, 6, 5)
    logits = features @ rows[-1][:, :, :-1].transpose(1, 2) + rows[-1][:, None, :, -1]
    torch.testing.assert_close(spec.forward_many(rows, x), logits)


def test_the_network_of_gpt() -> None:
    spec = parse("gpt", (3, 32, 32), 10)
    assert spec.parameters == 5_370 + 16 + 32  # G.pt's own convolutions have no biases
    assert spec.shapes() == {
        "conv1.weight": [16, 3, 3, 3],
        "conv1.bias": [16],
        "conv2.weight": [32, 16, 3, 3],
        "conv2.bias": [32],
        "fc.weight": [10, 32],
        "fc.bias": [10],
    }
    assert [(conv.stride, conv.padding) for conv in spec.convs] == [(2, 1), (1, 1)]


def test_the_small_network() -> None:
    spec = parse("small", (1, 28, 28), 10)
    assert spec.parameters == 26_826  # 208 + 1,168 + 25,120 + 330
    assert list(spec.shapes())[4:] == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]


def test_parse_reads_every_part() -> None:
    spec = parse("8k5s2p0-16k2/pool-32-7", (3, 20, 18), 4)
    assert spec == CNN((3, 20, 18), (Conv(8, 5, 2, 0), Conv(16, 2, 1, 1)), (32, 7), 4, pool=True)
    assert spec.maps == [(8, 8, 7), (16, 9, 8)]


@pytest.mark.parametrize(
    "text",
    [
        *("", "tiny", "8k3", "8k3/", "8k3/avg", "8/flat", "k3/flat", "8k3/flat-", "8k3/flat-x"),
        *("-8k3/flat", "8k3s2s2/flat", "8k3/flat/32", "8k3/flat--3", "\u0668k3/flat"),
        "99999k3/flat",
    ],
)
def test_parse_explains_what_it_does_not_know(text: str) -> None:
    with pytest.raises(ValueError, match="cnn:CONVS"):
        parse(text, (1, 28, 28), 10)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0k3/flat", "a CNN needs"),
        ("8k0/flat", "a CNN needs"),
        ("8k3s0/flat", "a CNN needs"),
        ("8k3/flat-0", "a CNN needs"),
        ("8k3p3/flat", "paddings"),
        ("8k7p0-8k7p0/flat", "too small"),
    ],
)
def test_parse_refuses_what_makes_no_network(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(text, (1, 8, 8), 3)


def test_cnns_learn_side_by_side_and_forget_what_they_never_saw() -> None:
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(240) % 3
    bars = torch.eye(3).repeat_interleave(2, 0)[:, :, None].repeat(1, 1, 2).flatten(1)  # (6, 6)
    shown = bars.view(6, 3, 2)[:, y, 0].T[:, None, :, None].expand(-1, 1, -1, 6)  # (N, 1, 6, 6)
    split = Split((shown + torch.randn(240, 1, 6, 6, generator=rng) / 4).flatten(1), y)
    spec = parse("4k3s2/flat", (1, 6, 6), 3)
    masks = retain_masks([0, 2], 3)
    start = classifiers.repeat(spec.initial(0), 2)
    trained = fit(spec, split, masks, start, Fit(epochs=15, batch=32, rate=2e-2), seed=0)
    accuracy = per_class(spec, trained, split).accuracy
    assert accuracy[masks].min() > 0.9
    assert accuracy[~masks].max() == 0


def test_the_first_convolution_begins_with_waves_and_their_negatives() -> None:
    spec = parse("9k3-4k3/pool", (3, 8, 8), 5)
    first = spec.initial(0)[0][0]  # (9, 28)
    waves, negatives = first[:4], first[4:8]
    assert torch.equal(waves, -negatives)
    apart = waves @ waves.T
    torch.testing.assert_close(apart, apart.diag().diag(), atol=1e-5, rtol=0)
    assert waves[0, :-1].unique().numel() == 1  # the mean of all pixels and colours
    assert not torch.equal(first[8], spec.initial(1)[0][0, 8])  # what is left is drawn
    # One pixel of one colour has no wave but its own value.
    tiny = parse("6k1-2k3/pool", (1, 4, 4), 3).initial(0)[0][0]
    assert tiny[:2, 0].tolist() == [0.5, -0.5]
    assert len(tiny[2:, 0].unique()) == 4
