"""Draws a certificate's weights again, from its seed, and compares."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from core.catalog import DRAWN_FROM, Entry
from core.dsse import Refused
from core.settings import Settings
from models import generator as generators
from models.classifiers import pick, state_dict
from models.unlearning import draw, from_record

# Another batch's company or another machine changes the last bits of a float.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Comparison:
    """How like two weight sets are: the share of equal floats, the largest difference."""

    equal: float
    largest: float


def regenerate(
    certificate: Mapping[str, Any], content: bytes, entries: Mapping[str, Entry], settings: Settings
) -> Comparison:
    """Draw a job's weights again and compare them with a file's.

    Args:
        certificate: a verified certificate's predicate.
        content: the safetensors file.
        entries: the generators at hand, by id.

    Raises:
        Refused: the generator is absent or another, or it draws other weights.
        DataError: the generator's data set is absent.
    """
    described, request = certificate["generator"], certificate["request"]
    entry = entries.get(described["id"])
    if entry is None:
        have = ", ".join(entries) or "none"
        raise Refused(
            f"generator {described['id']} is not at hand (there are: {have}); put its folder "
            "into HYPERFORGET_GENERATORS"
        )
    other = [n for n in DRAWN_FROM if entry.files.get(n) != described["files"].get(n)]
    if other:
        raise Refused(
            f"the {entry.id} at hand is not the certified one: another {', '.join(other)} "
            f"(digest {entry.digest[:12]}, certified {described['digest'][:12]})"
        )
    generator = generators.load(entry.folder, settings.data)
    forget = [item["label"] for item in request["forget"]]
    rows = draw(generator, [from_record(forget, request)])
    chosen = pick(rows, [certificate["candidates"]["chosen"]])
    try:
        given = load(content)
    except SafetensorError as error:
        raise Refused(f"the weights are no safetensors file: {error}") from None
    return compare(given, state_dict(chosen, 0, generator.classifier))


def compare(given: Mapping[str, Tensor], drawn: Mapping[str, Tensor]) -> Comparison:
    """Compare two state dicts of the same keys.

    Raises:
        Refused: they are not alike within `TOLERANCE`.
    """
    shapes = [{key: (t.shape, t.dtype) for key, t in side.items()} for side in (given, drawn)]
    if shapes[0] != shapes[1]:
        raise Refused("the weights have other tensors than the generator draws")
    ours, theirs = (
        torch.cat([side[key].flatten() for key in drawn]) for side in (drawn, given)
    )  # (P,), (P,)
    largest = (ours - theirs).abs().max().item()
    if not largest <= TOLERANCE:  # a NaN is not either
        raise Refused(f"the generator draws other weights: they differ by up to {largest:.2g}")
    return Comparison((ours == theirs).double().mean().item(), largest)
