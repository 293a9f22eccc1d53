"""The command line of HyperForget."""

import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import httpx
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from core import logs
from core.settings import Settings
from core.stack import Stack, StackError
from hyperforget_client import Client, HyperForgetError, Job, JobFailed, Problem, TimedOut

if TYPE_CHECKING:
    from core.access import Keys

app = typer.Typer(
    help="Unlearning as a service: ask a classifier to forget classes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
console = Console()

_UNITS = {"h": 3_600.0, "d": 86_400.0, "w": 604_800.0}  # seconds

Parent = Annotated[int | None, typer.Option(hidden=True, help="end when this process does")]


@app.command()
def serve(
    port: Annotated[int | None, typer.Option(help="default: HYPERFORGET_PORT or 8000")] = None,
    workers: Annotated[int, typer.Option(min=1, help="worker processes")] = 1,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    settings = _settings(**({} if port is None else {"port": port}))
    _may_listen(settings)
    stop = threading.Event()
    stack = Stack(settings, workers)
    _on_stop_signals(_interrupt)
    try:
        with stack:
            _on_stop_signals(stop.set)
            console.print(f"HyperForget answers at {stack.url} (docs: {stack.url}/docs)")
            console.print(f"state is in {settings.home}; Ctrl-C stops everything", soft_wrap=True)
            while not stop.wait(0.5):
                stack.tend()
            console.print("stopping")
    except StackError as error:
        _fail(str(error))


@app.command()
def api(fd: Annotated[int | None, typer.Option(hidden=True)] = None, parent: Parent = None) -> None:
    """Run one API process; Redis and database come from the settings."""
    import uvicorn

    from app.main import app as served
    from app.server import Server

    settings = _settings()
    logs.configure(settings.log_format)
    _may_listen(settings)
    _end_with(parent)
    config = uvicorn.Config(
        served,
        host=settings.host,
        port=settings.port,
        log_config=None,  # the lines of `core.logs`
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
    )
    sockets = [socket.socket(fileno=fd)] if fd is not None else None
    Server(config, served).run(sockets)


@app.command()
def worker(parent: Parent = None) -> None:
    """Run one worker process; Redis and database come from the settings."""
    from core.dsse import KeyFileError
    from worker.main import main as work

    settings = _settings()
    logs.configure(settings.log_format)
    _end_with(parent)
    try:
        work(settings)
    except KeyFileError as error:
        _fail(f"HYPERFORGET_SIGNING_KEY: {error}")


@app.command("worker-alive", hidden=True)
def worker_alive() -> None:
    """End with 0 if a worker of this host was heard of within its lease; for health checks."""
    from core.ledger import Ledger

    settings = _settings()
    ledger = Ledger(settings.database_url)
    try:
        alive = ledger.live_workers(settings.lease_seconds)
    finally:
        ledger.close()
    if not any(worker.id.startswith(f"{socket.gethostname()[:32]}-") for worker in alive):
        _fail("no worker of this host was heard of lately")


@app.command()
def demo(
    forget: Annotated[str, typer.Option(help="labels, joined by commas")] = "3,9",
    out: Annotated[Path, typer.Option(help="folder for what comes of it")] = Path("demo"),
) -> None:
    """Start the service, forget two digits through its API, show what came of it, stop."""
    labels = _labels(forget)
    with tempfile.TemporaryDirectory(prefix="hyperforget-demo-") as home:
        settings = _settings(
            home=home, port=0, database_url="", redis_url="", artifacts_url="", host="127.0.0.1"
        )
        _on_stop_signals(_interrupt)
        try:
            with console.status("starting API, worker and embedded Valkey"):
                stack = Stack(settings, log=settings.home / "service.log")
                stack.start()
        except StackError as error:
            _fail(f"{error}\n{(settings.home / 'service.log').read_text()}")
        try:
            console.print(f"service is up at {stack.url}")
            with Client(stack.url) as client:
                job, milliseconds = _follow(client, labels, stack)
                out.mkdir(parents=True, exist_ok=True)
                client.save_weights(job, out / "weights.safetensors")
                report = client.report(job)
                (out / "report.json").write_text(json.dumps(report, indent=1))
                (out / "certificate.json").write_bytes(client.certificate(job))
                (out / "keys.json").write_bytes(client.keys())
        except HyperForgetError as error:
            _fail(str(error))
        finally:
            stack.stop()
    _show(job, milliseconds, report["generator"]["held_out"])
    console.print(f"\nwritten to {out}: weights.safetensors, report.json; check them with")
    console.print(
        f"hyperforget verify {out / 'certificate.json'} {out / 'weights.safetensors'} "
        f"--keys {out / 'keys.json'}",
        soft_wrap=True,
    )


@app.command()
def train(
    name: Annotated[
        str,
        typer.Argument(help="digits-mlp, mnist-mlp, mnist-cnn, cifar10-cnn, or a name of your own"),
    ],
    data: Annotated[
        Path | None, typer.Option(help="MNIST or CIFAR-10, your .npz, or an image folder or zip")
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(help="for your own data: mlp:HIDDEN, such as mlp:16, or cnn:small for images"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="the new folder; default: generators/NAME in home")
    ] = None,
    zoo_seeds: Annotated[
        int | None, typer.Option(min=2, help="data orders in the zoo; more generalise better")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="training steps of DiHyFo")] = None,
) -> None:
    """Build a generator from nothing: zoo, DiHyFo, audit, card. A second run resumes."""
    # Imported here: torch takes seconds that the other commands need not pay.
    from core.catalog import NAME
    from models import build as builder
    from models import datasets
    from models import generator as generators
    from models.images import write_npz

    settings = _settings()
    if not NAME.fullmatch(name):
        _fail(f"{name!r}: use a name of small letters, digits and hyphens, such as my5")
    target = (out or settings.home / "generators" / name).resolve()
    if not NAME.fullmatch(target.name):
        _fail(f"{target}: the folder's name becomes the generator's; use one such as my5")
    try:
        own = None
        if name in builder.PRESETS:
            source, recipe = builder.PRESETS[name]
            if classifier is not None:
                _fail(f"{name} has its own classifier; choose another name for {classifier}")
            dataset = datasets.load(source, data or _data(settings) / source)
        else:
            if data is None:
                _fail(f"{name} is no preset ({', '.join(builder.PRESETS)}); pass --data my.npz")
            own = data
            if data.is_dir() or data.suffix == ".zip":
                own = settings.home / "build" / name / generators.OWN_DATA
                own.parent.mkdir(parents=True, exist_ok=True)
                write_npz(data, own)
            dataset = datasets.load("npz", own)
            recipe = builder.own_recipe(dataset, classifier or "mlp:16")
        recipe = builder.adjusted(recipe, zoo_seeds, steps)
        with _bars() as bar:
            builder.build(name, dataset, recipe, target, settings.home / "build" / name, own, bar)
    except (datasets.DataError, ValueError) as error:
        _fail(str(error))
    console.print((target / "README.md").read_text(), markup=False)
    console.print(f"written: {target}", soft_wrap=True)


@app.command("audit")
def audit_generator(
    name: Annotated[str, typer.Argument(help="a generator, shipped or trained here")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="where the report goes; default: the generator's folder, or audits/NAME in "
            "HYPERFORGET_HOME for one that was trained elsewhere"
        ),
    ] = None,
) -> None:
    """Hold a generator against retrained networks again: audit.json, README.md, audit.html.

    Networks that it is held against are retrained unless they are here. Without the zoo that it
    learned from, how near the zoo's networks are is left out.
    """
    from core.catalog import Catalog
    from models import datasets, generator
    from models.audit import audit as measure
    from models.card import write_report
    from models.material import load_material

    settings = _settings()
    entry = Catalog(settings.generator_roots).entries.get(name)
    if entry is None:
        _fail(f"there is no generator {name}; train one with `hyperforget train {name}`")
    try:
        loaded = generator.load(entry.folder, settings.data)
    except datasets.DataError as error:
        _fail(str(error))
    with _bars() as bar:
        material = load_material(loaded, settings.home / "build" / name, bar)
        audited = measure(material, bar)
    # What a generator was released with stays: only one's own is written over, with its zoo's part.
    own = entry.folder.is_relative_to(settings.home / "generators")
    default = entry.folder if own and material.zoo else settings.home / "audits" / name
    folder = (out or default).resolve()
    write_report(folder, name, loaded.config, audited)
    console.print((folder / "README.md").read_text(), markup=False)
    console.print(f"written: {folder / 'audit.html'}, audit.json, README.md", soft_wrap=True)


KeysFile = Annotated[
    Path | None, typer.Option("--keys", help="trusted keys, saved from GET /keys", dir_okay=False)
]
Fingerprint = Annotated[
    str | None, typer.Option(help="the trusted key's `kid`, that the operator told you")
]
ServiceUrl = Annotated[
    str | None, typer.Option("--url", help="a service whose GET /keys you trust")
]
ExistingFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False)]


@app.command()
def verify(
    certificate: ExistingFile,
    weights: ExistingFile,
    report: Annotated[Path | None, typer.Option(exists=True, dir_okay=False)] = None,
    keys: KeysFile = None,
    fingerprint: Fingerprint = None,
    url: ServiceUrl = None,
    audit_log: Annotated[
        Path | None, typer.Option(help="exported log, to hold the certificate", exists=True)
    ] = None,
    regenerate: Annotated[
        bool, typer.Option(help="draw the weights again from their seed and compare")
    ] = False,
) -> None:
    """Check a certificate and its weights; needs no service and no torch."""
    from core import auditfile, trust
    from core import certificate as certificates

    envelope, content = certificate.read_bytes(), weights.read_bytes()
    with _refusals(certificate):
        signer = certificates.signer_inside(envelope)
        trusted, why = trust.keys_for(signer, keys, fingerprint, url)
        proven = certificates.verify(envelope, trusted)
        _checked(f"signed by key {proven.key}, trusted from {why}")
        proven.check_file(certificates.WEIGHTS, content)
        _checked(f"{weights} is the certified file, to the bit")
        if report is not None:
            proven.check_file(certificates.REPORT, report.read_bytes())
            _checked(f"{report} is the certified report, to the bit")
        if audit_log is not None:
            log = auditfile.verify(audit_log.read_bytes(), trusted)
            log.check_certificate(proven)
            _checked(f"{audit_log} is whole ({len(log.entries)} entries) and holds it")
        if regenerate:
            _checked(_regenerate(proven.predicate, content))
    for line in certificates.summary(proven):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    skipped = {"the audit log (--audit-log)": audit_log, "drawing again (--regenerate)": regenerate}
    not_run = [name for name, given in skipped.items() if not given]
    if not_run:
        console.print(f"not checked: {', '.join(not_run)}", soft_wrap=True)
    console.print("\nThis does not prove:")
    for sentence in proven.predicate["does_not_prove"]:
        console.print(f"- {sentence}", markup=False, highlight=False, soft_wrap=True)


data_sets = typer.Typer(help="Get the public data sets.", no_args_is_help=True)
app.add_typer(data_sets, name="data")


@data_sets.command("get")
def get_data(
    name: Annotated[str, typer.Argument(help="mnist or cifar10")],
    to: Annotated[
        Path | None, typer.Option(help="folder of data sets; default: HYPERFORGET_DATA, or in home")
    ] = None,
    mirror: Annotated[
        str | None, typer.Option(help="URL of a folder that holds the official files")
    ] = None,
) -> None:
    """Download a data set's official files, checked against their digests."""
    from models import downloads
    from models.datasets import DataError

    if name not in downloads.SETS:
        _fail(f"{name!r}: there are {', '.join(downloads.SETS)}")
    try:
        with console.status(f"getting {name}"):
            folder = downloads.get(name, to or _data(_settings()), mirror)
    except DataError as error:
        _fail(str(error))
    console.print(f"{name} lies in {folder}", soft_wrap=True)


keys = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)
app.add_typer(keys, name="keys")


@keys.command("create")
def create_key(
    scopes: Annotated[
        str, typer.Option(help="joined by commas: unlearn:write,jobs:read,artifacts:read,admin")
    ],
    tenant: Annotated[str, typer.Option(help="sees its own jobs alone")] = "default",
    name: Annotated[str, typer.Option(help="to tell keys apart")] = "",
) -> None:
    """Make an API key and print it: it is shown this once, and every route then needs one."""
    from core.access import Scope

    try:
        wanted = {Scope(scope) for scope in scopes.split(",")}
    except ValueError as error:
        _fail(f"--scopes: {error}; there are {', '.join(Scope)}")
    with _api_keys() as known:
        try:
            key, token = known.create(wanted, tenant, name)
        except ValueError as error:
            _fail(f"--{error}")
    print(token)
    Console(stderr=True).print(
        f"key {key.id} of tenant {key.tenant}: send it as `Authorization: Bearer hf_...`; "
        "it can't be shown again",
        soft_wrap=True,
    )


@keys.command("list")
def list_keys() -> None:
    """List all keys, without their secrets."""
    table = Table("id", "tenant", "name", "scopes", "made", "revoked")
    with _api_keys() as known:
        for key in known.all():
            made, revoked = (
                time.strftime("%Y-%m-%d %H:%M", time.gmtime(when)) if when else ""
                for when in (key.created_at, key.revoked_at)
            )
            scopes = ",".join(sorted(key.scopes))
            table.add_row(key.id, key.tenant, escape(key.name), scopes, made, revoked)
    console.print(table)


@keys.command("revoke")
def revoke_key(identity: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """End a key for good, at once."""
    with _api_keys() as known:
        if not known.revoke(identity):
            _fail(f"there is no key {identity} that still works; see `hyperforget keys list`")
    console.print(f"revoked {identity}")


audit = typer.Typer(help="Export and check the audit log.", no_args_is_help=True)
app.add_typer(audit, name="audit-log")


@audit.command("export")
def export_audit_log(
    out: Annotated[Path | None, typer.Option(help="default: standard output")] = None,
    form: Annotated[
        str, typer.Option("--format", help="jsonl, which can be checked, or csv, to read")
    ] = "jsonl",
) -> None:
    """Write the audit log, with a checkpoint signed now at its end."""
    from core import auditfile
    from core.dsse import KEY_FILE, KeyFileError, SigningKey
    from core.ledger import Ledger

    if form not in ("jsonl", "csv"):
        _fail(f"--format {form}: use jsonl or csv")
    settings = _settings()
    ledger = Ledger(settings.database_url)
    try:
        ledger.migrate()
        if form == "csv":
            lines = auditfile.export_csv(ledger.audit_log())
        else:
            key = SigningKey.read(settings.signing_key or settings.home / KEY_FILE)
            lines = auditfile.export(ledger.audit_log(), key, time.time())
        with _refusals(out), out.open("wb") if out else nullcontext(sys.stdout.buffer) as file:
            file.writelines(lines)
    except KeyFileError as error:
        _fail(f"{error}; export where a worker runs, or set HYPERFORGET_SIGNING_KEY")
    finally:
        ledger.close()


@audit.command("verify")
def verify_audit_log(
    file: ExistingFile,
    keys: KeysFile = None,
    fingerprint: Fingerprint = None,
    url: ServiceUrl = None,
    certificate: Annotated[
        list[Path] | None, typer.Option(help="the log must hold it; may be repeated", exists=True)
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="another export, earlier or later, that it must agree with", exists=True),
    ] = None,
) -> None:
    """Check an exported audit log: no entry removed, changed, swapped or cut off."""
    from core import auditfile, trust
    from core import certificate as certificates

    content = file.read_bytes()
    with _refusals(file):
        signer = auditfile.signer_inside(content)
        trusted, why = trust.keys_for(signer, keys, fingerprint, url)
        log = auditfile.verify(content, trusted)
        _checked(f"{len(log.entries)} entries follow one another")
        signed = log.checkpoint
        _checked(f"complete as of {signed.signed_at}: signed by key {signed.key}, from {why}")
        for path in certificate or ():
            log.check_certificate(certificates.verify(path.read_bytes(), trusted))
            _checked(f"it holds {path}")
        for path in checkpoint or ():
            other = auditfile.read_checkpoint(path.read_bytes(), trusted)
            log.check_checkpoint(other)
            _checked(f"it agrees with {path}, signed {other.signed_at}")
    console.print(
        "later entries are not covered: compare with a later certificate or export",
        soft_wrap=True,
    )


Url = Annotated[
    str, typer.Option("--url", envvar="HYPERFORGET_URL", help="where the service answers")
]
Key = Annotated[str | None, typer.Option("--key", envvar="HYPERFORGET_API_KEY", help="an API key")]
LOCAL = "http://127.0.0.1:8000"


@app.command()
def unlearn(
    forget: Annotated[str, typer.Option(help="classes, by label or name, joined by commas")],
    url: Url = LOCAL,
    key: Key = None,
    generator: Annotated[str | None, typer.Option(help="default: the service's")] = None,
    candidates: Annotated[int | None, typer.Option(min=1)] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    refine_steps: Annotated[int | None, typer.Option(min=0)] = None,
    external_id: Annotated[str | None, typer.Option(help="your own reference")] = None,
    callback_url: Annotated[str | None, typer.Option(help="told when the job has ended")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="until the job has ended")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="seconds to wait at most")] = 600.0,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="file for the weights")] = None,
    form: Annotated[
        str, typer.Option("--format", help="of the weights: safetensors, npz or onnx")
    ] = "safetensors",
    certificate: Annotated[Path | None, typer.Option(help="file for the certificate")] = None,
) -> None:
    """Ask a service, here or elsewhere, to forget classes; --out and --certificate wait.

    Ends with 0: done, 1: refused or out of reach, 3: the job failed, 4: still going on.
    """
    with _service(url, key) as client:
        job = client.unlearn(
            [int(name) if name.isdecimal() else name for name in forget.split(",")],
            wait=timeout if wait or out or certificate else None,
            generator=generator,
            candidates=candidates,
            seed=seed,
            refine_steps=refine_steps,
            external_id=external_id,
            callback_url=callback_url,
        )
        if out is not None:
            client.save_weights(job, out, form)
        if certificate is not None:
            certificate.write_bytes(client.certificate(job))
    print(job.id if out is None else out)


@app.command()
def weights(
    job: Annotated[str, typer.Argument(metavar="JOB", help="the id of a job that succeeded")],
    out: Annotated[Path, typer.Option("-o", "--out", help="file for the weights")],
    form: Annotated[str, typer.Option("--format", help="safetensors, npz or onnx")] = "safetensors",
    url: Url = LOCAL,
    key: Key = None,
) -> None:
    """Download a job's weights, checked against their digest."""
    with _service(url, key) as client:
        print(client.save_weights(job, out, form))


@app.command()
def predict(
    job: Annotated[str, typer.Argument(metavar="JOB", help="the id of a job that succeeded")],
    inputs: Annotated[
        Path, typer.Argument(help="JSON: a list of inputs, pixels scaled to 0..1", exists=True)
    ],
    url: Url = LOCAL,
    key: Key = None,
) -> None:
    """Ask a job's weights what class each input is of: its label, name and probability."""
    try:
        given = json.loads(inputs.read_bytes(), parse_constant=_no_number)
    except (OSError, ValueError) as error:
        _fail(f"{inputs}: {error}")
    if not isinstance(given, list):
        _fail(f"{inputs}: write a list of inputs, such as [[0, 0.5, 1]]")
    with _service(url, key) as client:
        for said in client.predict(job, given):
            print(said.label, said.name, f"{said.probabilities[said.label]:.4f}", sep="\t")


@app.command()
def jobs(
    url: Url = LOCAL,
    key: Key = None,
    status: Annotated[str | None, typer.Option()] = None,
    external_id: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option(min=1, help="how many, the newest first")] = 20,
) -> None:
    """List a service's jobs."""
    table = Table("id", "status", "generator", "forget", "created", "reference")
    with _service(url, key) as client:
        found = client.jobs(min(limit, 200), status=status, external_id=external_id)
        for job in islice(found, limit):
            forgot = ",".join(map(str, job.forget))
            reference = Text(job.external_id or "")
            table.add_row(job.id, job.status, job.generator, forgot, job.created_at, reference)
    console.print(table)


webhooks = typer.Typer(
    help="List and replay deliveries to callback URLs, rotate the secret that signs them.",
    no_args_is_help=True,
)
app.add_typer(webhooks, name="webhooks")


@webhooks.command("list")
def list_deliveries(
    url: Url = LOCAL,
    key: Key = None,
    status: Annotated[
        str | None, typer.Option(help="pending, sending, delivered, exhausted or gone")
    ] = None,
    job: Annotated[str | None, typer.Option(help="a job's id")] = None,
    limit: Annotated[int, typer.Option(min=1, help="how many, the newest first")] = 20,
) -> None:
    """List a service's deliveries."""
    table = Table("id", "event", "job", "status", "attempts", "next attempt", "last error")
    with _service(url, key) as client:
        for one in islice(client.deliveries(min(limit, 200), status=status, job=job), limit):
            ids = (one["id"], one["event"], one["job"], one["status"], str(one["attempts"]))
            table.add_row(*ids, one["next_attempt_at"] or "", Text(one["last_error"] or ""))
    console.print(table)


@webhooks.command("replay")
def replay_delivery(
    delivery: Annotated[str, typer.Argument(metavar="ID")], url: Url = LOCAL, key: Key = None
) -> None:
    """Have an event sent again, under its old id."""
    with _service(url, key) as client:
        replayed = client.replay(delivery)
    console.print(f"{replayed['id']} {replayed['status']}")


@webhooks.command("rotate")
def rotate_secret(
    url: Url = LOCAL,
    key: Key = None,
    overlap: Annotated[
        str, typer.Option(help="for how long the old secrets sign too; 0h when one leaked")
    ] = "24h",
) -> None:
    """Make a new signing secret and print it: it is shown this once."""
    seconds = _duration("--overlap", overlap)
    with _service(url, key) as client:
        print(client.rotate_secret(seconds))
    Console(stderr=True).print(
        f"receivers verify with it from now on; the old secrets sign too for {overlap}",
        soft_wrap=True,
    )


@app.command()
def purge(
    older_than: Annotated[str, typer.Option(help="such as 90d, 36h or 2w")],
    dry_run: Annotated[bool, typer.Option(help="only say what would be deleted")] = False,
) -> None:
    """Delete old ended jobs with their weights, reports and certificates; not the audit log."""
    from core import retention
    from core.artifacts import StoreDown, open_store
    from core.ledger import Ledger

    seconds = _duration("--older-than", older_than)
    settings = _settings()
    ledger = Ledger(settings.database_url)
    try:
        ledger.migrate()
        store = open_store(settings.artifacts_url)
        purged = retention.purge(ledger, store, time.time() - seconds, dry_run)
    except StoreDown as error:
        _fail(f"{error}; what was deleted until then stays so, run it again")
    finally:
        ledger.close()
    did = "would delete" if dry_run else "deleted"
    console.print(f"{did} {purged.jobs} jobs and {purged.files} files ({purged.bytes} bytes)")


def main() -> None:
    """Run the command line."""
    app()


def _data(settings: Settings) -> Path:
    assert settings.data is not None  # filled in when settings are made
    return settings.data


def _settings(**given: Any) -> Settings:
    try:
        return Settings(**given)
    except ValidationError as error:
        for problem in error.errors():
            where = "_".join(str(part) for part in problem["loc"]).upper()
            console.print(f"HYPERFORGET_{where}: {problem['msg']}", style="red", markup=False)
        raise typer.Exit(2) from None


@contextmanager
def _api_keys() -> Iterator["Keys"]:
    from core.access import Keys
    from core.database import Database

    database = Database(_settings().database_url)
    try:
        database.migrate()
        yield Keys(database)
    finally:
        database.close()


def _may_listen(settings: Settings) -> None:
    """End unless the API may listen where the settings say."""
    from core.access import is_loopback, may_listen

    if is_loopback(settings.host):
        return
    with _api_keys() as known:
        try:
            may_listen(settings.host, known)
        except ValueError as error:
            _fail(str(error))


def _fail(message: str, code: int = 1) -> NoReturn:
    Console(stderr=True).print(message, style="red", markup=False, soft_wrap=True)
    raise typer.Exit(code)


def _checked(what: str) -> None:
    console.print(f"ok: {what}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _refusals(file: Path | None) -> Iterator[None]:
    """End with 1 and say why when something is not to be believed, or can't be read."""
    from core.dsse import Refused

    try:
        yield
    except Refused as error:
        _fail(f"REFUSED {file or 'the audit log'}: {error}")
    except OSError as error:
        _fail(str(error))


def _regenerate(certificate: dict[str, Any], content: bytes) -> str:
    """Draw a certificate's weights again and say how they compare."""
    from core.catalog import Catalog
    from models.datasets import DataError
    from worker import regenerate

    settings = _settings()
    entries = Catalog(settings.generator_roots).entries
    try:
        found = regenerate.regenerate(certificate, content, entries, settings)
    except DataError as error:
        _fail(f"can't draw again: {error}")
    if found.equal == 1:
        return "drawn again from the seed: equal to the bit"
    return (
        f"drawn again from the seed: within {regenerate.TOLERANCE:g} "
        f"({found.equal:.1%} of the floats equal to the bit, the largest difference "
        f"{found.largest:.1e})"
    )


def _duration(option: str, text: str) -> float:
    """Return the seconds of a text such as 90d."""
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not (number.isascii() and number.isdigit() and len(number) < 7):
        _fail(f"{option} {text}: write a whole number and h, d or w, such as 90d")
    return int(number) * _UNITS[unit]


@contextmanager
def _service(url: str, key: str | None) -> Iterator[Client]:
    """Give a client, and end as `unlearn` says when something goes wrong."""
    try:
        with Client(url, key) as client:
            yield client
    except Problem as error:
        _fail("; ".join(f"{e.field}: {e.detail}" for e in error.fields) or str(error))
    except JobFailed as error:
        _fail(str(error), 3)
    except TimedOut as error:
        _fail(str(error), 4)
    except (HyperForgetError, OSError, httpx.InvalidURL) as error:
        _fail(str(error))


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no input")


def _labels(text: str) -> list[int]:
    try:
        return [int(label) for label in text.split(",")]
    except ValueError:
        _fail(f"--forget {text}: write labels joined by commas, such as 3,7")


def _on_stop_signals(action: Callable[[], object]) -> None:
    """Do something when the user or the system asks this process to stop."""

    def handle(number: int, frame: FrameType | None) -> None:
        action()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handle)


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt


def _end_with(parent: int | None) -> None:
    """Stop this process when its parent is gone, even if it was killed."""
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


@contextmanager
def _bars() -> Iterator[Any]:
    """Give `models` its progress bars."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:

        @contextmanager
        def bar(what: str, steps: int) -> Iterator[Any]:
            task = progress.add_task(what, total=steps)
            yield lambda: progress.advance(task)

        yield bar


def _follow(client: Client, labels: list[int], stack: Stack) -> tuple[Job, float]:
    """Post a forget request and poll its job; return it and the milliseconds to the weights."""
    console.print(f"POST /unlearn {{'forget': {labels}, 'seed': 1}}", markup=False)
    began = time.perf_counter()
    job = client.unlearn(labels, seed=1)
    seen = ""
    while True:
        stage = job.progress["stage"] or job.status
        if stage != seen:
            milliseconds = 1e3 * (time.perf_counter() - began)
            console.print(f"  {milliseconds:6.0f} ms  {stage}")
            seen = stage
        if job.ended:
            break
        stack.tend()
        time.sleep(0.002)
        job = client.job(job.id)
    if job.status != "succeeded":
        raise JobFailed(job)
    client.weights(job)
    return job, 1e3 * (time.perf_counter() - began)


def _show(job: Job, milliseconds: float, held_out: bool) -> None:
    """Print what each class's accuracy became, and time one retraining beside."""
    metrics = job.metrics or {}
    table = Table(title=f"{job.generator}: accuracy on the test split")
    for column in ("class", "n", "original", "retrained", "unlearned", ""):
        table.add_column(column, justify="left" if column in ("class", "") else "right")
    for row in metrics["per_class"]:
        figures = (row["original_accuracy"], row["retrained_accuracy"], row["accuracy"])
        table.add_row(
            row["name"],
            str(row["n"]),
            *("-" if figure is None else f"{figure:.3f}" for figure in figures),
            "forgotten" if row["forgotten"] else "",
            style="bold" if row["forgotten"] else None,
        )
    console.print(table)
    seen = "never trained" if held_out else "was trained"
    console.print(f"DiHyFo {seen} on networks of this forget set")
    retrained = metrics["retrained"]
    reference = "no network retrained for comparison"
    if retrained["n"]:
        reference = f"retrained {retrained['retain_accuracy']:.4f} (mean of {retrained['n']} seeds)"
    console.print(
        f"retain accuracy {metrics['retain']['accuracy']:.4f}, {reference}; "
        f"forget accuracy {metrics['forget']['accuracy']:.4f}",
        soft_wrap=True,
    )
    retraining = _time_retraining(job.generator, job.forget)
    console.print(
        f"from request to weights on disk here: {milliseconds:.0f} ms; "
        f"retraining one network on this machine: {retraining:.0f} ms",
        soft_wrap=True,
    )


def _time_retraining(generator: str, forget: list[int]) -> float:
    """Retrain one network as the generator's zoo was, and return the milliseconds it took."""
    from core.catalog import Catalog
    from models import baselines
    from models import generator as generators
    from models.fitting import Fit
    from models.masks import forget_code, retain_masks
    from models.zoo import REFERENCE_SEED

    settings = _settings()
    entry = Catalog(settings.generator_roots).entries[generator]
    loaded = generators.load(entry.folder, settings.data)
    mask = retain_masks([forget_code(forget)], loaded.classifier.classes)
    how = Fit(**entry.config["training"]["recipe"]["fit"])
    train = loaded.dataset.train
    warm_up = replace(how, epochs=1)  # torch's first steps are slow
    baselines.retrain(loaded.classifier, train, mask, warm_up, REFERENCE_SEED)
    began = time.perf_counter()
    baselines.retrain(loaded.classifier, train, mask, how, REFERENCE_SEED)
    return 1e3 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
