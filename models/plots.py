"""Small SVG plots: they scale with the page, take its colours, and need no script.

A series has a name that the style sheet knows (``s-dihyfo``), so dark and light pages draw the
same file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10

import numpy as np

_WIDE, _HIGH = 340.0, 210.0  # of the drawing's own units; a phone shows it about this wide
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 12.0, 10.0, 34.0
_ROW = 30.0  # height of one row of a dot plot
_LABEL = 104.0  # width of its labels

Values = Sequence[float | None]


@dataclass(frozen=True)
class Axis:
    """A linear axis from ``low`` to ``high`` on ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return where a value lies."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return three to six round values inside."""
        step = nice_step((self.high - self.low) / 4)
        first = np.ceil(self.low / step - 1e-9)
        last = np.floor(self.high / step + 1e-9)
        return [float(round(i * step, 10)) + 0.0 for i in np.arange(first, last + 1)]


def nice_step(rough: float) -> float:
    """Return the 1, 2 or 5 times a power of ten next to a positive step."""
    power = 10.0 ** floor(log10(rough))
    return float(min((1, 2, 5, 10), key=lambda digit: abs(digit * power - rough)) * power)


def axis(values: Sequence[float], start: float, end: float, *, zero: bool) -> Axis:
    """Return an axis that holds all values with a little room, and 0 if asked."""
    low, high = min(values), max(values)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    return Axis(low if zero and low == 0 else low - room, high + room, start, end)


def lines(
    x: Sequence[float | str],
    series: Mapping[str, Values],
    *,
    x_title: str,
    about: str,
    zero: bool = True,
) -> str:
    """Draw series over evenly spaced categories; None leaves a gap."""
    numbers = [v for values in series.values() for v in values if v is not None]
    if not numbers:
        return ""
    up = axis(numbers, _HIGH - _BOTTOM, _TOP, zero=zero)
    across = Axis(-0.3, len(x) - 0.7, _LEFT, _WIDE - _RIGHT)
    parts = [_grid(up), _across([(across.at(i), str(v)) for i, v in enumerate(x)], x_title)]
    for name, values in series.items():
        points = [(across.at(i), up.at(v), x[i], v) for i, v in enumerate(values) if v is not None]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py, *_ in points)
        parts.append(f'<polyline class="line s-{name}" points="{path}"/>')
        for px, py, where, v in points:
            hint = f"{name}, {x_title} {where}: {number(v)}"
            parts.append(_dot(px, py, name, hint))
    return _svg(_HIGH, parts, about)


def scatter(
    groups: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_title: str,
    about: str,
) -> str:
    """Draw points and the diagonal they should lie on."""
    numbers = [v for points in groups.values() for point in points for v in point]
    up = axis(numbers, _HIGH - _BOTTOM, _TOP, zero=False)
    across = Axis(up.low, up.high, _LEFT, _WIDE - _RIGHT)
    ticks = [(across.at(t), number(t)) for t in across.ticks()]
    parts = [_grid(up), _across(ticks, x_title)]
    parts.append(
        f'<line class="ideal" x1="{across.start}" y1="{up.start}" x2="{across.end}" y2="{up.end}"/>'
    )
    for name, points in groups.items():
        parts += [
            _dot(across.at(a), up.at(b), name, f"{number(a)} -> {number(b)}", 2.2)
            for a, b in points
        ]
    return _svg(_HIGH, parts, about)


def dots(rows: Mapping[str, Mapping[str, float | None]], *, about: str, zero: bool = False) -> str:
    """Draw one row for each figure, and on it one dot for each series."""
    known = {
        title: {name: v for name, v in values.items() if v is not None}
        for title, values in rows.items()
    }
    numbers = [v for values in known.values() for v in values.values()]
    if not numbers:
        return ""
    across = axis(numbers, _LABEL, _WIDE - _RIGHT, zero=zero)
    high = _TOP + _ROW * len(known) + _BOTTOM - 12
    parts = [
        f'<line class="grid" x1="{across.at(t):.1f}" x2="{across.at(t):.1f}" y1="{_TOP}" '
        f'y2="{high - 22}"/><text class="tick" x="{across.at(t):.1f}" y="{high - 8}" '
        f'text-anchor="middle">{number(t)}</text>'
        for t in across.ticks()
    ]
    for i, (title, values) in enumerate(known.items()):
        y = _TOP + _ROW * (i + 0.5)
        parts.append(
            f'<text class="label" x="{_LABEL - 8}" y="{y + 4:.1f}" text-anchor="end">'
            f"{escape(title)}</text>"
            f'<line class="rule" x1="{_LABEL}" x2="{_WIDE - _RIGHT}" y1="{y}" y2="{y}"/>'
        )
        # Retrained last: its ring lies over what agrees with it.
        for name, v in sorted(values.items(), key=lambda item: item[0] == "retrained"):
            parts.append(_dot(across.at(v), y, name, f"{title}, {name}: {number(v)}", 4.5))
    return _svg(high, parts, about)


def number(value: float) -> str:
    """Write a value in three significant digits."""
    return f"{value:.3g}" if abs(value) < 1_000 else f"{value:,.0f}"


def _grid(up: Axis) -> str:
    return "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{up.at(t):.1f}" '
        f'y2="{up.at(t):.1f}"/><text class="tick" x="{_LEFT - 6}" y="{up.at(t) + 4:.1f}" '
        f'text-anchor="end">{number(t)}</text>'
        for t in up.ticks()
    )


def _across(ticks: Sequence[tuple[float, str]], title: str) -> str:
    marks = "".join(
        f'<text class="tick" x="{x:.1f}" y="{_HIGH - _BOTTOM + 14}" text-anchor="middle">'
        f"{escape(text)}</text>"
        for x, text in ticks
    )
    middle = (_LEFT + _WIDE - _RIGHT) / 2
    return (
        f'{marks}<text class="tick" x="{middle}" y="{_HIGH - 4}" text-anchor="middle">'
        f"{escape(title)}</text>"
    )


def _dot(x: float, y: float, name: str, hint: str, radius: float = 3.0) -> str:
    return (
        f'<circle class="dot s-{name}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
        f"<title>{escape(hint)}</title></circle>"
    )


def _svg(high: float, parts: Sequence[str], about: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDE:g} {high:g}" role="img" aria-label="{escape(about)}">'
        f"{''.join(parts)}</svg>"
    )
