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


@pytest.mark.parametrize("path", sorted(PATHS))
def test_what_a_page_names_is_there_and_ours(client: Client, path: str) -> None:
    if path.startswith("/docs/"):
        pytest.skip("Swagger UI's own files; the browser test watches what they load")
    text = client.get(path).text
    found = re.findall(r"""(?:href|src)="([^"]+)"|from "([^"]+)";""", text)
    for address in filter(None, (a or b for a, b in found)):
        assert not re.match(r"https?:|//", address)
        absolute = address.replace("./", "/dashboard/") if address.startswith("./") else address
        assert client.get(absolute).status_code == 200, address
    assert not re.search(r"""\son\w+=|style="|<script>|innerHTML|javascript:""", text)


def test_no_path_leads_out_of_the_folder(client: Client) -> None:
    for path in ("/dashboard/", "/dashboard/..%2faccess.py", "/dashboard/%2e%2e/main.py"):
        assert client.get(path).status_code == 404


def test_the_files_are_part_of_the_package() -> None:
    """An editable install has no list of them; then there is nothing to check."""
    listed = [str(file) for file in files("hyperforget") or ()]
    if any(name.startswith("app/") for name in listed):
        assert "app/dashboard/index.html" in listed
