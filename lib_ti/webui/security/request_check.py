"""Whether a request may be answered: it has to name this server, and to come from a page of this server or from no page.

Three attacks are refused. A page of another site, or of another port, posts to us (the browser adds Origin, and mostly
Sec-Fetch-Site). It opens a websocket, which browsers do not restrict. Its owner lets the name of the page point to our address,
which makes it a page of ours to the browser (DNS rebinding): then Host is that name.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from lib_ti.webui.security.authority import Addressees, Authority, Origin, header, headers, ip_address

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
FOREIGN_PAGE = "This request comes from a page of another site; only this server's own page may send it."
_PRIVATE_SUFFIXES = (
    ".localhost", ".local", ".lan", ".home", ".internal", ".intranet", ".localdomain", ".home.arpa", ".fritz.box",
)  # fmt: skip
"""Names below them cannot be registered by strangers."""


class Names(Protocol):
    """The names that a server answers to."""

    def refusal(self, scope: Mapping[str, Any], addressees: Addressees) -> str | None:
        """Why a request to these is not answered; None if it is."""
        ...

    def allows_origin(self, origin: str) -> bool:
        """Whether pages of another site may use this server."""
        ...


def refusal(scope: Mapping[str, Any], names: Names) -> str | None:
    """The sentence that a request is refused with; None if it may be answered."""
    addressees = Addressees.of(scope)
    if addressees.host is None or addressees.is_malformed:
        return "The request does not say by one valid Host header which server it is for."
    if reason := names.refusal(scope, addressees):
        return reason
    origins = list(headers(scope, "origin"))
    if origins and all(names.allows_origin(text) for text in origins):
        return None
    for text in origins:
        origin = Origin.parse(text)
        if origin is None or not any(origin.is_of(authority) for authority in addressees.named):
            return FOREIGN_PAGE
    sites = set(headers(scope, "sec-fetch-site"))
    return FOREIGN_PAGE if sites & {"cross-site", "same-site"} and not _opens_page(scope) else None


def _opens_page(scope: Mapping[str, Any]) -> bool:
    """Whether somebody followed a link to the page from elsewhere."""
    return (
        scope.get("method") == "GET"
        and scope["path"] in ("", "/")
        and header(scope, "sec-fetch-mode") == "navigate"
        and header(scope, "sec-fetch-dest") in ("document", None)
    )


@dataclass(frozen=True)
class AllowedHosts:
    """The names of the standalone server: its own, and those that it was told.

    Attributes:
        extra: of `--allow-host`: names and addresses; with a port, pages at that port may use the server too, for proxies that
            do not pass the port on.
        listens: whether other computers reach it.
    """

    extra: Collection[Authority] = ()
    listens: bool = False
    own_names: Collection[str] = field(init=False, default=())

    def __post_init__(self) -> None:
        if self.listens:
            object.__setattr__(self, "own_names", own_names())

    def refusal(self, scope: Mapping[str, Any], addressees: Addressees) -> str | None:
        for authority in addressees.named:
            if not self._admits(authority.host, scope):
                return (
                    f"This server is not known by the name {authority.host}. Start it with --allow-host "
                    f"{authority.host} if that is its name."
                )
        return None

    def allows_origin(self, origin: str) -> bool:
        parsed = Origin.parse(origin)
        return bool(parsed) and any(entry.port and entry == parsed.authority for entry in self.extra if parsed)

    def _admits(self, host: str, scope: Mapping[str, Any]) -> bool:
        if host in LOOPBACK or host in self.own_names or any(entry.host == host for entry in self.extra):
            return True
        address = ip_address((scope.get("server") or ("",))[0] or "")
        return self.listens and address is not None and host == str(address)  # the one that the client has reached


def own_names() -> frozenset[str]:
    """The names that other computers of the network call this one by."""
    name = socket.gethostname().lower()
    try:
        full_name = socket.getfqdn().lower()
    except OSError:
        full_name = name
    short = name.partition(".")[0]
    return frozenset({name, full_name, short, f"{short}.local"} - {""})


@dataclass(frozen=True)
class HostNames:
    """The names of a WebUI that the extension runs in, which itself answers to any.

    Only names that a stranger can register can be rebound, and no page at an address of TLS can: what presents itself as one
    has the certificate. A login makes rebinding useless, because the browser sends no cookie of ours to the other name.

    Attributes:
        extra: that the WebUI was told, or that its settings name.
        has_login: whether the route asks for a password.
        origins, origin_pattern: the other sites whose pages the WebUI allows (`--cors-allow-origins`).
    """

    extra: Collection[str] = ()
    has_login: bool = False
    origins: Collection[str] = ()
    origin_pattern: str | None = None

    def refusal(self, scope: Mapping[str, Any], addressees: Addressees) -> str | None:
        host = addressees.host  # not X-Forwarded-Host: what reaches us by a local name comes through the owner's proxy
        if host is None or self.has_login or self._admits(host.host) or self._is_over_tls(scope, addressees):
            return None
        return (
            f"This WebUI is not known by the name {host.host}. Add it in Settings › Textual Inversion › Names of this "
            "WebUI, or open the page by its IP address."
        )

    def allows_origin(self, origin: str) -> bool:
        if "*" in self.origins or origin in self.origins:
            return True
        return bool(self.origin_pattern) and re.fullmatch(self.origin_pattern or "", origin) is not None

    def _admits(self, host: str) -> bool:
        is_local = ip_address(host) is not None or "." not in host or host.endswith(_PRIVATE_SUFFIXES)
        return is_local or host in {name.lower() for name in self.extra}

    def _is_over_tls(self, scope: Mapping[str, Any], addressees: Addressees) -> bool:
        """Browsers alone set these two, and the second only where the page came over TLS or from this computer."""
        origin = Origin.parse(header(scope, "origin") or "")
        own = origin is not None and any(origin.is_of(authority) for authority in addressees.named)
        return (own and origin is not None and origin.scheme == "https") or header(scope, "sec-fetch-site") is not None
