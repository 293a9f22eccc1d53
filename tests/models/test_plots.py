import re
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from models.plots import Axis, axis, dots, lines, scatter

FLOATS = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(st.lists(FLOATS, min_size=1, max_size=8), st.booleans())
def test_every_value_lies_on_its_axis(values: list[float], zero: bool) -> None:
    found = axis(values, 0, 100, zero=zero)
    assert all(-1e-6 <= found.at(v) <= 100 + 1e-6 for v in values)
    assert found.ticks()


@given(st.lists(st.none() | st.floats(0, 1), min_size=3, max_size=3))
def test_lines_are_whole_svg(values: list[float | None]) -> None:
    drawn = lines(["0", "<1>", "2"], {"dihyfo": values}, x_title="a & b", about='"')
    if not any(v is not None for v in values):
        assert drawn == ""
        return
    ET.fromstring(drawn)
    assert drawn.count("<circle") == sum(v is not None for v in values)


def test_higher_values_are_drawn_higher() -> None:
    drawn = lines([0, 1], {"dihyfo": [0.0, 1.0]}, x_title="x", about="a")
    low, high = (float(y) for y in re.findall(r'cy="([\d.]+)"', drawn))
    assert high < low
    assert Axis(0, 10, 0, 100).ticks() == [0, 2, 4, 6, 8, 10]


def test_dots_and_scatter_are_whole_svg() -> None:
    rows = {"a & b": {"retrained": 1.0, "dihyfo": 2.0, "x": None}, "c": {"dihyfo": -1.0}}
    drawn = dots(rows, about="dots")
    ET.fromstring(drawn)
    assert drawn.count("<circle") == 3
    assert dots({"a": {"x": None}}, about="nothing") == ""
    ET.fromstring(scatter({"dihyfo": [(0.0, 1.0), (1.0, 0.5)]}, x_title="x", about="a"))
