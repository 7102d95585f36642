"""The names that a request carries: of the server it was sent to, and of the page that sent it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::(\d{1,5}))?", re.IGNORECASE)
_ORIGIN = re.compile(r"(https?)://([^/?#@\s]+)/?", re.IGNORECASE)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


@dataclass(frozen=True)
class Authority:
    """A host, in lower case, and its port; the port is empty where the default one is meant."""

    host: str
    port: str = ""

    @classmethod
    def parse(cls, text: str) -> Authority | None:
        """The authority in a Host header ("localhost:7870", "[::1]"); None if it is none."""
        match = _AUTHORITY.fullmatch(text.strip())
        if not match:
            return None
        host = match[1].lower().removesuffix(".").strip("[]")
        address = ip_address(host)
        return cls(str(address) if address else host, (match[2] or "").lstrip("0")) if host else None

    def is_at(self, other: Authority, scheme: str) -> bool:
        """Whether both are the same server, where `self` is reached by `scheme` and a proxy may end TLS before `other`."""
        ports = {"", _DEFAULT_PORTS[scheme]}
        same_port = self.port == other.port or (self.port in ports and other.port in ports)
        return self.host == other.host and same_port


@dataclass(frozen=True)
class Origin:
    """The page that sent a request."""

    scheme: str
    authority: Authority

    @classmethod
    def parse(cls, text: str) -> Origin | None:
        """The origin in a header; None for "null" and anything else that is not a page on a web server."""
        match = _ORIGIN.fullmatch(text.strip())
        authority = Authority.parse(match[2]) if match else None
        return cls(match[1].lower(), authority) if match and authority else None

    def is_of(self, authority: Authority) -> bool:
        """Whether the page came from that server."""
        return self.authority.is_at(authority, self.scheme)


def ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a host name is written as; None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def header(scope: Mapping[str, Any], name: str) -> str | None:
    """A request's header; None if it has none, the first of several."""
    return next(headers(scope, name), None)


def headers(scope: Mapping[str, Any], name: str) -> Iterator[str]:
    """All values of a request's header."""
    wanted = name.lower().encode()
    return (value.decode("latin-1") for key, value in scope.get("headers") or () if key.lower() == wanted)


@dataclass(frozen=True)
class Addressees:
    """The servers that a request names.

    Attributes:
        host: of the Host header; None if it is missing, malformed or there are several.
        forwarded: what a proxy says it was called by (X-Forwarded-Host); a page cannot set it without asking first.
        is_malformed: whether X-Forwarded-Host is there but is none.
    """

    host: Authority | None
    forwarded: Authority | None
    is_malformed: bool

    @classmethod
    def of(cls, scope: Mapping[str, Any]) -> Addressees:
        hosts = list(headers(scope, "host"))
        forwarded = header(scope, "x-forwarded-host")
        outermost = Authority.parse(forwarded.split(",")[0]) if forwarded else None
        return cls(Authority.parse(hosts[0]) if len(hosts) == 1 else None, outermost, bool(forwarded) and not outermost)

    @property
    def named(self) -> list[Authority]:
        return [authority for authority in (self.host, self.forwarded) if authority]
