"""Classifiers as ONNX models, made from a generator's description and weights; no torch."""

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from app.forward import layer_names

OPSET = 17
IR_VERSION = 8  # what goes with it; newer ones shut older runtimes out
INPUT, LOGITS, PROBABILITIES = "pixels", "logits", "probabilities"


def model(
    classifier: Mapping[str, Any],
    normalize: Mapping[str, float],
    weights: Mapping[str, NDArray[np.float32]],
    about: Mapping[str, str],
) -> bytes:
    """Return an ONNX model: pixels scaled to 0..1 in, logits and probabilities out.

    The normalisation is part of the graph. The same arguments give the same bytes.

    Args:
        classifier: as `GET /generators/{id}` describes it.
        normalize: mean and standard deviation of the pixels.
        weights: the ``state_dict``, with the description's keys.
        about: written into the model's metadata.
    """
    constants = {name: np.asarray(normalize[name], np.float32) for name in ("mean", "std")}
    initializers = {**constants, **{key: weights[key] for key in classifier["keys"]}}
    nodes = [
        helper.make_node("Sub", [INPUT, "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["normalized"]),
        *_layers(classifier, "normalized"),
        helper.make_node("Softmax", [LOGITS], [PROBABILITIES], axis=1),
    ]
    sizes = {INPUT: input_shape(classifier)}
    sizes |= dict.fromkeys((LOGITS, PROBABILITIES), classifier["layers"][-1:])
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])
        for name, shape in sizes.items()
    }
    made = helper.make_model(
        helper.make_graph(
            nodes,
            "classifier",
            [values.pop(INPUT)],
            list(values.values()),
            [numpy_helper.from_array(array, name) for name, array in initializers.items()],
        ),
        producer_name="hyperforget",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    helper.set_model_props(made, dict(about))
    serialized: bytes = made.SerializeToString(deterministic=True)
    return serialized


def input_shape(classifier: Mapping[str, Any]) -> list[int]:
    """Return the shape of one input: (pixels,) of an MLP, (channels, height, width) of a CNN."""
    shape: list[int] = classifier.get("input_shape") or classifier["layers"][:1]
    return shape


def _layers(classifier: Mapping[str, Any], start: str) -> Iterator[NodeProto]:
    """Yield the nodes of all layers, from the normalised input to the logits."""
    convolutions = classifier.get("convolutions", [])
    names = layer_names(classifier)
    at = start
    for name, convolution in zip_longest(names, convolutions):
        if convolution is not None:
            node = _convolution(name, at, convolution)
        else:
            if name == names[len(convolutions)] and convolutions:
                if classifier["then"] == "global average pool":
                    yield helper.make_node("GlobalAveragePool", [at], ["pooled"])
                    at = "pooled"
                yield helper.make_node("Flatten", [at], ["features"])
                at = "features"
            out = LOGITS if name == names[-1] else f"{name}.sum"
            node = helper.make_node("Gemm", [at, f"{name}.weight", f"{name}.bias"], [out], transB=1)
        yield node
        if name != names[-1]:
            at = f"{name}.relu"
            yield helper.make_node("Relu", [node.output[0]], [at])


def _convolution(name: str, at: str, convolution: Mapping[str, int]) -> NodeProto:
    return helper.make_node(
        "Conv",
        [at, f"{name}.weight", f"{name}.bias"],
        [f"{name}.sum"],
        kernel_shape=[convolution["kernel"]] * 2,
        strides=[convolution["stride"]] * 2,
        pads=[convolution["padding"]] * 4,
    )
