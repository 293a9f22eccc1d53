"""What can be unlearned from."""

from typing import Any

from fastapi import APIRouter

from app.access import Known
from app.openapi import said
from app.problems import Problem
from app.recording import availability
from app.schemas import ClassView, GeneratorList, GeneratorSummary, GeneratorView
from app.services import Services, Use
from core.catalog import Entry

router = APIRouter(tags=["generators"])


@router.get("/generators")
def list_generators(use: Use, caller: Known) -> GeneratorList:
    """List the generators."""
    return GeneratorList(
        items=[GeneratorSummary(**_summary(entry, use)) for entry in use.catalog.entries.values()]
    )


@router.get("/generators/{generator_id}", responses={404: said("There is no such generator")})
def get_generator(generator_id: str, use: Use, caller: Known) -> GeneratorView:
    """Describe a generator: classes, classifier, normalisation, data, audit."""
    entry = use.catalog.entries.get(generator_id)
    if entry is None:
        have = ", ".join(use.catalog.entries) or "none"
        raise Problem(404, "no-such-generator", f"there is no such generator; there are: {have}")
    config = entry.config
    return GeneratorView(
        **_summary(entry, use),
        normalize=config["normalize"],
        dataset=config["dataset"],
        sampler=config["sampler"],
        refinement=config["refinement"],
        prompts=config["prompts"],
        dihyfo=config["dihyfo"],
        training=config["training"],
        held_out=config["held_out"],
        reference=entry.audit["reference"],
        audit=entry.audit,
    )


def _summary(entry: Entry, use: Services) -> dict[str, Any]:
    available, reason = availability(entry.id, use.live_workers())
    return {
        "id": entry.id,
        "default": entry.id == use.settings.default_generator,
        "available": available,
        "unavailable_because": reason,
        "classes": [ClassView(label=c, name=name) for c, name in enumerate(entry.class_names)],
        "classifier": entry.config["classifier"],
        "digest": entry.digest,
    }
