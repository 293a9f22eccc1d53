"""Redis servers as Debian packages them, as processes on free loopback ports."""

import datetime
import ipaddress
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOEVICTION = ("--maxmemory-policy", "noeviction")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def redis_server(
    folder: Path, port: int, *options: str, config: Path | None = None, **client: object
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server and wait until it answers; ``client`` says how to reach it."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no Redis here (redis-server not found); Debian: apt install redis-server")
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [
            *([found] if config is None else [found, str(config), "--sentinel"]),
            *("--port", "0" if client.get("ssl") else str(port), "--bind", "127.0.0.1"),
            *("--dir", str(folder), "--save", "", *options),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        with redis.Redis("127.0.0.1", port, **client) as asked:
            for _ in range(500):
                try:
                    asked.ping()
                    break
                except redis.exceptions.ConnectionError:
                    assert process.poll() is None
                    time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def tls_server(folder: Path) -> Iterator[str]:
    """Run a server with TLS and a password; give its URL."""
    port, certificate, key = free_port(), folder / "server.pem", folder / "server.key"
    write_certificate(certificate, key)
    tls = [f"--tls-{name}" for name in ("port", "cert-file", "key-file", "ca-cert-file")]
    values = (str(port), str(certificate), str(key), str(certificate))
    options = [text for pair in zip(tls, values, strict=True) for text in pair]
    options += ["--tls-auth-clients", "no", "--requirepass", "s3cret", *NOEVICTION]
    client = {"ssl": True, "ssl_ca_certs": str(certificate), "password": "s3cret"}
    with redis_server(folder / "tls", port, *options, **client):
        yield f"rediss://:s3cret@127.0.0.1:{port}/0?ssl_ca_certs={certificate}"


def write_certificate(certificate: Path, key: Path) -> None:
    """Write a key, and a certificate for 127.0.0.1 that it signed itself."""
    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis of a test")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=24))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(secret, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


@contextmanager
def sentinel(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a primary, a replica and a sentinel; give the sentinel's URL and the primary."""
    primary, replica, watcher = free_port(), free_port(), free_port()
    config = folder / "sentinel.conf"
    config.write_text(f"""
        sentinel monitor main 127.0.0.1 {primary} 1
        sentinel auth-pass main s3cret
        sentinel down-after-milliseconds main 500
        sentinel failover-timeout main 2000
    """)
    login = ("--requirepass", "s3cret", "--masterauth", "s3cret", *NOEVICTION)
    login += ("--repl-diskless-sync-delay", "0")
    follows = ("--replicaof", f"127.0.0.1 {primary}")
    with (
        redis_server(folder / "a", primary, *login, password="s3cret") as first,
        redis_server(folder / "b", replica, *login, *follows, password="s3cret") as _,
        redis_server(folder / "s", watcher, config=config) as _,
        redis.Redis("127.0.0.1", watcher) as asked,
    ):
        # A failover needs a replica that the sentinel knows to be in step.
        while [r["master-link-status"] for r in asked.sentinel_slaves("main")] != ["ok"]:
            time.sleep(0.05)
        # The first address is nobody's: the next is asked.
        yield f"redis+sentinel://:s3cret@127.0.0.1:1,127.0.0.1:{watcher}/main/0", first
