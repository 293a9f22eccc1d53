import re
from importlib.metadata import files

import pytest

from app.pages import PATHS
from tests.app.conftest import Client


def policy(client: Client, path: str) -> dict[str, str]:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    directives = answer.headers["Content-Security-Policy"].split("; ")
    return dict(directive.split(" ", 1) for directive in directives)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_run_nothing_but_their_own_files(client: Client, path: str) -> None:
    allowed = policy(client, path)
    assert allowed["default-src"] == "'none'"
    assert allowed["script-src"] == allowed["style-src"] == allowed["connect-src"] == "'self'"
    assert allowed["frame-ancestors"] == allowed["base-uri"] == "'none'"
    assert "unsafe" not in str(allowed)
    assert "http" not in str(allowed)


def test_the_dashboard_can_parse_no_html(client: Client) -> None:
    assert policy(client, "/")["require-trusted-types-for"] == "'script'"


@pytest.mark.parametrize("path", sorted(PATHS))
def test_every_file_is_served_typed_and_cached_by_its_digest(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    kind = kinds.get(path.rpartition(".")[2], "text/html")
    assert answer.headers["Content-Type"].split(";")[0] == kind
    again = client.get(path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


# What Swagger UI's own files load, the browser's test watches.
@pytest.mark.parametrize("path", sorted(path for path in PATHS if "/docs/" not in path))
def test_what_a_page_names_is_there_and_ours(client: Client, path: str) -> None:
    text = client.get(path).text
    found = re.findall(r"""(?:href|src)="([^"]+)"|from "([^"]+)";""", text)
    for address in filter(None, (a or b for a, b in found)):
        assert not re.match(r"https?:|//", address)
        absolute = address.replace("./", "/dashboard/") if address.startswith("./") else address
        assert client.get(absolute).status_code == 200, address
    assert not re.search(r"""\son\w+=|style="|<script>|innerHTML|javascript:""", text)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_contrast_aa(client: Client, scheme: int) -> None:
    css = client.get("/dashboard/style.css").text
    palette = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[scheme]
    colour = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", palette))
    text = {
        "ink": ("paper", "surface", "sunken", "wash", "bad-wash"),
        "muted": ("paper", "surface", "sunken", "wash"),
        "accent": ("paper", "surface"),
        "accent-strong": ("surface", "sunken", "wash"),
        "on-accent": ("accent", "accent-strong"),
        "bad": ("surface", "bad-wash"),
    }
    drawn = {"accent": ("surface",), "before": ("surface",), "control": ("surface", "paper")}
    for needed, pairs in ((4.5, text), (3.0, drawn)):
        for front, backs in pairs.items():
            for back in backs:
                assert contrast(colour[front], colour[back]) >= needed, (front, back)


def test_no_path_leads_out_of_the_folder(client: Client) -> None:
    for path in ("/dashboard/", "/dashboard/..%2faccess.py", "/dashboard/%2e%2e/main.py"):
        assert client.get(path).status_code == 404


def test_the_files_are_part_of_the_package() -> None:
    """An editable install has no list of them; then there is nothing to check."""
    listed = [str(file) for file in files("hyperforget") or ()]
    if any(name.startswith("app/") for name in listed):
        assert "app/dashboard/index.html" in listed
