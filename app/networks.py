"""Weights in other forms, and at work: imported by the first request that needs numpy and onnx."""

import io
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import load

from app import graphs
from app.formats import Format
from app.problems import Problem
from core.catalog import Entry
from core.ledger import Job


def convert(form: Format, weights: bytes, job: Job, entry: Entry | None) -> bytes:
    """Return weights in another form; the same bytes each time.

    Args:
        form: npz or ONNX.
        weights: a safetensors file.
        entry: the job's generator, if it is served.

    Raises:
        Problem: 409, see `model`.
    """
    if form is Format.ONNX:
        return model(weights, job, entry)
    held = io.BytesIO()
    # Sorted, since safetensors has them in any order; zipped as of 1980, whatever the time.
    np.savez(held, allow_pickle=False, **dict(sorted(load(weights).items())))
    return held.getvalue()


def model(weights: bytes, job: Job, entry: Entry | None) -> bytes:
    """Return weights as an ONNX model.

    Raises:
        Problem: 409, the generator that says how the layers are joined is gone or another one.
    """
    arrays = load(weights)
    shapes = {name: list(values.shape) for name, values in arrays.items()}
    if entry is None or entry.config["classifier"]["keys"] != shapes:
        raise Problem(
            409,
            "generator-gone",
            f"generator {job.generator} is not served here any more, or with other layers; the "
            "weights as safetensors and npz are still there",
        )
    about = {
        "generator": entry.id,
        "job": job.id,
        "forget": ",".join(map(str, job.forget)),
        "classes": "\n".join(entry.class_names),
    }
    return graphs.model(entry.config["classifier"], entry.config["normalize"], arrays, about)


def run(model: bytes, pixels: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return each input's probabilities by label, from an ONNX model of ours.

    Args:
        pixels: inputs, flat.
    """
    loaded = onnx.load_from_string(model)
    _, *shape = (size.dim_value for size in loaded.graph.input[0].type.tensor_type.shape.dim)
    batch = np.array(pixels, np.float32).reshape(-1, *shape)  # (N, *shape)
    outputs = ReferenceEvaluator(loaded).run([graphs.PROBABILITIES], {graphs.INPUT: batch})
    probabilities: list[list[float]] = cast(Any, outputs)[0].tolist()  # (N, K)
    return probabilities
