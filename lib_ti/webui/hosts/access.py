"""How a WebUI is reached, by its own settings: what our routes in it answer to follows from them."""

from __future__ import annotations

import re
import socket
from importlib import import_module
from typing import Any

from lib_ti.webui.hosts import host_options
from lib_ti.webui.security.authority import Authority
from lib_ti.webui.security.request_check import HostNames


def names(is_rest: bool) -> HostNames:
    """The names that a route answers to. `is_rest`: it is one of the REST calls, which have a password of their own."""
    shared: Any = import_module("modules.shared")
    flags, demo = shared.cmd_opts, getattr(shared, "demo", None)
    has_login = bool(getattr(flags, "api_auth", None)) if is_rest else getattr(demo, "auth", None) is not None
    own = [getattr(flags, "server_name", None), getattr(demo, "share_url", None), socket.gethostname()]
    texts = [*own, *re.split(r"[\s,;]+", str(host_options.option_value(host_options.NAMES)))]
    origins = [origin.strip() for origin in (getattr(flags, "cors_allow_origins", None) or "").split(",")]
    return HostNames(
        extra=frozenset(host for text in texts if text and (host := _host(str(text)))),
        has_login=has_login,
        origins=frozenset(filter(None, origins)),
        origin_pattern=getattr(flags, "cors_allow_origins_regex", None),
    )


def _host(text: str) -> str:
    """The host in a name or an address such as https://abc.gradio.live."""
    authority = Authority.parse(re.sub(r"^\w+://|/.*$", "", text.strip()))
    return authority.host if authority else ""
