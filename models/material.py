"""What an audit looks at, how to find it again, and how much of it each figure takes."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from models.classifiers import CNN, Classifier, Rows, pick
from models.datasets import Dataset
from models.dihyfo import DiHyFo, Prompt
from models.fitting import Fit
from models.generator import Generator
from models.guidance import Guidance
from models.masks import reference_codes, training_codes
from models.progress import Bar, silent
from models.reference import Reference
from models.refinement import Refinement, refine
from models.sampler import sample
from models.zoo import REFERENCE_SEED, Zoo, grow

_SMALL = 5_000  # training images; below, an audit is to take seconds


@dataclass(frozen=True)
class Effort:
    """How many networks each figure is taken of; the report says so beside each.

    Attributes:
        attacked: held-out masks of the relearning curve, loss-AUC and the baselines.
        probed: held-out masks of the slower attacks: the three MIA conventions, linear probe.
        relearn_seeds: batch orders that a relearning curve is the mean of.
        ensembles: masks with an ensemble each.
        ensemble: networks of an ensemble.
        prompted: held-out masks that prompts are tried on.
        prompted_classes: classes of each mask that get prompts of their own.
        images: test images of the relearning curve and of prompted networks.
        batch: masks sampled together, for the time per sample.
    """

    attacked: int = 1 << 10
    probed: int = 40
    relearn_seeds: int = 3
    ensembles: int = 4
    ensemble: int = 32
    prompted: int = 8
    prompted_classes: int = 1 << 10
    images: int = 2_000
    batch: int = 200


def effort_for(classifier: Classifier, dataset: Dataset) -> Effort:
    """Return an effort that ends within minutes on two cores, a minute for small data."""
    if not isinstance(classifier, CNN):
        return Effort() if len(dataset.train) > _SMALL else Effort(probed=20, ensemble=16)
    return Effort(probed=10, ensembles=2, ensemble=8, prompted_classes=3, images=1_000)


@dataclass(frozen=True)
class Source:
    """What draws come from, and how a network is retrained beside them.

    Attributes:
        steps: network evaluations of one sample.
        refinement: how the service refines samples.
        held_out: the codes DiHyFo never saw.
    """

    classifier: Classifier
    dataset: Dataset
    model: DiHyFo
    guidance: Guidance | None
    steps: int
    refinement: Refinement
    held_out: np.ndarray
    how: Fit

    @property
    def hows(self) -> dict[str, Refinement]:
        """How the contenders are refined: as the service does, and not at all."""
        return {"dihyfo": self.refinement, "dihyfo_unrefined": replace(self.refinement, steps=0)}


@dataclass(frozen=True)
class Material(Source):
    """What an audit looks at.

    Attributes:
        zoo: the networks DiHyFo learned from; None = not at hand, what needs them is left out.
        retrained: networks of other seeds, for every held-out code and the original's.
        prompts: whether it was trained to answer loss prompts.
    """

    zoo: Zoo | None
    retrained: Zoo
    reference: Reference
    prompts: bool


def source(generator: Generator) -> Source:
    """Return what a generator's draws come from; no network is read or trained."""
    return Source(
        generator.classifier,
        generator.dataset,
        generator.model,
        generator.guidance,
        generator.steps,
        generator.refinement,
        np.array(generator.config["held_out"]),
        Fit(**generator.config["training"]["recipe"]["fit"]),
    )


def load_material(generator: Generator, work: Path, bar: Bar = silent) -> Material:
    """Read the networks that a generator was built from and measured against.

    Args:
        work: its build folder. Networks that it lacks are trained, but for a zoo of which there
            is nothing: a generator that was built elsewhere is audited without.
    """
    zoo_folder = work / "zoo"
    recipe = generator.config["training"]["recipe"]
    drawn = source(generator)
    k = drawn.classifier.classes
    zoo = None
    if zoo_folder.exists():
        zoo = grow(
            *(zoo_folder, drawn.classifier, drawn.dataset, training_codes(k, recipe["masks"])),
            *(range(recipe["zoo_seeds"]), drawn.how),
            twins=recipe["twins"],
            traced=recipe["prompt_seeds"],
            bar=bar,
        )
    codes = reference_codes(k, recipe["held_out"])
    seeds = range(REFERENCE_SEED, REFERENCE_SEED + recipe["reference_seeds"])
    retrained = grow(
        *(work / "reference", drawn.classifier, drawn.dataset, codes, seeds, drawn.how), bar=bar
    )
    return Material(
        **vars(drawn),
        zoo=zoo,
        retrained=retrained,
        reference=generator.reference,
        prompts=generator.config["prompts"] is not None,
    )


def load_with_zoo(generator: Generator, work: Path, bar: Bar = silent) -> tuple[Material, Zoo]:
    """Read as `load_material` does, for what cannot do without the zoo.

    Raises:
        FileNotFoundError: there is no zoo in ``work``; nothing is trained.
    """
    if not (work / "zoo").exists():
        raise FileNotFoundError(str(work / "zoo"))
    m = load_material(generator, work, bar)
    assert m.zoo is not None
    return m, m.zoo


def draw(
    m: Source, masks: Tensor, noise: Tensor, how: Refinement, prompt: Prompt | None = None
) -> Rows:
    """Draw as the service does; everything that is audited comes from here.

    Args:
        masks: (E, K) bool, true = retained.
        noise: standard normal, (E, P).
        how: the refinement; with 0 steps there is none.
    """
    drawn = sample(m.model, masks, noise, m.steps, prompt, m.guidance)
    return refine(m.model, drawn, noise, masks, m.dataset.train, how)


def head(rows: Rows, count: int) -> Rows:
    """Return the first weight sets."""
    return pick(rows, slice(count))
