"""What the unlearned classifier of a finished job says about a few inputs."""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field, WithJsonSchema

from app.access import Downloader
from app.jobs import NO_JOB, owned
from app.openapi import said
from app.problems import FieldError, invalid
from app.schemas import Strict
from app.services import Use
from app.stored import artifact, reading

router = APIRouter(tags=["jobs"])

MAX_INPUTS = 64
_LARGEST = 10**6  # so that no network's logits overflow

Input = Annotated[
    Any,
    WithJsonSchema({"type": "array", "items": {"anyOf": [{"type": "number"}, {"type": "array"}]}}),
]


class PredictRequest(Strict):
    """The body of `POST /jobs/{id}/predict`."""

    inputs: list[Input] = Field(
        min_length=1,
        max_length=MAX_INPUTS,
        description="pixels divided by the data set's `scale`: each input a flat list, or nested "
        "as its `input_shape`",
        examples=[[[0.0, 0.25, 1.0]]],
    )


class Prediction(BaseModel):
    """The most probable class of one input, and the probabilities of all, by label."""

    label: int
    name: str
    probabilities: list[float]


class Predictions(BaseModel):
    """Predictions in the order of the inputs."""

    predictions: list[Prediction]


@router.post(
    "/jobs/{job_id}/predict",
    responses={
        404: NO_JOB,
        409: said("The job has no weights"),
        410: said("They are no longer stored"),
        503: said("The artifact store is down", "Retry-After"),
    },
)
def predict(job_id: str, body: PredictRequest, use: Use, caller: Downloader) -> Predictions:
    """Run the weights of a succeeded job on a few inputs; the ONNX model gives the same."""
    job = owned(job_id, use, caller)
    stored = artifact(job, "weights")
    with reading(job, "weights"):
        content = use.store.read(stored)
    from app.networks import network  # numpy is loaded once somebody needs it

    found = network(content, job, use.catalog.entries.get(job.generator))
    names = found.entry.class_names
    rows = found.probabilities(_pixels(body.inputs, found.entry.config["dataset"]))
    labels = [row.index(max(row)) for row in rows]
    return Predictions(
        predictions=[
            Prediction(label=label, name=names[label], probabilities=row)
            for label, row in zip(labels, rows, strict=True)
        ]
    )


def _pixels(inputs: Sequence[Any], dataset: Mapping[str, Any]) -> list[list[float]]:
    """Return each input as one list.

    Raises:
        Problem: 422, each input that is none.
    """
    shape: list[int] = dataset["input_shape"]
    size = prod(shape)
    # Own data that were no bytes are taken as they are.
    limits = (0, 1) if dataset["scale"] != 1 else (-_LARGEST, _LARGEST)
    told = f"must be {size} numbers from {limits[0]} to {limits[1]}"
    if len(shape) > 1:
        told += f", in one list or nested as {' x '.join(map(str, shape))}"
    rows, errors = [], []
    for i, given in enumerate(inputs):
        nested = isinstance(given, list) and len(given) > 0 and isinstance(given[0], list)
        try:
            rows.append(list(_numbers(given, shape if nested else [size], limits)))
        except ValueError:
            errors.append(FieldError(f"inputs.{i}", told))
    if errors:
        raise invalid(*errors)
    return rows


def _numbers(given: Any, shape: Sequence[int], limits: tuple[int, int]) -> Iterator[float]:
    """Yield the numbers of nested lists.

    Raises:
        ValueError: they are not of the shape, or a number is outside of the limits.
    """
    if shape:
        if not isinstance(given, list) or len(given) != shape[0]:
            raise ValueError
        for part in given:
            yield from _numbers(part, shape[1:], limits)
        return
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ValueError
    if not limits[0] <= given <= limits[1]:  # NaN is not, either
        raise ValueError
    yield float(given)
