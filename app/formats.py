"""The forms in which weights are handed out, and which of them a request asks for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.problems import FieldError, Problem


class Format(StrEnum):
    """A form of weights; the value is the file's suffix, too."""

    SAFETENSORS = "safetensors"
    NPZ = "npz"
    ONNX = "onnx"


# The first is what an answer says; a request may ask by any. None is registered with IANA.
MEDIA_TYPES: dict[Format, tuple[str, ...]] = {
    Format.SAFETENSORS: ("application/octet-stream", "application/x-safetensors"),
    Format.NPZ: ("application/x-npz",),
    Format.ONNX: ("application/x-onnx",),
}
_QUALITY = re.compile(r"q=(0(\.\d{0,3})?|1(\.0{0,3})?)", re.IGNORECASE)


@dataclass(frozen=True)
class _Accepted:
    """One media range of an Accept header."""

    type: str
    quality: float

    def matches(self, media_type: str) -> int:
        """Return how closely: 0 not at all, 3 by its name."""
        ranges = ("*/*", f"{media_type.partition('/')[0]}/*", media_type)
        return ranges.index(self.type) + 1 if self.type in ranges else 0


def negotiate(accept: str | None) -> Format:
    """Return the form that an Accept header likes best; safetensors where it likes several.

    Raises:
        Problem: 406, it likes none.
    """
    if not (accept or "").strip():
        return Format.SAFETENSORS
    ranges = [found for part in (accept or "").split(",") if (found := _read(part))]
    best = max(Format, key=lambda form: _quality(form, ranges))  # the first of equals
    if _quality(best, ranges) > 0:
        return best
    listed = ", ".join(f"{types[0]} ({form})" for form, types in MEDIA_TYPES.items())
    what = f"there are {listed}; or ask by ?format="
    raise Problem(406, "not-acceptable", f"Accept: {what}", [FieldError("Accept", what)])


def _read(part: str) -> _Accepted | None:
    """Return one media range; None if it is none, or has parameters that we have not."""
    name, *parameters = (text.strip() for text in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        found = _QUALITY.fullmatch(parameter)
        if found is None:
            return None
        quality = float(found[1])
    return _Accepted(name.lower(), quality)


def _quality(form: Format, ranges: Sequence[_Accepted]) -> float:
    """Return how much a form is liked: what the closest range says."""
    closeness, quality = max(
        (
            (accepted.matches(media_type), accepted.quality)
            for accepted in ranges
            for media_type in MEDIA_TYPES[form]
        ),
        default=(0, 0.0),
    )
    return quality if closeness else 0.0
