import asyncio
import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.posting import Answer, Poster, Unanswered
from core.addresses import Addresses, networks
from tests.receiver import Receiver, receiving

LOCAL = networks("127.0.0.0/8")


def post(
    url: str, allow: Any = LOCAL, seconds: float = 10.0, tls: ssl.SSLContext | None = None
) -> Answer:
    addresses = Addresses(allow)
    try:
        poster = Poster(addresses, seconds, tls)
        return asyncio.run(poster.post(url, {"webhook-id": "1"}, b'{"a":1}'))
    finally:
        addresses.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as opened:
        yield opened


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Addresses of names, as a DNS server would answer, one after the other."""
    known: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def lookup(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name in known:
            left = known[name]
            host = left.pop(0) if len(left) > 1 else left[0]
        return real(host, port, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return known


def test_the_receiver_gets_the_body_and_its_own_name(
    receiver: Receiver, names: dict[str, list[str]]
) -> None:
    names["hooks.example"] = ["127.0.0.1"]
    port = receiver.url.rpartition(":")[2]
    assert post(f"http://hooks.example:{port}/a?b=c") == Answer(204, None)
    path, headers, body = receiver.got[0]
    assert (path, body) == ("/a?b=c", b'{"a":1}')
    assert headers["Host"] == f"hooks.example:{port}"
    assert headers["webhook-id"] == "1"


def test_an_inside_address_is_refused_when_connecting(receiver: Receiver) -> None:
    with pytest.raises(Unanswered, match="not public"):
        post(receiver.url, allow=())
    with pytest.raises(Unanswered, match="not public"):
        post(receiver.url.replace("http:", "https:"), allow=())
    assert receiver.got == []


def test_a_name_is_looked_up_once_for_check_and_connection(
    receiver: Receiver, names: dict[str, list[str]]
) -> None:
    """Were it looked up again to connect, this would reach a server that may not be called."""
    names["rebind.example"] = ["127.0.0.2", "127.0.0.1"]
    port = receiver.url.rpartition(":")[2]
    with pytest.raises(Unanswered, match="could not connect"):
        post(f"http://rebind.example:{port}/", allow=networks("127.0.0.2/32"))
    assert len(names["rebind.example"]) == 1
    with pytest.raises(Unanswered, match="not public"):
        post(f"http://rebind.example:{port}/", allow=networks("127.0.0.2/32"))
    assert receiver.got == []


def test_redirects_are_not_followed(receiver: Receiver) -> None:
    receiver.script = [(307, {"Location": f"{receiver.url}/other"})]
    assert post(receiver.url).status == 307
    assert len(receiver.got) == 1


def test_proxies_of_the_environment_are_not_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert post(receiver.url).status == 204
        assert proxy.got == []


@contextmanager
def answering(*chunks: bytes, again: bytes = b"") -> Iterator[str]:
    """A server that sends some bytes, then others over and over, until it is left."""
    over = threading.Event()

    def work() -> None:
        with listening.accept()[0] as connection:
            try:
                connection.recv(65_536)
                for chunk in chunks:
                    connection.sendall(chunk)
                while again and not over.wait(0.001):
                    connection.sendall(again)
                if not chunks:
                    over.wait()
            except OSError:  # it had enough
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            over.set()
            thread.join()


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nRetry-After: 7\r\n\r\n"


def test_an_endless_body_is_not_read_to_its_end() -> None:
    with answering(HEAD, again=b"1000\r\n" + b"x" * 4_096 + b"\r\n") as url:
        assert post(url) == Answer(200, "7")


def test_a_broken_body_does_not_undo_its_status() -> None:
    with answering(HEAD, b"nonsense\r\n") as url:
        assert post(url).status == 200


@pytest.mark.parametrize(
    "again", [b"", b"H", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["silent", "slow", "informal"]
)
def test_a_receiver_has_so_much_time_in_all(again: bytes) -> None:
    first = [b"HTTP/1.1 200 OK\r\nX: "] if again == b"H" else []
    with (
        answering(*first, again=again) as url,
        pytest.raises(Unanswered, match=r"no answer within|not HTTP"),
    ):
        post(url, seconds=0.3)


def test_endless_headers_and_what_is_not_http() -> None:
    with (
        answering(b"HTTP/1.1 200 OK\r\n", again=b"X: " + b"y" * 8_000 + b"\r\n") as url,
        pytest.raises(Unanswered, match="not HTTP"),
    ):
        post(url)
    with answering(b"220 mail.example ESMTP\r\n") as url, pytest.raises(Unanswered, match="HTTP"):
        post(url)


def test_nobody_there() -> None:
    with pytest.raises(Unanswered, match="could not connect"):
        post("http://127.0.0.1:1/")


@pytest.fixture
def authority(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server of hooks.example shows, and what trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hooks.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem, private = tmp_path / "cert.pem", tmp_path / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem, private)
    return server, ssl.create_default_context(cafile=str(pem))


def test_tls_is_checked_for_the_name(
    authority: tuple[ssl.SSLContext, ssl.SSLContext], names: dict[str, list[str]]
) -> None:
    server, trust = authority
    asked: list[str] = []
    server.sni_callback = lambda _, name, __: asked.append(name)  # type: ignore[assignment]
    names |= {"hooks.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]}
    with receiving(server) as receiver:
        port = receiver.url.rpartition(":")[2]
        assert post(f"https://hooks.example:{port}/", tls=trust).status == 204
        with pytest.raises(Unanswered, match="TLS: Hostname mismatch"):
            post(f"https://other.example:{port}/", tls=trust)
        with pytest.raises(Unanswered, match="TLS: self-signed"):
            post(f"https://hooks.example:{port}/")
        assert len(receiver.got) == 1
    assert asked == ["hooks.example", "other.example", "hooks.example"]


def test_an_ipv6_address_is_named_in_brackets() -> None:
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async def work() -> int:
        server = await asyncio.start_server(answer, "::1", 0)
        port = int(server.sockets[0].getsockname()[1])
        addresses = Addresses(networks("::1/128"))
        async with server:
            status = (await Poster(addresses).post(f"http://[::1]:{port}/", {}, b"")).status
        addresses.close()
        assert status == 204
        return port

    port = asyncio.run(work())
    assert f"\r\nHost: [::1]:{port}\r\n".encode() in asked[0]
