"""Files by http and https from addresses that a stranger wrote, such as those of a table.

A table must not make this machine ask for what only this machine can reach: of each address, each
redirect among them, the host is resolved here, and what is connected to is a public address. So
the name is not asked for twice, and no proxy of the environment, which would resolve it itself, is
used.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import re
import socket
import ssl
import time
from contextlib import suppress
from functools import cache
from threading import Timer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from contrastive.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

REDIRECTS = 5  # that are followed
TRY_WITHIN = 30.0  # seconds, for one try with its redirects
SILENT = 10.0  # seconds without a byte
RETRY_AFTER = (0.5, 2.0)  # seconds before the second and the third try
PIECE = 1 << 16
PASSES = {408, 425, 429, 500, 502, 503, 504}  # what a server answers that may do better soon
MOVED = {301, 302, 303, 307, 308}
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
HOLD_IPV4 = [
    ipaddress.ip_network(each)
    for each in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96", "::ffff:0:0:0/96")
]
"""Addresses of IPv6 that end with one of IPv4: of NAT64, compatible and translated ones."""
SAFE = "%/:=&?~#+!$,;'@()*[]"  # letters of an address that stay as they are
_ODD = re.compile(r"[\x00-\x1f\x7f]")


class FetchError(Exception):
    """A file could not be fetched; says why, without what is secret in its address."""

    def __init__(self, message: str, *, passes: bool = False) -> None:
        """Note whether another try may do better."""
        super().__init__(message)
        self.passes = passes


class Fetched(NamedTuple):
    """What a server gave."""

    content: bytes
    kind: str
    """Its Content-Type."""
    whole: bool
    """Whether the server said where it ends, so that it is known to be whole."""


def shown(address: str) -> str:
    """Return an address without what may be secret in it: a user, a password, a query."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "an address that cannot be read"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" + ("?..." if parts.query else "")


def fetch(
    address: str, check: Callable[[Fetched], None], *, most: int, private: bool = False
) -> bytes:
    """Return what a server holds at an address, after three tries at most.

    Args:
        address: ``http://`` or ``https://``.
        check: raises ``FetchError`` if it is not what it should be.
        most: bytes.
        private: take it from addresses that are not public, too, such as 10.0.0.1.

    Raises:
        FetchError: it could not be fetched.
    """
    for pause in (*RETRY_AFTER, None):
        try:
            found = _tried(address, most, private=private)
            check(found)
        except FetchError as error:
            if pause is None or not error.passes:
                raise
        else:
            return found.content
        time.sleep(pause)
    raise AssertionError


def _tried(address: str, most: int, *, private: bool) -> Fetched:
    deadline = time.monotonic() + TRY_WITHIN
    first = address
    for _ in range(REDIRECTS + 1):
        parts = _parts(address, "" if address == first else f"leads to {shown(address)}: ")
        connection = _Connection(parts, deadline, private=private)
        late = Timer(deadline - time.monotonic(), connection.end)  # of a server that sends drops
        late.daemon = True
        late.start()
        try:
            found = _answer(connection, parts, most, deadline)
        except FetchError as error:
            if address == first:
                raise
            msg = f"leads to {shown(address)}: {error}"
            raise FetchError(msg, passes=error.passes) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.check(deadline)
            raise _explained(error) from error
        finally:
            late.cancel()
            connection.close()
        if isinstance(found, Fetched):
            return found
        address = _joined(address, found)
    msg = f"is redirected more than {REDIRECTS} times"
    raise FetchError(msg)


def _joined(address: str, place: str) -> str:
    """Return where an answer sends us."""
    try:
        return urljoin(address, place)
    except ValueError:
        return place  # which is no address, as is told


def _parts(address: str, where: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        odd = parts.port == 0
    except ValueError:
        msg = f"{where}is no address"
        raise FetchError(msg) from None
    if parts.scheme.lower() not in ("http", "https"):
        msg = f"{where}is no address of http or https"
        raise FetchError(msg)
    if not parts.hostname or odd or _ODD.search(address):
        msg = f"{where}is no address"
        raise FetchError(msg)
    if "@" in parts.netloc:
        msg = f"{where}has a user or a password in it; leave it out"
        raise FetchError(msg)
    return parts


def _answer(
    connection: _Connection, parts: SplitResult, most: int, deadline: float
) -> Fetched | str:
    """Return what the server gives, or where it sends us."""
    path = quote(parts.path or "/", safe=SAFE)
    path += f"?{quote(parts.query, safe=SAFE)}" if parts.query else ""
    headers = {
        "User-Agent": f"contrastive-kit/{__version__}",
        "Accept": "image/*,*/*;q=0.5",
        "Accept-Encoding": "identity",
    }
    connection.request("GET", path, headers=headers)
    with connection.getresponse() as answer:
        if answer.status in MOVED and (place := answer.getheader("Location")):
            return place
        if answer.status != http.client.OK:
            reason = f"the server answers {answer.status} {answer.reason}".strip()[:100]
            raise FetchError(reason, passes=answer.status in PASSES)
        return _content(connection, answer, most, deadline)


def _content(
    connection: _Connection, answer: http.client.HTTPResponse, most: int, deadline: float
) -> Fetched:
    length = answer.length  # as the server says; None if it does not
    if length is not None and length > most:
        msg = f"has {length:,} bytes, {most:,} at most are read"
        raise FetchError(msg)
    pieces: list[bytes] = []
    got = 0
    while piece := answer.read1(PIECE):
        pieces.append(piece)
        got += len(piece)
        if got > most:
            msg = f"has more than {most:,} bytes"
            raise FetchError(msg)
        connection.check(deadline)
    connection.check(deadline)
    if length is not None and got < length:
        msg = f"ended after {got:,} of {length:,} bytes"
        raise FetchError(msg, passes=True)
    chunked = "chunked" in str(answer.getheader("Transfer-Encoding")).lower()
    kind = str(answer.getheader("Content-Type") or "").partition(";")[0].strip()
    return Fetched(b"".join(pieces), kind[:60], length is not None or chunked)


class _Connection(http.client.HTTPConnection):
    """A connection to a host whose address was looked at."""

    def __init__(self, parts: SplitResult, deadline: float, *, private: bool) -> None:
        self.secure = parts.scheme.lower() == "https"
        port = parts.port or (443 if self.secure else 80)
        super().__init__(str(parts.hostname), port)
        self.deadline, self.private = deadline, private
        self.connected: socket.socket | None = None
        """Also when the response alone holds it."""

    def connect(self) -> None:
        """Connect to the first address of the host that may be and can be connected to."""
        try:
            name = self.host if ":" in self.host else self.host.encode("idna").decode()
            found = socket.getaddrinfo(name, self.port, type=socket.SOCK_STREAM)
        except UnicodeError:
            msg = f"{self.host!r:.60} is no name of a host"
            raise FetchError(msg) from None
        except socket.gaierror as error:
            msg = f"the host {self.host:.60} is not found"
            raise FetchError(msg, passes=error.errno == socket.EAI_AGAIN) from None
        failed: OSError | None = None
        refused = ""
        for family, kind, protocol, _, place in found:
            if not self.private and not is_public(str(place[0])):
                refused = str(place[0])
                continue
            connected = socket.socket(family, kind, protocol)
            try:
                connected.settimeout(self._left())
                connected.connect(place)
                if self.secure:
                    connected = _context().wrap_socket(connected, server_hostname=name)
                connected.settimeout(self._left())
            except OSError as error:
                connected.close()
                failed = error
                continue
            self.sock = self.connected = connected
            return
        if failed:
            raise failed
        what = f"is at a private address ({refused})"
        msg = f"{what}, which is not fetched; private: true fetches it, too"
        raise FetchError(msg)

    def end(self) -> None:
        """Have nothing more come."""
        if self.connected:
            with suppress(OSError):
                self.connected.shutdown(socket.SHUT_RDWR)

    def check(self, deadline: float) -> None:
        """Insist on time that is left.

        Raises:
            FetchError: there is none.
        """
        if (left := deadline - time.monotonic()) <= 0:
            msg = f"was not there within {TRY_WITHIN:.0f} s"
            raise FetchError(msg, passes=True)
        if self.connected:
            with suppress(OSError):  # all has come, and it is closed
                self.connected.settimeout(min(SILENT, left))

    def _left(self) -> float:
        self.check(self.deadline)
        return min(SILENT, max(self.deadline - time.monotonic(), 0.01))


def is_public(place: str) -> bool:
    """Whether an address of a machine is one of the public internet.

    Those that hold another one, as IPv4 is written in IPv6, are judged by that, too.

    Example:
        >>> is_public("93.184.216.34"), is_public("::ffff:10.0.0.1")
        (True, False)
    """
    try:
        found = ipaddress.ip_address(place.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inside = found.ipv4_mapped or found.sixtofour
        if any(found in network for network in HOLD_IPV4):
            inside = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inside is not None:
            return is_public(str(inside))
        if found.is_site_local:
            return False
    return found.is_global and not found.is_multicast


@cache
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()


def _explained(error: Exception) -> FetchError:
    """Say what an error of the network means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return FetchError(f"its certificate is not trusted: {error.verify_message}")
    if isinstance(error, TimeoutError):
        return FetchError(f"no answer within {SILENT:.0f} s{_of_proxies()}", passes=True)
    if isinstance(error, http.client.IncompleteRead):
        return FetchError("ended before it was whole", passes=True)
    if isinstance(error, OSError):
        why = error.strerror or type(error).__name__
        return FetchError(f"cannot be fetched: {why}{_of_proxies()}", passes=True)
    what = type(error).__name__
    if isinstance(error, http.client.HTTPException):
        return FetchError(f"the server answers what is no HTTP ({what})", passes=True)
    return FetchError("is no address")


def _of_proxies() -> str:
    """Say that proxies are not used, where there are some."""
    names: Any = {name.lower() for name, value in os.environ.items() if value}
    return "; proxies of the environment are not used" if names & {*PROXIES} else ""
