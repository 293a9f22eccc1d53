"""Certificates from the service to the command line, and to who has no HyperForget."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

import hyperforget
from core.settings import REPOSITORY, Settings
from core.stack import Stack


def run(home: Path, *arguments: str | Path, **variables: str) -> Result:
    """Run a command in this process: each of its own would take half a second to start."""
    env = {"HYPERFORGET_HOME": str(home), "COLUMNS": "200"} | variables
    done = CliRunner().invoke(hyperforget.app, list(map(str, arguments)), env=env)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A stopped service's home, with all files of its one job beside."""
    home = tmp_path_factory.mktemp("service")
    settings = Settings(home=home, port=0, generators=str(tiny_folder), default_generator="tiny")
    with Stack(settings) as stack, httpx.Client(base_url=stack.url) as client:
        client.post("/unlearn", json={"forget": [0]})
        body = {"forget": [1, 2], "seed": 3, "external_id": "ticket-118"}
        job = client.post("/unlearn", json=body).json()
        while job["status"] in ("queued", "running"):
            time.sleep(0.02)
            job = client.get(job["links"]["self"]).json()
        for name in ("certificate", "weights", "report"):
            (home / name).write_bytes(client.get(job["links"][name]).content)
        (home / "keys").write_bytes(client.get("/keys").content)
        done = run(home, "verify", home / "certificate", home / "weights", "--url", stack.url)
        assert done.exit_code == 0, done.output
    export = run(home, "audit-log", "export", "--out", home / "log")
    assert export.exit_code == 0, export.output
    return home


def verify(home: Path, *options: str | Path, **variables: str) -> tuple[int, str]:
    """Run `hyperforget verify` on the pair, where no service runs."""
    pair = (home / "certificate", home / "weights")
    done = run(home / "nowhere", "verify", *pair, *options, **variables)
    return done.exit_code, done.output


def fingerprint(home: Path) -> str:
    return str(json.loads((home / "keys").read_text())["keys"][0]["kid"])


def test_a_good_pair_is_accepted_without_a_service(home: Path, tiny_folder: Path) -> None:
    more = ("--report", home / "report", "--audit-log", home / "log", "--regenerate")
    code, said = verify(
        home, "--keys", home / "keys", *more, HYPERFORGET_GENERATORS=str(tiny_folder)
    )
    assert code == 0, said
    assert said.count("ok: ") == 5
    assert "drawn again from the seed" in said
    assert "ticket-118" in said
    assert "still encodes the forgotten ones" in said
    assert not (home / "nowhere").exists()


def test_a_fingerprint_is_enough(home: Path) -> None:
    assert verify(home, "--fingerprint", fingerprint(home))[0] == 0


def test_nothing_is_trusted_by_itself(home: Path) -> None:
    code, said = verify(home)
    assert code == 1
    assert "proves nothing" in said
    assert fingerprint(home) in said
    assert verify(home, "--fingerprint", "x" * 43)[0] == 1


def test_other_files_are_refused(home: Path, tmp_path: Path) -> None:
    keys = ("--keys", home / "keys")
    for name in ("certificate", "weights"):
        files = {n: home / n for n in ("certificate", "weights")}
        content = bytearray(files[name].read_bytes())
        content[len(content) // 2] ^= 1
        files[name] = tmp_path / name
        files[name].write_bytes(content)
        done = run(tmp_path, "verify", *files.values(), *keys)
        assert done.exit_code == 1
        assert "REFUSED" in done.stderr
    code, said = verify(home, *keys, "--report", home / "weights")
    assert (code, "report.json" in said) == (1, True)
    code, said = verify(home, *keys, "--regenerate")  # no tiny among the generators here
    assert code == 1
    assert "HYPERFORGET_GENERATORS" in said


def test_a_tampered_log_is_refused(home: Path, tmp_path: Path) -> None:
    lines = (home / "log").read_bytes().splitlines(keepends=True)
    assert len(lines) == 4  # the key, two jobs, the checkpoint
    cut = tmp_path / "cut"
    trust = ("--keys", home / "keys")
    for kept in (lines[:-1], [lines[0], *lines[2:]], [lines[1], lines[0], *lines[2:]]):
        cut.write_bytes(b"".join(kept))
        done = run(tmp_path, "audit-log", "verify", cut, *trust)
        assert done.exit_code == 1
        assert "REFUSED" in done.stderr
        assert verify(home, *trust, "--audit-log", cut)[0] == 1
    others = ("--certificate", home / "certificate", "--checkpoint", home / "log")
    done = run(tmp_path, "audit-log", "verify", home / "log", *trust, *others)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("ok: ") == 4


def test_exports(home: Path, tmp_path: Path) -> None:
    to_stdout = run(home, "audit-log", "export").stdout
    assert to_stdout.splitlines()[:-1] == (home / "log").read_text().splitlines()[:-1]
    table = run(home, "audit-log", "export", "--format", "csv").stdout.splitlines()
    assert len(table) == 4
    assert run(home, "audit-log", "export", "--format", "xml").exit_code == 1
    nowhere = run(home, "audit-log", "export", "--out", tmp_path / "absent" / "log")
    assert nowhere.exit_code == 1
    assert "absent" in nowhere.stderr
    no_key = run(tmp_path, "audit-log", "export")
    assert no_key.exit_code == 1
    assert "HYPERFORGET_SIGNING_KEY" in no_key.stderr


def test_verifying_loads_no_torch(home: Path) -> None:
    code = (
        "import sys, hyperforget\n"
        f"sys.argv[1:] = ['verify', {str(home / 'certificate')!r}, {str(home / 'weights')!r},"
        f" '--keys', {str(home / 'keys')!r}, '--audit-log', {str(home / 'log')!r}]\n"
        "try:\n    hyperforget.main()\nfinally:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_the_documented_fifteen_lines_check_it_without_hyperforget(
    home: Path, tmp_path: Path
) -> None:
    text = (REPOSITORY / "docs" / "certificate.md").read_text()
    (script,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for name, file in (
        *(("certificate", "certificate.json"), ("keys", "keys.json")),
        ("weights", "weights.safetensors"),
    ):
        (tmp_path / file).write_bytes((home / name).read_bytes())

    def check() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-c", script]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert "still encodes" in check().stdout
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\x00")
    assert "AssertionError" in check().stderr
    weights.write_bytes((home / "weights").read_bytes())
    keys = json.loads((tmp_path / "keys.json").read_text())
    keys["keys"][0]["x"] = "A" * 43
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    assert check().returncode == 1


def test_a_worker_without_its_key_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hyperforget", "worker"]
    env = {"HYPERFORGET_HOME": str(tmp_path), "HYPERFORGET_SIGNING_KEY": os.devnull}
    done = subprocess.run(
        command, env=os.environ | env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "HYPERFORGET_SIGNING_KEY" in done.stderr
    assert "openssl" in done.stderr
