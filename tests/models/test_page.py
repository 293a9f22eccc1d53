import json
from pathlib import Path

from models.page import page


def test_the_page_is_self_contained(tiny_folder: Path) -> None:
    text = (tiny_folder / "audit.html").read_text()
    assert text.startswith("<!doctype html>")
    for outside in ("http:", "https:", "<script", "<link", "@import", "url("):
        assert outside not in text
    assert "prefers-color-scheme:dark" in text
    assert text.count("<figure>") == text.count("<figcaption>n: ") >= 14


def test_the_page_shows_what_was_measured(tiny_folder: Path) -> None:
    text = (tiny_folder / "audit.html").read_text()
    audited = json.loads((tiny_folder / "audit.json").read_text())
    assert f"{audited['rows']['dihyfo']['retain_accuracy']['mean']:.4f}" in text
    for side in ("under", "over", "distribution"):
        assert audited["verdicts"]["dihyfo"][side]["words"] in text


def test_names_are_escaped_and_prompts_may_be_absent(tiny_folder: Path) -> None:
    config = json.loads((tiny_folder / "generator.json").read_text())
    audited = json.loads((tiny_folder / "audit.json").read_text()) | {"alignment": None}
    config["dataset"]["name"] = "<b>own</b>"
    text = page("tiny", config, audited)
    assert "<b>" not in text
    assert "trained without prompts" in text
