"""Fetches a picture or a file that a client gave the address of, and nothing that is not on the open internet.

Server-side request forgery (OWASP): an address of this machine or its network must not be reached, be it written as a number,
hidden behind a name, or sent back by a redirect. A name is looked up once, every address that it has must be public, and the
connection goes to the very address that was checked, so that a name which changes in between gains nothing.
"""

import http.client
import ipaddress
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from mattoni.inputs import Attachment
from server.problems import ApiError

Resolve = Callable[[str, int], Sequence[str]]
_REDIRECTS = 3
_TIMEOUT_S = 10.0
_PIECE = 65536
# Addresses inside of which others hide: NAT64, 6to4, Teredo.
_TUNNELS = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))


def resolve(name: str, port: int) -> list[str]:
    """Every address of a name. Raises OSError, and UnicodeError for a name that none can have."""
    return [str(found[4][0]) for found in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)]


def is_public(address: str) -> bool:
    """Whether an address is on the open internet."""
    found = ipaddress.ip_address(address.split("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if any(found in tunnel for tunnel in _TUNNELS if tunnel.version == 6):
            return False
    return found.is_global and not found.is_multicast and not found.is_reserved


@dataclass(frozen=True)
class Fetcher:
    """Fetches within limits. `resolve` and `is_allowed` are arguments for tests, which have no internet."""

    most_bytes: int
    resolve: Resolve = resolve
    is_allowed: Callable[[str], bool] = is_public
    timeout_s: float = _TIMEOUT_S

    def fetch(self, url: str) -> Attachment:
        """The file at a http(s) address. Raises ApiError."""
        until = monotonic() + self.timeout_s
        here = url
        for _ in range(_REDIRECTS + 1):
            answer = self._get(here, until)
            if isinstance(answer, bytes):
                return Attachment(unquote(urlsplit(here).path).rsplit("/", 1)[-1] or "file", answer)
            here = urljoin(here, answer)
        raise _refused(url, f"it was sent on more than {_REDIRECTS} times")

    def _get(self, url: str, until: float) -> bytes | str:
        """The bytes, or where to look instead."""
        parts = _split(url)
        name = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            found = self.resolve(name, port)
        except (OSError, UnicodeError) as problem:
            raise _refused(url, "its name is not known") from problem
        if not found or not all(self.is_allowed(address) for address in found):
            raise _refused(url, "it is not on the open internet")
        try:
            return self._read(url, parts, found[0], port, until)
        except (OSError, http.client.HTTPException, ValueError) as problem:
            raise _refused(url, "it cannot be reached") from problem

    def _read(self, url: str, parts: SplitResult, address: str, port: int, until: float) -> bytes | str:
        connection = http.client.HTTPConnection(parts.hostname or "", port, timeout=self.timeout_s)
        plain = socket.create_connection((address, port), self.timeout_s)
        try:
            connection.sock = (
                ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname)
                if parts.scheme == "https"
                else plain
            )
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", target, headers={"User-Agent": "mattoni", "Accept-Encoding": "identity"})
            response = connection.getresponse()
            location = response.getheader("Location")
            if response.status in (301, 302, 303, 307, 308) and location:
                return location
            if response.status != 200:
                raise _refused(url, f"it answered {response.status}")
            read = bytearray()
            while piece := response.read(_PIECE):
                read += piece
                if len(read) > self.most_bytes:
                    raise _refused(url, f"it is larger than {self.most_bytes / 1e6:.0f} MB")
                if monotonic() > until:
                    raise _refused(url, f"it took longer than {self.timeout_s:.0f} s")
            return bytes(read)
        finally:
            plain.close()
            connection.close()


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # out of range: ValueError
    except ValueError as problem:
        raise _refused(url, "it is no address") from problem
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _refused(url, "only http and https are fetched")
    if parts.username is not None or parts.password is not None:
        raise _refused(url, "an address with a name and a password is not fetched")
    return parts


def _refused(url: str, why: str) -> ApiError:
    return ApiError(
        400, f"{url[:80]} was not fetched, as {why}: send the file itself as a data URL.", code="invalid_url"
    )
