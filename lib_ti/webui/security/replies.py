"""Replies that a guard sends itself, and headers that it adds to those of others."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HARDENING = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"same-origin"),
)
FRAME_ANCESTORS = b"frame-ancestors 'self'"
JSON = "application/json"


async def refuse(scope: Scope, receive: Receive, send: Send, status: int, message: str, retry_after_s: int = 0) -> None:
    """Answer a request with a sentence: {"error": ...}, or plain text to who opens the page; close a websocket."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    is_page = scope["method"] == "GET" and scope["path"] in ("", "/")
    body = (message if is_page else json.dumps({"error": message})).encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8" if is_page else JSON.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *([(b"retry-after", str(retry_after_s).encode())] if retry_after_s else []),
    ]
    await hardened(send)({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def hardened(send: Send, content_policy: bytes = FRAME_ANCESTORS, more: tuple[tuple[bytes, bytes], ...] = ()) -> Send:
    """A `send` that adds the headers by which browsers keep a reply from other sites and its content from guesses."""
    added = (*HARDENING, (b"content-security-policy", content_policy), *more)
    names = {name for name, _ in added}

    async def send_hardened(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message.get("headers") or () if name.lower() not in names]
            message = {**message, "headers": [*kept, *added]}
        await send(message)

    return send_hardened


def with_status(send: Send, chosen: Callable[[], int | None]) -> Send:
    """A `send` that replaces the status of a reply by `chosen()`, where that is not None."""

    async def send_with_status(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "status": chosen() or message["status"]}
        await send(message)

    return send_with_status
