"""How long work tells the caller where it is, without knowing who draws the bar."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[], None]
Bar = Callable[[str, int], AbstractContextManager[Advance]]  # (what, steps) -> call once a step


@contextmanager
def silent(what: str, steps: int) -> Iterator[Advance]:
    """Draw nothing."""
    yield lambda: None
