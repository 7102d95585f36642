"""Learns from gradio's replies where it has stored what a browser uploaded: nothing else may be added to a draft."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from typing import Any

from lib_ti.webui.images.uploads import UploadRegistry
from lib_ti.webui.security.replies import Scope, Send

OUR_QUERY = b"for=tinv"
"""In the address that our page uploads to, so that what it has not added can be deleted later, and nothing of the WebUI's."""


def is_upload(scope: Scope) -> bool:
    """Whether a request uploads files to gradio."""
    return scope["method"] == "POST" and str(scope["path"]).rstrip("/").endswith("/upload")


def watch_upload(scope: Scope, send: Send, uploads: UploadRegistry, all_ours: bool) -> Send:
    """A `send` that registers the paths in the reply before it is passed on. `all_ours`: no other page uploads here."""
    held: list[MutableMapping[str, Any]] = []  # a browser that has the whole reply may go on at once
    is_ours = all_ours or OUR_QUERY in scope.get("query_string", b"").split(b"&")

    async def send_watched(message: MutableMapping[str, Any]) -> None:
        held.append(message)
        if message["type"] == "http.response.start" or message.get("more_body"):
            return
        if held[0].get("status") == 200:
            for path in _paths(b"".join(part.get("body", b"") for part in held)):
                uploads.register(path, is_ours)
        for part in held:
            await send(part)
        held.clear()

    return send_watched


def _paths(reply: bytes) -> list[str]:
    try:
        paths = json.loads(reply)
    except ValueError:  # compressed, or no reply of gradio's
        return []
    return [path for path in paths if isinstance(path, str)] if isinstance(paths, list) else []
