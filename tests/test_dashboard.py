"""The dashboard in a real browser, on the whole service."""

import hashlib
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from core.access import Scope
from core.settings import Settings
from core.stack import Stack
from tests.app.conftest import serve

PATIENCE = 30_000  # milliseconds until a slow machine is given up
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "<img src=x onerror=\"document.title='hacked'\">"
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here; Debian: apt install chromium"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE)
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []  # Chromium's own refuses root
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*sandbox, *QUIET], timeout=PATIENCE
        )
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A generator whose classes have names that no page should parse."""
    folder = tmp_path_factory.mktemp("hostile") / "hostile"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "generator.json").read_text())
    config["classes"][0] = HOSTILE
    config["classes"][1] = "w" * 90
    (folder / "generator.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, hostile_folder: Path
) -> Iterator[Stack]:
    settings = Settings(
        home=tmp_path_factory.mktemp("home"),
        port=0,
        generators=f"{tiny_folder}{os.pathsep}{hostile_folder}",
        default_generator="tiny",
        webhook_allow="127.0.0.1/32",
    )
    with Stack(settings) as running:
        yield running


class Tab:
    """A page, and what it should not have done."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.strangers: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self._note(said.type, said.text))
        page.on("request", lambda request: self._visit(request.url))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def _visit(self, url: str) -> None:
        if not url.startswith((f"{self.url}/", f"blob:{self.url}/", "data:image/")):
            self.strangers.append(url)


@contextmanager
def tab(browser: Browser, url: str, path: str = "/", **options: object) -> Iterator[Tab]:
    """Open a page; at its end it must have been quiet and have asked nobody else."""
    context = browser.new_context(accept_downloads=True, **options)  # type: ignore[arg-type]
    opened = Tab(context.new_page(), url)
    opened.page.goto(f"{url}{path}")
    yield opened
    assert opened.page.title() != "hacked"
    context.close()
    assert opened.complaints == []
    assert opened.strangers == []


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    with tab(browser, stack.url) as opened:
        yield opened.page


@contextmanager
def held(stack: Stack) -> Iterator[None]:
    """Keep the worker from working, but not from being known."""
    worker = stack.pid("worker-0")
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


def post(stack: Stack, **body: object) -> str:
    answer = httpx.post(f"{stack.url}/unlearn", json={"forget": [1]} | body, timeout=60)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def finished(stack: Stack, job_id: str) -> dict[str, object]:
    headers = {"Prefer": "wait=60"}
    answer = httpx.get(f"{stack.url}/jobs/{job_id}", headers=headers, timeout=90)
    found: dict[str, object] = answer.json()
    return found


def wait_for(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE / 1_000
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def status(page: Page, word: str) -> None:
    expect(page.locator("#job-status")).to_have_text(word)


def test_submit_watch_download(page: Page, stack: Stack, tmp_path: Path) -> None:
    page.get_by_label("1", exact=True).check()
    page.get_by_label("3", exact=True).check()
    page.get_by_label("Your reference", exact=True).fill("ticket-118")
    with held(stack):
        page.get_by_role("button", name="Forget 2 classes").click()
        status(page, "queued")
        page.evaluate("window.neverReloaded = true")
    status(page, "succeeded")
    assert page.evaluate("window.neverReloaded")
    expect(page.get_by_role("heading", level=1)).to_have_text("Without 1 and 3")
    expect(page.locator("#announce")).to_have_text("Job succeeded")
    expect(page.get_by_role("row", name="forgotten")).to_have_count(2)
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Download weights").click()
    assert downloading.value.suggested_filename == "tiny-without-1-3.safetensors"
    downloading.value.save_as(tmp_path / "weights")
    sha256 = hashlib.sha256((tmp_path / "weights").read_bytes()).hexdigest()
    # As the certificate on the page names them, and as the report does.
    expect(page.get_by_text(f"sha256:{sha256}")).to_be_visible()
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Report").click()
    downloading.value.save_as(tmp_path / "report")
    assert json.loads((tmp_path / "report").read_text())["weights"]["sha256"] == sha256
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Certificate").click()
    downloading.value.save_as(tmp_path / "certificate")
    assert "payload" in json.loads((tmp_path / "certificate").read_text())
    expect(page.get_by_text("still encodes the forgotten ones")).to_be_visible()


def test_weights_come_in_other_formats(page: Page, stack: Stack) -> None:
    job_id = post(stack, forget=[0, 2])
    finished(stack, job_id)
    page.goto(f"{stack.url}/?job={job_id}")
    for label, suffix, first in (("npz", "npz", b"PK"), ("ONNX", "onnx", b"\x08")):
        with page.expect_download() as downloading:
            page.get_by_role("button", name=label, exact=True).click()
        assert downloading.value.suggested_filename == f"tiny-without-0-2.{suffix}"
        assert Path(downloading.value.path()).read_bytes().startswith(first)


def test_a_webhook_that_fails_is_shown_and_sent_again(page: Page, stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]  # nobody listens there any more once it is closed
    job_id = post(stack, callback_url=f"http://127.0.0.1:{port}/hook")
    finished(stack, job_id)

    def tried() -> str | None:
        (delivery,) = httpx.get(f"{stack.url}/webhooks/deliveries?job={job_id}").json()["items"]
        return delivery["last_attempt_at"]  # type: ignore[no-any-return]

    wait_for(lambda: tried() is not None)
    page.goto(f"{stack.url}/?job={job_id}")
    expect(page.locator("#deliveries")).to_contain_text("job.succeeded")
    expect(page.locator("#deliveries")).to_contain_text("could not connect")
    before = tried()
    page.get_by_role("button", name="Send again").click()
    wait_for(lambda: tried() != before)
    expect(page.locator("#curl")).to_contain_text("callback_url")


def test_the_figures_are_the_reports(page: Page, stack: Stack) -> None:
    job = finished(stack, post(stack, forget=[2], external_id="figures"))
    page.goto(f"{stack.url}/?job={job['id']}")
    status(page, "succeeded")
    metrics = job["metrics"]
    for one in metrics["per_class"]:  # type: ignore[index]
        row = page.locator(".classes tbody tr").nth(one["label"])
        shown = [
            f"{100 * one[name]:.1f}%"
            for name in ("original_accuracy", "accuracy", "retrained_accuracy")
        ]
        assert row.locator("td[data-kind]").all_inner_texts() == shown
    times = page.locator(".timeline li .number")
    assert times.count() == len(metrics["timing_ms"])  # type: ignore[index]


def test_asking_again_sends_the_same_request(page: Page, stack: Stack) -> None:
    first = finished(stack, post(stack, forget=[0, 2], seed=7, candidates=3, external_id="again"))
    page.goto(f"{stack.url}/?job={first['id']}")
    status(page, "succeeded")
    page.get_by_role("button", name="Ask again").click()
    page.wait_for_url(lambda url: str(first["id"]) not in url)
    status(page, "succeeded")
    second = finished(stack, page.url.partition("job=")[2])
    for name in ("forget", "generator", "external_id"):
        assert second[name] == first[name]
    ids = {"request_id": ""}
    assert second["request"] | ids == first["request"] | ids  # type: ignore[operator]
    command = page.locator("#curl").inner_text()
    assert '"seed":7' in command and f"'{stack.url}/unlearn'" in command


def test_a_job_is_canceled_where_it_waits(page: Page, stack: Stack) -> None:
    with held(stack):
        page.get_by_label("0", exact=True).check()
        page.get_by_role("button", name="Forget 1 class").click()
        page.get_by_role("button", name="Cancel").click()
        status(page, "canceled")
        expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    expect(page.get_by_role("button", name="Retry")).to_be_visible()


def test_a_failed_gate_shows_its_evidence(page: Page, stack: Stack) -> None:
    job_id = post(stack, require={"min_retain_accuracy": 1.0}, refine_steps=0, candidates=2)
    job = finished(stack, job_id)
    page.goto(f"{stack.url}/?job={job_id}")
    status(page, str(job["status"]))
    if job["status"] == "failed":
        expect(page.get_by_text("No candidate met the requirements")).to_be_visible()
        expect(page.get_by_role("button", name="Download weights")).to_have_count(0)
        expect(page.get_by_role("cell", name="rejected").first).to_be_visible()


def test_the_list_is_live_and_the_keyboard_alone_is_enough(page: Page, stack: Stack) -> None:
    expect(page.locator("#live")).to_have_text("Live")
    elsewhere = post(stack, forget=[3], external_id="elsewhere")
    row = page.locator(f"li[data-id='{elsewhere}']")
    expect(row).to_contain_text("succeeded")
    for _ in range(30):  # Tab to the first class, from wherever the page begins
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "forget":
            break
    outline = "getComputedStyle(document.activeElement.nextSibling).outlineStyle"
    assert page.evaluate(outline) == "solid"  # the focus can be seen
    page.keyboard.press("Space")
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type") == "submit":
            break
    page.keyboard.press("Enter")
    status(page, "succeeded")
    assert page.evaluate("document.activeElement.tagName") == "H1"  # where the new page begins


def test_filters_are_in_the_address(page: Page, stack: Stack) -> None:
    wanted = finished(stack, post(stack, external_id="only me"))
    finished(stack, post(stack, external_id="only you"))
    page.get_by_label("Your reference, exactly").fill("only me")
    rows = page.locator(".jobs li")
    expect(rows).to_have_count(1)
    page.get_by_label("State").select_option("succeeded")
    page.wait_for_url("**/?status=succeeded&external_id=only+me")
    page.reload()
    expect(rows).to_have_count(1)
    expect(page.get_by_label("State")).to_have_value("succeeded")
    expect(page.get_by_label("Your reference, exactly")).to_have_value("only me")
    rows.get_by_role("link").click()
    status(page, "succeeded")
    assert str(wanted["id"]) in page.url
    page.go_back()
    expect(rows).to_have_count(1)
    assert page.url.endswith("/?status=succeeded&external_id=only+me")
    page.go_back()
    page.wait_for_url("**/?external_id=only+me")
    page.get_by_label("State").select_option("failed")
    expect(page.get_by_text("No job matches")).to_be_visible()


def test_older_jobs_come_by_the_page(page: Page, stack: Stack) -> None:
    requests = [{"forget": [1], "candidates": 1, "external_id": "many"}] * 30
    answer = httpx.post(f"{stack.url}/unlearn/bulk", json={"requests": requests}, timeout=60)
    for job in answer.json()["items"]:
        finished(stack, job["id"])
    page.goto(f"{stack.url}/?external_id=many")
    rows = page.locator(".jobs li")
    expect(rows).to_have_count(25)
    page.get_by_role("button", name="Show older jobs").click()
    expect(rows).to_have_count(30)
    expect(page.get_by_role("button", name="Show older jobs")).to_be_hidden()
    times = rows.locator("time").evaluate_all("all => all.map(one => one.dateTime)")
    assert times == sorted(times, reverse=True)


def test_text_of_others_stays_text(browser: Browser, stack: Stack) -> None:
    job = finished(stack, post(stack, generator="hostile", forget=[0], external_id=HOSTILE))
    assert job["status"] == "succeeded"
    for path in ("/", f"/?job={job['id']}", "/?view=generators", "/?view=service"):
        with tab(browser, stack.url, path) as opened:
            if path != "/?view=service":
                expect(opened.page.get_by_text(HOSTILE).first).to_be_visible()
            assert opened.page.locator("main img").count() == 0


def test_what_the_service_refuses_is_said_at_the_field(browser: Browser, stack: Stack) -> None:
    with tab(browser, stack.url) as opened:
        page = opened.page
        page.get_by_label("2", exact=True).check()
        page.get_by_text("Advanced").click()
        page.get_by_label("Candidates").fill("65")
        page.get_by_label("Seed").fill("lucky")
        page.get_by_label("Tell when it ends").fill("https://10.0.0.1/hook")
        page.get_by_role("button", name="Forget 1 class").click()
        expect(page.locator("[id='error-candidates']")).to_contain_text("less than or equal to 64")
        expect(page.locator("[id='error-seed']")).to_contain_text("valid integer")
        expect(page.get_by_label("Candidates")).to_be_focused()
        page.get_by_label("Candidates").fill("")
        page.get_by_label("Seed").fill("1")
        page.get_by_role("button", name="Forget 1 class").click()
        expect(page.locator("#error-callback_url")).to_contain_text("not public")
        page.get_by_label("Tell when it ends").fill("")
        page.get_by_label("Seed").fill("")
        page.get_by_label("2", exact=True).uncheck()
        page.get_by_role("button", name="Forget", exact=True).click()
        expect(page.locator("#error-forget")).to_contain_text("at least one class")
        expect(page.locator("#error-seed")).to_be_empty()
        for label in "0123":
            page.get_by_label(label, exact=True).check()
        page.get_by_role("button", name="Forget 4 classes").click()
        expect(page.locator("#error-forget")).to_contain_text("leave at least one to retain")
        for label in "013":
            page.get_by_label(label, exact=True).uncheck()
        page.get_by_label("Aim").select_option("classes")
        page.get_by_label("0", exact=True).nth(1).fill("-1")
        page.get_by_role("button", name="Forget 1 class").click()
        expect(page.locator("[id='error-prompt.class_losses.0']")).to_contain_text("equal to 0.001")
        # The browser itself notes every refused request.
        refused = "Failed to load resource: the server responded with a status of 422"
        assert all(said.startswith(refused) for said in opened.complaints)
        opened.complaints.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_never_scrolls_sideways(browser: Browser, stack: Stack, scheme: str) -> None:
    long = "x" * 200
    job = finished(stack, post(stack, generator="hostile", forget=[1], external_id=long))
    small = {"viewport": {"width": 360, "height": 740}, "color_scheme": scheme}
    for path in ("/", f"/?job={job['id']}", "/?view=generators", "/?view=service"):
        with tab(browser, stack.url, path, **small) as opened:
            expect(opened.page.locator("h1").first).to_be_attached()
            expect(opened.page.locator("main .loading")).to_have_count(0)
            assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_documentation_needs_nothing_from_elsewhere(browser: Browser, stack: Stack) -> None:
    with tab(browser, stack.url, "/docs") as opened:
        expect(opened.page.get_by_text("/jobs/{job_id}/cancel")).to_be_visible()


def test_a_service_with_keys_asks_for_one(
    browser: Browser, tmp_path: Path, tiny_folder: Path, valkey_url: str
) -> None:
    settings = Settings(
        home=tmp_path, redis_url=valkey_url, generators=str(tiny_folder), default_generator="tiny"
    )
    with serve(settings) as client:
        keys = client.services.keys
        _, token = keys.create({Scope.UNLEARN, Scope.JOBS}, "acme")
        _, blind = keys.create({Scope.UNLEARN}, "acme")
        url = str(client.base_url)
        asked: list[str] = []
        with tab(browser, url) as opened:
            page = opened.page
            page.on("request", lambda request: asked.append(request.url))
            dialog = page.get_by_role("dialog", name="API key")
            dialog.get_by_label("Key").fill("hf_wrong")
            dialog.get_by_role("button", name="Continue").click()
            expect(dialog).to_contain_text("unknown or revoked")
            dialog.get_by_label("Key").fill(token)
            page.keyboard.press("Enter")
            expect(page.locator("#live")).to_have_text("Live")
            page.get_by_label("1", exact=True).check()
            page.get_by_role("button", name="Forget 1 class").click()
            status(page, "queued")
            assert "$HYPERFORGET_API_KEY" in page.locator("#curl").inner_text()
            page.reload()
            status(page, "queued")  # the tab remembers
            assert token not in page.content() + "".join(asked)
            page.get_by_role("button", name="Sign out").click()
            expect(dialog).to_be_visible()
            assert page.evaluate("sessionStorage.length + localStorage.length") == 0
            dialog.get_by_label("Key").fill(blind)
            page.keyboard.press("Enter")
            expect(page.get_by_text("This API key may not do that")).to_be_visible()
            expect(page.locator("#live")).to_contain_text("key lacks jobs:read")
            refused = "Failed to load resource: the server responded with a status of 40"
            assert all(said.startswith(refused) for said in opened.complaints)
            opened.complaints.clear()


def test_what_happens_while_nobody_tells_is_caught_up_with(browser: Browser, stack: Stack) -> None:
    with tab(browser, stack.url) as opened:
        page = opened.page
        expect(page.locator("#live")).to_have_text("Live")
        with held(stack):
            waiting = post(stack, external_id="before")
            expect(page.locator(f"li[data-id='{waiting}']")).to_contain_text("queued")
            page.context.set_offline(True)
            os.kill(stack.pid("api"), signal.SIGTERM)  # its streams end, and it does
            expect(page.locator("#live")).to_have_text("Reconnecting")
        while is_down(stack):
            stack.tend()
            time.sleep(0.05)
        newer = post(stack, external_id="meanwhile")
        finished(stack, newer)
        finished(stack, waiting)
        page.context.set_offline(False)
        for job_id in (newer, waiting):
            expect(page.locator(f"li[data-id='{job_id}']")).to_contain_text("succeeded")
        expect(page.locator(".jobs li").first).to_have_attribute("data-id", newer)
        assert all("ERR_INTERNET_DISCONNECTED" in said for said in opened.complaints)
        opened.complaints.clear()


def is_down(stack: Stack) -> bool:
    try:
        return httpx.get(f"{stack.url}/healthz", timeout=1).status_code != 200
    except httpx.TransportError:
        return True
