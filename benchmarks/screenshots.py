"""Draws docs/dashboard-*.png: the dashboard in a headless Chromium, over live jobs.

A service of its own with the shipped digits-mlp answers a few requests; then its worker is
stopped for a moment, in the middle of a batch, so that the pictures show all states.
    .venv/bin/python benchmarks/screenshots.py
"""

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

from core.settings import Settings
from core.stack import Stack

DOCS = Path(__file__).resolve().parent.parent / "docs"
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
ANSWERED: list[dict[str, Any]] = [
    {"forget": [4, 7], "external_id": "erase-2026-118"},
    {"forget": [0]},
    {"forget": [1, 2, 5], "require": {"min_retain_accuracy": 1.0}, "external_id": "too strict"},
    {"forget": [8], "candidates": 16, "external_id": "erase-2026-119"},
    {"forget": [2, 6], "prompt": {"forget_loss": 9.0}, "external_id": "with a prompt"},
    {"forget": [3, 9], "external_id": "erase-2026-120"},
]
WAITING: list[dict[str, Any]] = [
    {"forget": [5], "candidates": 64, "refine_steps": 400, "external_id": "erase-2026-121"},
    {"forget": [1, 7], "external_id": "erase-2026-122"},
    {"forget": [0, 3, 6], "external_id": "a mistake"},
]


def main() -> None:
    with tempfile.TemporaryDirectory() as home, Stack(Settings(home=Path(home), port=0)) as stack:
        api = httpx.Client(base_url=stack.url, timeout=60)
        done = [api.post("/unlearn", json=body, headers={"Prefer": "wait=60"}) for body in ANSWERED]
        show = done[-1].json()["id"]
        worker = stack.pid("worker-0")
        first = api.post("/unlearn", json=WAITING[0]).json()["id"]
        while api.get(f"/jobs/{first}").json()["progress"]["stage"] != "refining":
            time.sleep(0.001)
        os.kill(worker, signal.SIGSTOP)
        rest = [api.post("/unlearn", json=body).json()["id"] for body in WAITING[1:]]
        api.post(f"/jobs/{rest[-1]}/cancel")
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=shutil.which("chromium"),
                    args=["--no-sandbox", "--hide-scrollbars"],
                )
                draw(browser, f"{stack.url}/", "wide", WIDE, "light")
                draw(browser, f"{stack.url}/?job={show}", "job", WIDE | {"height": 1130}, "light")
                draw(browser, f"{stack.url}/?job={show}", "dark", WIDE | {"height": 1130}, "dark")
                draw(browser, f"{stack.url}/?job={show}", "phone", PHONE, "light")
                browser.close()
        finally:
            os.kill(worker, signal.SIGCONT)


def draw(browser: Browser, url: str, name: str, size: dict[str, int], scheme: Any) -> None:
    """Draw one page once all of it is there."""
    page: Page = browser.new_page(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(url)
    page.get_by_text("Live", exact=True).wait_for()
    page.locator("main .loading").wait_for(state="detached")
    if name == "wide":
        for label in ("2", "5"):
            page.get_by_label(label, exact=True).check()
        page.mouse.move(0, 0)
    path = DOCS / f"dashboard-{name}.png"
    page.wait_for_timeout(600)  # for what moves to have arrived
    page.screenshot(path=path)
    page.close()
    print(f"{path.relative_to(DOCS.parent)}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
