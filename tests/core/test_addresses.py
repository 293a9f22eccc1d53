import asyncio
import contextlib
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.addresses import MAX_URL, Addresses, Refused, is_public, networks, parse

# IANA's registries of special-purpose addresses, the multicast blocks, and what clouds use.
INSIDE_V4 = networks(
    "0.0.0.0/8,10.0.0.0/8,100.64.0.0/10,127.0.0.0/8,169.254.0.0/16,172.16.0.0/12,192.0.0.0/24,"
    "192.0.2.0/24,192.88.99.0/24,192.168.0.0/16,198.18.0.0/15,198.51.100.0/24,203.0.113.0/24,"
    "224.0.0.0/4,240.0.0.0/4,255.255.255.255/32,168.63.129.16/32,169.254.169.254/32"
)
INSIDE_V6 = networks(
    "::1/128,::/128,::/96,100::/64,64:ff9b:1::/48,2001::/32,2001:db8::/32,2002::/16,3fff::/20,"
    "5f00::/16,fc00::/7,fd00:ec2::254/128,fe80::/10,fec0::/10,ff00::/8,4000::/3"
)


def drawn(choices: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(choices).flatmap(lambda network: st.ip_addresses(network=network))


@given(drawn(INSIDE_V4))
def test_no_special_ipv4_address_is_public_in_any_dress(address: IPv4Address) -> None:
    number = int(address)
    assert not is_public(address)
    for dressed in (
        IPv6Address(f"::ffff:{address}"),
        IPv6Address(f"64:ff9b::{address}"),  # NAT64
        IPv6Address(number),  # IPv4-compatible
        IPv6Address((0x2002 << 112) | (number << 80) | 1),  # 6to4
        IPv6Address((0x20010000 << 96) | (number ^ 0xFFFF_FFFF)),  # Teredo
    ):
        assert not is_public(dressed), dressed


@given(drawn(INSIDE_V6))
def test_no_special_ipv6_address_is_public(address: IPv6Address) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"],
)
def test_public_addresses_are(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://example.com/", "https://"),
        ("file:///etc/passwd", "https://"),
        ("//example.com/", "https://"),
        ("https://", "host"),
        ("https:///path", "host"),
        ("https://user@example.com/", "user name"),
        ("https://user:pass@example.com/", "user name"),
        ("https://@example.com/", "user name"),
        ("https://example.com:0/", "port"),
        ("https://example.com:99999/", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https://example.com\\@127.0.0.1/", "backslash"),
        ("https://exämple.com/", "ASCII"),
        ("https://example.com/ x", "ASCII"),
        ("https://example.com/\r\nHost: x", "ASCII"),
        ("https://example.com/#x", "fragment"),
        (f"https://{'a' * 254}/", "host"),
        ("https://example.com/" + "x" * MAX_URL, str(MAX_URL)),
    ],
)
def test_what_is_no_callback_url(url: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        parse(url)


def test_what_is_one() -> None:
    assert parse("https://Example.com/@me?x=%20") == ("example.com", 443, False)
    assert parse("http://[::1]:8080") == ("::1", 8080, True)


@given(st.text(max_size=60), st.sampled_from(["", "https://", "https://["]))
def test_any_text_is_read_or_refused(text: str, before: str) -> None:
    with contextlib.suppress(Refused):
        assert parse(before + text).host


def resolve(addresses: Addresses, host: str, plain: bool = False) -> list[str]:
    try:
        return asyncio.run(addresses.resolve(host, 443, plain))
    finally:
        addresses.close()


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "10.0.0.1"),
        *("::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "localhost", "169.254.169.254"),
    ],
)
def test_names_and_numbers_of_this_machine_are_refused(host: str) -> None:
    with pytest.raises(Refused, match="not public"):
        resolve(Addresses(), host)


def test_one_bad_address_of_a_name_spoils_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(host: bytes, port: int, **_: Any) -> Any:
        found = ["93.184.216.34", "10.0.0.1"] if host == b"mixed" else ["93.184.216.34"] * 2
        return [(2, 1, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    assert resolve(Addresses(), "good") == ["93.184.216.34"]
    with pytest.raises(Refused, match="not public"):
        resolve(Addresses(), "mixed")


@pytest.mark.parametrize("host", ["no.such.name.invalid", "a" * 64 + ".invalid", "a..b", "."])
def test_what_can_not_be_found_is_refused(host: str) -> None:
    with pytest.raises(Refused, match="can't be found"):
        resolve(Addresses(), host)


def test_plain_http_reaches_the_operators_networks_only() -> None:
    with pytest.raises(Refused, match="https://"):
        resolve(Addresses(networks("10.0.0.0/8")), "8.8.8.8", plain=True)
    assert resolve(Addresses(), "8.8.8.8") == ["8.8.8.8"]
    for host in ("127.0.0.1", "::ffff:127.0.0.1"):
        assert resolve(Addresses(networks("127.0.0.0/8")), host, plain=True) == [host]
    with pytest.raises(Refused):
        resolve(Addresses(networks("127.0.0.0/8")), "::1")


def test_networks_are_read_from_text() -> None:
    assert networks("") == ()
    assert [str(n) for n in networks("10.0.0.0/8, fd00::/8,127.0.0.1")] == [
        *("10.0.0.0/8", "fd00::/8", "127.0.0.1/32")
    ]
    with pytest.raises(ValueError, match="host bits"):
        networks("10.0.0.1/8")
