"""Whatever a Range header holds; the usual ones are in test_downloads."""

from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from app.problems import Problem
from app.representations import _asked


def request(asked: bytes) -> Request:
    return Request({"type": "http", "method": "GET", "headers": [(b"range", asked)]})


@given(
    asked=st.lists(
        st.sampled_from([b"bytes", b"=", b"-", b",", b" ", b"0", b"7", b"99"])
        | st.binary(max_size=2),
        max_size=8,
    ).map(b"".join),
    size=st.integers(0, 20),
)
def test_any_range_is_a_part_the_whole_or_refused(asked: bytes, size: int) -> None:
    try:
        span = _asked(request(asked), "tag", size)
    except Problem as refused:
        assert refused.status in (400, 416)
    else:
        assert span is None or 0 <= span[0] < span[1] <= size


@given(size=st.integers(1, 1_000), data=st.data())
def test_a_good_range_is_what_it_says(size: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, size - 1))
    last = data.draw(st.integers(first, 2 * size))
    span = (first, min(last + 1, size))
    assert _asked(request(b"bytes=%d-%d" % (first, last)), "tag", size) == span
    assert _asked(request(b"bytes=%d-" % first), "tag", size) == (first, size)
    assert _asked(request(b"bytes=-%d" % (last + 1)), "tag", size) == (
        max(size - last - 1, 0),
        size,
    )
