"""Weights in other forms, and at work: imported by the first request that needs numpy."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load

from app import forward
from app.problems import Problem
from core.catalog import Entry
from core.ledger import Job


@dataclass(frozen=True)
class Network:
    """A job's weights with the generator that says how the layers are joined."""

    job: Job
    entry: Entry
    weights: Mapping[str, forward.Array]

    def onnx(self) -> bytes:
        """Return it as an ONNX model; the same bytes each time."""
        from app import graphs  # onnx is loaded once somebody needs it

        about = {
            "generator": self.entry.id,
            "job": self.job.id,
            "forget": ",".join(map(str, self.job.forget)),
            "classes": "\n".join(self.entry.class_names),
        }
        config = self.entry.config
        return graphs.model(config["classifier"], config["normalize"], self.weights, about)

    def probabilities(self, pixels: Sequence[Sequence[float]]) -> list[list[float]]:
        """Return each input's probabilities, by label.

        Args:
            pixels: inputs, flat.
        """
        config, batch = self.entry.config, np.array(pixels, np.float32)
        found: list[list[float]] = forward.probabilities(
            config["classifier"], config["normalize"], self.weights, batch
        ).tolist()
        return found


def network(content: bytes, job: Job, entry: Entry | None) -> Network:
    """Return the network that a safetensors file holds the weights of.

    Args:
        entry: the job's generator, if it is served.

    Raises:
        Problem: 409, the generator is gone or another one.
    """
    weights = load(content)
    shapes = {name: list(values.shape) for name, values in weights.items()}
    if entry is None or entry.config["classifier"]["keys"] != shapes:
        raise Problem(
            409,
            "generator-gone",
            f"generator {job.generator} is not served here any more, or with other layers; the "
            "weights as safetensors and npz are still there",
        )
    return Network(job, entry, weights)


def npz(content: bytes) -> bytes:
    """Return a safetensors file as npz; the same bytes each time."""
    held = io.BytesIO()
    # Sorted, since safetensors has them in any order; zipped as of 1980, whatever the time.
    np.savez(held, allow_pickle=False, **dict(sorted(load(content).items())))
    return held.getvalue()
