"""The command line, run as a user runs it."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from safetensors.numpy import load_file

from core.ledger import Ledger, NewJob
from core.settings import Settings
from core.stack import Stack
from tests.conftest import write_blobs


def hyperforget(
    home: Path, *arguments: str | Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hyperforget", *map(str, arguments)],
        env=os.environ | {"HYPERFORGET_HOME": str(home), "COLUMNS": "200"} | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_demo_forgets_two_digits(tmp_path: Path) -> None:
    done = hyperforget(tmp_path, "demo", "--out", tmp_path / "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert report["forget"] == [3, 9]
    assert report["metrics"]["forget"]["accuracy"] == 0
    weights = load_file(tmp_path / "demo" / "weights.safetensors")
    assert weights["fc1.weight"].shape == (16, 64)
    assert done.stdout.count("forgotten") == 2
    assert report["generator"]["held_out"]
    assert "DiHyFo never trained on networks of this forget set" in done.stdout
    assert "retraining one network on this machine" in done.stdout
    command = done.stdout.split("hyperforget verify ")[1].split()
    checked = hyperforget(tmp_path, "verify", *command)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_an_own_data_set_becomes_a_served_generator(tmp_path: Path) -> None:
    data = write_blobs(tmp_path / "my5.npz", classes=5, inputs=12, per_class=20)
    done = hyperforget(
        *(tmp_path / "home", "train", "my5", "--data", data, "--classifier", "mlp:16"),
        *("--steps", "100", "--zoo-seeds", "2"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    data.unlink()  # the generator keeps its own copy
    settings = Settings(home=tmp_path / "home", port=0)
    with Stack(settings) as stack, httpx.Client(base_url=stack.url) as client:
        described = client.get("/generators/my5").json()
        assert described["available"]
        assert described["classifier"]["layers"] == [12, 16, 5]
        job = client.post("/unlearn", json={"forget": [4], "generator": "my5"}).json()
        while job["status"] in ("queued", "running"):
            time.sleep(0.02)
            job = client.get(job["links"]["self"]).json()
        assert job["status"] == "succeeded"
        assert job["metrics"]["forget"]["n"] == 10
        assert client.get(job["links"]["weights"]).status_code == 200


def test_an_audit_needs_no_zoo_and_leaves_the_released_report(
    tmp_path: Path, tiny_folder: Path
) -> None:
    generator = tmp_path / "generators" / "tiny"
    shutil.copytree(tiny_folder, generator)
    released = (generator / "audit.json").read_bytes()
    done = hyperforget(tmp_path, "audit", "tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (generator / "audit.json").read_bytes() == released
    found = json.loads((tmp_path / "audits" / "tiny" / "audit.json").read_text())
    assert "nearest_mask" not in found["rows"]
    before = json.loads(released)["rows"]["dihyfo"]["retain_accuracy"]["mean"]
    assert found["rows"]["dihyfo"]["retain_accuracy"]["mean"] == pytest.approx(before)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "My Model"], "small letters"),
        (["train", "my5"], "--data"),
        (["train", "my5", "--data", "absent.npz"], "absent.npz"),
        (["train", "my5", "--data", "DATA", "--classifier", "cnn"], "mlp:HIDDEN"),
        (["train", "mnist-mlp", "--data", "absent"], "train-images-idx3-ubyte"),
        (["train", "digits-mlp", "--classifier", "mlp:4"], "own classifier"),
        (["train", "my5", "--data", "DATA", "--out", "Bad Name"], "my5"),
        (["audit", "absent"], "hyperforget train absent"),
        (["demo", "--forget", "3,x"], "3,x"),
        (["demo", "--forget", "3,3"], "a second time"),
    ],
)
def test_a_wrong_call_is_explained(tmp_path: Path, arguments: list[str], said: str) -> None:
    data = write_blobs(tmp_path / "data.npz")
    done = hyperforget(tmp_path, *(str(data) if a == "DATA" else a for a in arguments))
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    done = hyperforget(tmp_path, "serve", HYPERFORGET_PORT="eighty", HYPERFORGET_GROUP_SIZE="0")
    assert done.returncode == 2
    assert "HYPERFORGET_PORT" in done.stdout
    assert "HYPERFORGET_GROUP_SIZE" in done.stdout


def test_purge_says_what_it_deletes(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    ledger = Ledger(settings.database_url)
    ledger.migrate()
    ledger.cancel(ledger.record([NewJob("g", [1], {})]).jobs[0].id)
    young = hyperforget(tmp_path, "purge", "--older-than", "1h")
    assert young.stdout == "deleted 0 jobs and 0 files (0 bytes)\n"
    dry = hyperforget(tmp_path, "purge", "--older-than", "0d", "--dry-run")
    assert dry.stdout == "would delete 1 jobs and 0 files (0 bytes)\n"
    done = hyperforget(tmp_path, "purge", "--older-than", "0d")
    assert done.stdout == "deleted 1 jobs and 0 files (0 bytes)\n"
    assert ledger.page(10) == []
    ledger.close()


@pytest.mark.parametrize("wrong", ["90", "d", "-1d", "1.5d", "9y", "", "1234567d", "²d"])
def test_a_wrong_duration_is_explained(tmp_path: Path, wrong: str) -> None:
    done = hyperforget(tmp_path, "purge", f"--older-than={wrong}")
    assert done.returncode == 1
    assert "such as 90d" in done.stderr
