import json
import logging
from collections.abc import Iterator

import pytest

from core import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("hyperforget")
    before = root.handlers[:], root.level, own.level
    yield
    root.handlers[:], level, own_level = before
    root.setLevel(level)
    own.setLevel(own_level)


def test_one_json_line_for_each_event(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    log = logging.getLogger("hyperforget.test")
    log.info("two\nlines of %s", "text", extra={"status": 202})
    with logs.about("job-1", "request-1"):
        log.warning("about a job")
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("failed")
    logging.getLogger("other").info("a library's chat is left out")
    first, second, third = map(json.loads, capsys.readouterr().err.splitlines())
    assert first["message"] == "two\nlines of text"
    assert (first["level"], first["logger"]) == ("INFO", "hyperforget.test")
    assert first["status"] == 202
    assert first["time"].startswith("20")
    assert "job" not in first
    assert (second["job"], second["request_id"]) == ("job-1", "request-1")
    assert "ValueError: why" in third["exc_info"]
    assert "job" not in third


def test_text_names_request_and_job_too(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text")
    with logs.about("job-1", None):
        logging.getLogger("hyperforget.test").info("done")
    assert capsys.readouterr().err.endswith("INFO hyperforget.test: done job=job-1\n")


@pytest.mark.parametrize("strange", [None, "", "a b", "a\nb", "x" * 129, "ü", '"'])
def test_a_strange_request_id_is_replaced(strange: str | None) -> None:
    made = logs.sane_request_id(strange)
    assert made != strange
    assert len(made) == 32
    assert logs.sane_request_id("Req-1.2:3/4+5=") == "Req-1.2:3/4+5="
