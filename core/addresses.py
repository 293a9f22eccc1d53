"""Which addresses the service may call on a client's behalf: public ones, by default no other.

A callback URL is a client's text, and the service stands where the client does not: inside the
operator's network. So what is asked about is the address that is connected to, never the name:
a name may resolve to something else a moment later. IANA's special-purpose registries
(RFC 6890) say what is not public; of IPv6 only global unicast, 2000::/3, is let through.
"""

import asyncio
import ipaddress
import re
import socket
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL = 2_048
_LOOKUPS = 64  # names looked up at once; the system's resolver blocks a thread for each, ...
_LOOKUPS_EACH = 12  # ... so a tenant whose name server is silent gets no more of them
_MOST_ADDRESSES = 16  # of one name
_PLAIN = re.compile(r"[\x21-\x5b\x5d-\x7e]+")  # readers of URLs disagree about backslashes
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# What `is_global` lets through, of this Python or of an older one.
_NOT_PUBLIC: tuple[Network, ...] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata service lives in it
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # Azure's metadata service
        "224.0.0.0/4",
        "240.0.0.0/4",
        "2001::/23",  # protocol assignments, Teredo among them, which embeds IPv4
        "2001:db8::/32",
        "2002::/16",  # 6to4, which embeds IPv4
        "3fff::/20",  # documentation
    )
)


class Refused(ValueError):
    """A URL or an address that may not be called; the message follows the field's name."""


class Target(NamedTuple):
    """Whom a URL would call."""

    host: str
    port: int
    plain: bool  # http, not https


def parse(url: str) -> Target:
    """Read a callback URL.

    Raises:
        Refused: it is none, or holds what a callback URL may not.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise Refused("is not a URL") from None
    if len(url) > MAX_URL or not _PLAIN.fullmatch(url):
        raise Refused(f"must be at most {MAX_URL} printable ASCII characters without backslashes")
    if parts.scheme not in ("http", "https"):
        raise Refused("must begin with https:// (or http://, to a network of the operator's)")
    if "@" in parts.netloc:
        raise Refused("must hold no user name or password; events are signed instead")
    if not host or len(host) > 253 or port == 0:
        raise Refused("must name a host, and a port between 1 and 65535 if any")
    if "#" in url:
        raise Refused("must hold no fragment (#): it would not be sent")
    plain = parts.scheme == "http"
    return Target(host, port or (80 if plain else 443), plain)


def networks(text: str) -> tuple[Network, ...]:
    """Read networks joined by commas, such as ``10.1.0.0/16,fd00::/8``.

    Raises:
        ValueError: one is none, or has bits set behind its mask.
    """
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


class Addresses:
    """Looks names up and refuses what may not be called.

    Args:
        allow: networks of the operator's own that may be called too, by plain http even.
    """

    def __init__(self, allow: Sequence[Network] = ()) -> None:
        self._allow = allow
        self._lookups = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="lookup")
        self._busy: Counter[str] = Counter()
        self._lock = threading.Lock()

    def close(self) -> None:
        """End, without waiting for names that are being looked up."""
        self._lookups.shutdown(wait=False, cancel_futures=True)

    async def resolve(
        self, host: str, port: int, plain: bool, whose: str | None = None
    ) -> list[str]:
        """Return the addresses of a host, all of which may be called.

        Args:
            plain: it is for http, not https.
            whose: the tenant that asks, if its look-ups are to be bounded.

        Raises:
            Refused: one of them may not, or there is none, or too many are looked up already.
        """
        try:
            # As bytes: the name is ASCII already, and Python's own IDNA would choke on some.
            found = await asyncio.wrap_future(self._look_up(host.encode("ascii"), port, whose))
        except (OSError, UnicodeError):
            raise Refused("names a host that can't be found at present") from None
        for address in found:
            self.check(address, plain)
        return found[:_MOST_ADDRESSES]

    def _look_up(self, host: bytes, port: int, whose: str | None) -> Future[list[str]]:
        if whose is None:
            return self._lookups.submit(_lookup, host, port)
        with self._lock:
            if self._busy[whose] >= _LOOKUPS_EACH:
                raise Refused("can't be looked up while so many others are; try again")
            self._busy[whose] += 1
        future = self._lookups.submit(_lookup, host, port)
        # Not when the wait for it is over: the thread is busy for longer than that.
        future.add_done_callback(lambda _: self._done(whose))
        return future

    def _done(self, whose: str) -> None:
        with self._lock:
            self._busy[whose] -= 1
            if not self._busy[whose]:
                del self._busy[whose]

    def check(self, address: str, plain: bool) -> None:
        """Refuse an address that may not be called.

        Raises:
            Refused: without saying which address it is: that is the operator's business.
        """
        number = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
        if any(number in network for network in self._allow):
            return
        if not is_public(number):
            raise Refused(
                "leads to an address that is not public (loopback, private, link-local and the "
                "like); the operator can let own networks through with HYPERFORGET_WEBHOOK_ALLOW"
            )
        if plain:
            raise Refused("must begin with https://: http:// reaches the operator's networks only")


def is_public(address: Address) -> bool:
    """Tell whether an address is one of the public Internet's, and of nothing else."""
    number = _unwrapped(address)
    if isinstance(number, ipaddress.IPv6Address) and number not in _GLOBAL_UNICAST:
        return False
    return number.is_global and not any(number in network for network in _NOT_PUBLIC)


def _unwrapped(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address


def _lookup(host: bytes, port: int) -> list[str]:
    """Return the addresses of a name, in the system's order, each once."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
