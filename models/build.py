"""Build a generator from nothing: zoo, reference networks, DiHyFo, audit, card.

Long parts resume: a zoo goes on with the seed it was stopped at, and a finished DiHyFo is
not trained again unless its recipe changed.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

from models import classifiers, generator, training
from models.audit import audit
from models.card import write_report
from models.datasets import Dataset
from models.dihyfo import Architecture, DiHyFo
from models.fitting import Fit
from models.guidance import Guiding, foretell
from models.masks import held_out_codes, reference_codes, training_codes
from models.material import Material
from models.progress import Bar, silent
from models.prompts import support
from models.reference import measure_reference
from models.refinement import Refinement
from models.training import Schedule
from models.zoo import REFERENCE_SEED, Zoo, grow

_OWN_STEPS = 1_500  # optimiser steps of a classifier on an own data set, about


@dataclass(frozen=True)
class Recipe:
    """All choices of a build.

    Attributes:
        classifier: as a command line names it, such as ``mlp:16``.
        fit: how one classifier is trained.
        zoo_seeds, reference_seeds: how many data orders each.
        guiding: how drawn weights are guided; None = they are not.
        masks: how many of the training masks the zoo holds; None = all.
        held_out: how many held-out masks are retrained for reference, and none else; None = all
            masks are retrained.
        twins: how many masks of a zoo of one seed are trained once more, see `models.zoo.grow`.
        prompt_seeds: runs whose checkpoints prompts are learned from; 0 leaves prompts out.
        steps: network evaluations of one sample.
    """

    classifier: str
    fit: Fit
    zoo_seeds: int = 6
    reference_seeds: int = 3
    twins: int = 0
    prompt_seeds: int = 2
    masks: int | None = None
    held_out: int | None = None
    guiding: Guiding | None = None
    refinement: Refinement = field(default_factory=Refinement)
    architecture: Architecture = field(default_factory=Architecture)
    schedule: Schedule = field(default_factory=Schedule)
    steps: int = 1


PRESETS: dict[str, tuple[str, Recipe]] = {
    "digits-mlp": (
        "digits",
        Recipe(
            classifier="mlp:16",
            fit=Fit(epochs=60, batch=64, rate=3e-2, warmup=0.3),
            refinement=Refinement(epsilon=1e-8),
            schedule=Schedule(steps=2_500),
        ),
    ),
    "mnist-mlp": (
        "mnist",
        Recipe(
            classifier="mlp:10",
            fit=Fit(epochs=3, batch=128, rate=1e-2, warmup=0.3),
            zoo_seeds=8,
            reference_seeds=2,
            refinement=Refinement(steps=36),
            architecture=Architecture(blocks=3),
            schedule=Schedule(steps=3_000),
        ),
    ),
    "mnist-cnn": (
        "mnist",
        Recipe(
            classifier="cnn:small",
            fit=Fit(epochs=4, batch=128, rate=5e-2, warmup=0.3),
            zoo_seeds=1,
            reference_seeds=2,
            twins=24,
            prompt_seeds=1,
            masks=320,
            held_out=24,
            refinement=Refinement(batch=128, spread=0.5),
            schedule=Schedule(steps=1_500, batch=48, images=32),
        ),
    ),
    "cifar10-cnn": (
        "cifar10",
        Recipe(
            classifier="cnn:gpt",
            fit=Fit(epochs=3, batch=128, rate=3e-2, warmup=0.3),
            zoo_seeds=1,
            reference_seeds=2,
            twins=48,
            prompt_seeds=1,
            masks=816,
            held_out=30,
            guiding=Guiding(images=2, penalty=2e-5, iterations=5),
            refinement=Refinement(steps=14, batch=128, rate=2e-4, epsilon=1e-8, share=1.0),
            architecture=Architecture(width=48, blocks=2, heads=2),
            schedule=Schedule(steps=2_400, batch=48, images=32, functional=100.0, prompted=0.4),
        ),
    ),
}


def own_recipe(dataset: Dataset, classifier: str) -> Recipe:
    """Return the recipe for an own data set: the embedded default's, with as many steps."""
    base = PRESETS["digits-mlp"][1]
    steps_an_epoch = ceil(len(dataset.train) / base.fit.batch)
    epochs = min(100, max(3, ceil(_OWN_STEPS / steps_an_epoch)))
    return replace(base, classifier=classifier, fit=replace(base.fit, epochs=epochs))


def adjusted(recipe: Recipe, zoo_seeds: int | None, steps: int | None) -> Recipe:
    """Return a recipe with another size of zoo or length of DiHyFo's training, where given."""
    if steps is not None:
        recipe = replace(recipe, schedule=replace(recipe.schedule, steps=steps))
    return recipe if zoo_seeds is None else replace(recipe, zoo_seeds=zoo_seeds)


def build(
    name: str,
    dataset: Dataset,
    recipe: Recipe,
    target: Path,
    work: Path,
    own_data: Path | None = None,
    bar: Bar = silent,
) -> dict[str, Any]:
    """Build a generator folder and return its audit.

    Args:
        target: where the generator goes; written at the end, all at once.
        work: zoo files and the unfinished folder; a second run resumes from them.
        own_data: the .npz to keep with the generator, when the data set is one's own.
    """
    classifier = classifiers.parse(recipe.classifier, dataset.shape, dataset.classes)
    k = dataset.classes
    held_out = held_out_codes(k)[: recipe.held_out]
    folder = work / target.name
    folder.mkdir(parents=True, exist_ok=True)
    codes, seeds = training_codes(k, recipe.masks), range(recipe.zoo_seeds)
    zoo = grow(
        *(work / "zoo", classifier, dataset, codes, seeds, recipe.fit),
        twins=recipe.twins,
        traced=recipe.prompt_seeds,
        bar=bar,
    )
    codes = reference_codes(k, recipe.held_out)
    seeds = range(REFERENCE_SEED, REFERENCE_SEED + recipe.reference_seeds)
    retrained = grow(work / "reference", classifier, dataset, codes, seeds, recipe.fit, bar=bar)
    seconds = {"zoo": zoo.seconds, "reference": retrained.seconds}
    with _added(seconds, "reference"):
        reference = measure_reference(retrained, dataset)
        reference.save(folder / generator.REFERENCE)
    model, seconds["dihyfo"] = _trained(folder, zoo, dataset, recipe, bar)
    guidance = None
    with _added(seconds, "dihyfo"):
        if recipe.guiding:
            guidance = foretell(zoo, model, dataset.train, recipe.guiding)
        generator.save_guidance(folder, guidance)
    with _added(seconds, "audit"):
        material = Material(
            classifier,
            dataset,
            model,
            guidance,
            recipe.steps,
            recipe.refinement,
            held_out,
            recipe.fit,
            zoo=zoo,
            retrained=retrained,
            reference=reference,
            prompts=zoo.trajectories is not None,
        )
        audited = audit(material, bar)
    spent = {part: round(took, 1) for part, took in seconds.items()}
    config = generator.write_config(
        folder,
        dataset,
        model,
        steps=recipe.steps,
        guiding=recipe.guiding,
        refinement=recipe.refinement,
        prompts=support(zoo.trajectories) if zoo.trajectories else None,
        held_out=held_out,
        training={
            "recipe": asdict(recipe),
            "masks": len(zoo.codes),
            "zoo_seeds": len(zoo.seeds),
            "networks": len(zoo.codes) * len(zoo.seeds) + recipe.twins,
            "seconds": spent | {"total": round(sum(spent.values()), 1)},
        },
    )
    write_report(folder, name, config, audited)
    if own_data is not None:
        shutil.copyfile(own_data, folder / generator.OWN_DATA)
    _publish(folder, target)
    return audited


def _trained(
    folder: Path,
    zoo: Zoo,
    dataset: Dataset,
    recipe: Recipe,
    bar: Bar,
) -> tuple[DiHyFo, float]:
    """Return the trained DiHyFo as shipped and the seconds its training took.

    It is taken from the unfinished folder if it is there.
    """
    networks = hashlib.sha256(zoo.weights.numpy().tobytes()).hexdigest()
    # What a DiHyFo is the result of: not how its draws are refined and measured.
    parts = asdict(recipe)
    for key in ("guiding", "refinement", "steps", "reference_seeds", "held_out"):
        del parts[key]
    made_from = json.dumps([dataset.digest, networks, parts], sort_keys=True)
    mark = folder.parent / "dihyfo.json"
    if mark.exists() and (folder / generator.WEIGHTS).exists():
        found = json.loads(mark.read_text())
        if found["made_from"] == made_from:
            model = generator.load_model(folder, zoo.classifier, recipe.architecture)
            return model, found["seconds"]
    mark.unlink(missing_ok=True)  # until the weights beside it are those it speaks of
    seconds: dict[str, float] = {}
    with _added(seconds, "seconds"):
        model = training.train(zoo, dataset.train, recipe.architecture, recipe.schedule, bar)
    shipped = generator.save_model(folder, model)
    mark.write_text(json.dumps({"made_from": made_from, **seconds}))
    return shipped, seconds["seconds"]


@contextmanager
def _added(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Add the time that a part takes to its seconds."""
    began = time.monotonic()
    yield
    seconds[part] = seconds.get(part, 0.0) + time.monotonic() - began


def _publish(folder: Path, target: Path) -> None:
    """Put a finished folder in its place, replacing an older one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Copied beside the target first: the rename must not cross file systems.
    fresh = target.parent / f".{target.name}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(folder, fresh)
    if target.exists():
        shutil.rmtree(target)
    fresh.replace(target)
