"""The ONNX models against torch, in two runtimes."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from app import graphs
from core.settings import SHIPPED_GENERATORS
from models import classifiers, generator
from models.classifiers import CNN, MLP
from models.mlp import MLP as _MLP
from models.unlearning import ForgetRequest, unlearn
from tests.models.test_cnn import cnns

NORMALIZE = {"mean": 0.3, "std": 0.4}
mlps = st.lists(st.integers(1, 9), min_size=2, max_size=4).map(lambda sizes: _MLP(tuple(sizes)))


def build(spec: MLP | CNN, state: dict[str, torch.Tensor], normalize: Any = NORMALIZE) -> bytes:
    weights = {name: values.numpy() for name, values in state.items()}
    return graphs.model(spec.describe(), normalize, weights, {"job": "j"})


def run_both(model: bytes, pixels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return logits and probabilities of onnxruntime and of the reference evaluator."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    reference = ReferenceEvaluator(onnx.load_from_string(model))
    names = [graphs.LOGITS, graphs.PROBABILITIES]
    return [runtime.run(names, {graphs.INPUT: pixels}) for runtime in (session, reference)]


@given(spec=mlps | cnns(), seed=st.integers(0, 99), batch=st.integers(1, 4))
@settings(max_examples=40)
def test_any_network_agrees_with_torch(spec: MLP | CNN, seed: int, batch: int) -> None:
    torch.manual_seed(seed)
    module = spec.module()
    model = build(spec, module.state_dict())
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    shape = graphs.input_shape(spec.describe())
    pixels = torch.rand(batch, *shape)
    logits = module(((pixels - NORMALIZE["mean"]) / NORMALIZE["std"]).flatten(1)).detach()
    for got, probabilities in run_both(model, pixels.numpy()):
        np.testing.assert_allclose(got, logits, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(probabilities, logits.softmax(1), atol=1e-5)


def test_drawn_digits_networks_agree_with_torch() -> None:
    digits = generator.load(SHIPPED_GENERATORS / "digits-mlp", None)
    requests = [ForgetRequest((c,), candidates=2, seed=c) for c in (0, 7)]
    test, normalize = digits.dataset.test, digits.config["normalize"]
    pixels = test.x * normalize["std"] + normalize["mean"]
    assert 0 <= pixels.min() + 1e-6 < pixels.max() <= 1 + 1e-6
    for answer in unlearn(digits, requests):
        module = digits.classifier.module()
        module.load_state_dict(answer.weights)
        model = build(digits.classifier, answer.weights, normalize)
        expected = module(test.x).detach()
        for logits, probabilities in run_both(model, pixels.numpy()):
            np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-5)
            np.testing.assert_allclose(probabilities, expected.softmax(1), atol=1e-5)
        assert (probabilities.argmax(1) == test.y.numpy()).mean() > 0.8


@pytest.mark.parametrize("text", ["8k5s2-16k3s2/flat-32", "16k3s2-32k3/pool"])
def test_a_cnn_of_images(text: str) -> None:
    spec = classifiers.parse(f"cnn:{text}", (28, 28), 10)
    state = classifiers.state_dict(spec.initial(3), 0, spec)
    module = spec.module()
    module.load_state_dict(state)
    pixels = torch.rand(3, 1, 28, 28)
    expected = module((pixels - NORMALIZE["mean"]) / NORMALIZE["std"]).detach()
    for logits, _ in run_both(build(spec, state), pixels.numpy()):
        np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=1e-5)


def test_the_same_network_is_the_same_file() -> None:
    spec = _MLP((3, 4, 2))
    state = spec.module().state_dict()
    assert build(spec, state) == build(spec, state)
    model = onnx.load_from_string(build(spec, state))
    assert {p.key: p.value for p in model.metadata_props} == {"job": "j"}
    assert model.ir_version == graphs.IR_VERSION
    assert [opset.version for opset in model.opset_import] == [graphs.OPSET]
