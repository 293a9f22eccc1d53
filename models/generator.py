"""A generator: a trained DiHyFo with all that is needed to answer with it, in one folder."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models import datasets
from models.classifiers import Classifier, from_description
from models.datasets import Dataset, Split
from models.dihyfo import Architecture, DiHyFo
from models.guidance import Guidance, Guiding
from models.reference import Reference, load_reference
from models.refinement import Refinement
from models.regression import Regression

CONFIG, WEIGHTS, REFERENCE = "generator.json", "weights.safetensors", "reference.npz"
GUIDANCE = "guidance.safetensors"
OWN_DATA = "data.npz"  # an own data set travels with its generator


@dataclass(frozen=True)
class Generator:
    """A DiHyFo in memory, ready to sample.

    Attributes:
        config: ``generator.json``.
        steps: network evaluations of one sample.
        dataset: whose validation split candidates are chosen on.
    """

    id: str
    config: dict[str, Any]
    model: DiHyFo
    guidance: Guidance | None
    dataset: Dataset
    reference: Reference

    @property
    def classifier(self) -> Classifier:
        return self.model.classifier

    @property
    def steps(self) -> int:
        return int(self.config["sampler"]["steps"])

    @property
    def refinement(self) -> Refinement:
        """How samples are refined unless a request says otherwise."""
        return Refinement(**self.config["refinement"])


def save_model(folder: Path, model: DiHyFo) -> DiHyFo:
    """Write the weights in half precision and return the model as it will be loaded.

    Everything that is measured afterwards is measured on what is shipped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    halved = {"regression.basis", *dict(model.named_parameters())}
    state = {
        key: value.half() if key in halved else value for key, value in model.state_dict().items()
    }
    save_file(state, folder / WEIGHTS)
    return load_model(folder, model.classifier, model.architecture)


def write_config(
    folder: Path,
    dataset: Dataset,
    model: DiHyFo,
    *,
    steps: int,
    guiding: Guiding | None,
    refinement: Refinement,
    prompts: dict[str, Any] | None,
    held_out: np.ndarray,
    training: dict[str, Any],
) -> dict[str, Any]:
    """Write and return ``generator.json``.

    Args:
        prompts: the losses that can be asked for, see `models.prompts.support`; None = none can.
    """
    config = {
        "classes": list(dataset.class_names),
        "classifier": model.classifier.describe(),
        "normalize": {"mean": dataset.mean, "std": dataset.std},
        "dataset": dataset.describe(),
        "dihyfo": {
            **asdict(model.architecture),
            "regression_rank": len(model.regression.get_buffer("basis")),
            "parameters": sum(p.numel() for p in model.parameters()),
        },
        "sampler": {
            "method": "ddim",
            "steps": steps,
            "guidance": asdict(guiding) if guiding else None,
        },
        "refinement": asdict(refinement),
        "prompts": prompts,
        "training": training,
        "held_out": [int(code) for code in held_out],
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    return config


def load(folder: Path, data: Path | None) -> Generator:
    """Load a generator and its data set into memory.

    Args:
        folder: the generator's folder.
        data: the folder that holds data sets (``mnist/`` and so on), or None.

    Raises:
        DataError: its data set is absent or is not the one it was trained on.
    """
    config = json.loads((folder / CONFIG).read_bytes())
    classifier = from_description(config["classifier"])
    sizes = {field.name: config["dihyfo"][field.name] for field in fields(Architecture)}
    dataset = _load_data(folder, config["dataset"], data)
    return Generator(
        folder.name,
        config,
        load_model(folder, classifier, Architecture(**sizes)),
        load_guidance(folder, dataset.train, config["sampler"]["guidance"]),
        dataset,
        load_reference(folder / REFERENCE),
    )


def _load_data(folder: Path, described: dict[str, Any], data: Path | None) -> Dataset:
    source = described["source"]
    if source == "npz":
        path: Path | None = folder / OWN_DATA
    else:
        path = data / source if data else None
    try:
        dataset = datasets.load(source, path, described["digest"])
    except datasets.DataError as error:
        raise datasets.DataError(
            f"{error}. {folder.name} was trained on {described['splits']}"
        ) from None
    if dataset.digest != described["digest"]:
        raise datasets.DataError(
            f"the {source} data at hand are not those {folder.name} was trained on "
            f"(digest {dataset.digest[:12]}, expected {described['digest'][:12]}): it needs "
            f"{described['splits']}. `hyperforget train {folder.name}` trains one on yours"
        )
    return dataset


def load_model(folder: Path, classifier: Classifier, architecture: Architecture) -> DiHyFo:
    """Load the DiHyFo of a folder, in eval mode and single precision."""
    state = load_file(folder / WEIGHTS)
    regression = Regression.from_state(_within(state, "regression."))
    model = DiHyFo(classifier, architecture, regression)
    model.load_state_dict({key: value.to(torch.float32) for key, value in state.items()})
    return model.eval().requires_grad_(False)


def save_guidance(folder: Path, guidance: Guidance | None) -> None:
    """Write what weights are guided by; of its images only their places in the training split."""
    if guidance is None:
        (folder / GUIDANCE).unlink(missing_ok=True)
        return
    answers = {f"answers.{key}": value for key, value in guidance.answers.state_dict().items()}
    own = {"at": guidance.at, "penalty": torch.tensor(guidance.penalty)}
    save_file(answers | own, folder / GUIDANCE)


def load_guidance(folder: Path, train: Split, how: dict[str, Any] | None) -> Guidance | None:
    """Load what `save_guidance` wrote, and the images from the training split."""
    if how is None:
        return None
    state = load_file(folder / GUIDANCE)
    at, answers = state["at"], Regression.from_state(_within(state, "answers."))
    penalty = state["penalty"].item()
    return Guidance(at, train.x[at], train.y[at], answers, penalty, Guiding(**how).iterations)


def _within(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the part of a state whose keys begin with a prefix, without it."""
    return {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
