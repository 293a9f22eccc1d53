"""What no schema can say, for schemathesis: which classes there are, which keys are used up.

Loaded by schemathesis' own process, see tests/test_schema.py.
"""

import uuid
from typing import Any

import schemathesis

CLASSES, FEATURES = 4, 7  # of the tests' generator


@schemathesis.hook
def before_call(context: Any, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Name classes and generators that exist in requests that are meant to be valid."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if isinstance(case.body, dict):
        for request in case.body.get("requests", [case.body]):
            _mend(request)
        if "inputs" in case.body:  # of any length they fit no classifier
            case.body["inputs"] = [[0.5] * FEATURES for _ in case.body["inputs"]]
    if "idempotency-key" in (case.headers or {}):
        case.headers["idempotency-key"] = uuid.uuid4().hex  # used twice it is refused


def _mend(request: dict[str, Any]) -> None:
    if "forget" in request:
        labels = {len(str(label)) % CLASSES for label in request["forget"]}
        request["forget"] = sorted(labels)[: CLASSES - 1]
    if request.get("generator") is not None:
        request["generator"] = "tiny"
    request.pop("callback_url", None)  # most hosts cannot be looked up
    prompt = request.get("prompt")
    if prompt and prompt.get("class_losses"):  # one kind of loss at a time
        request["prompt"] = {"class_losses": {"1": max(prompt["class_losses"].values())}}
    elif prompt is not None and not any(prompt.values()):
        request["prompt"] = None
