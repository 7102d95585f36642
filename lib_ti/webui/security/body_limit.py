"""Bodies of requests: JSON where it has to be, and no larger than a limit."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from lib_ti.webui.security.authority import header
from lib_ti.webui.security.replies import JSON, Receive, Scope, Send, refuse

MAX_CALL_BYTES = 1 << 20
"""Of a call of the page: the form is a few kB."""
MAX_UPLOAD_BYTES = 101 << 20
"""Of an upload: a picture, and what frames it."""


def content_type(scope: Scope) -> str:
    """The media type of a request's body, without parameters."""
    return (header(scope, "content-type") or "").partition(";")[0].strip().lower()


def is_json(scope: Scope) -> bool:
    """Whether a body is announced as JSON, as no form and no page of another site can without a preflight."""
    return content_type(scope) == JSON


def too_large(limit: int) -> str:
    """The sentence about a body above the limit."""
    return f"The request is larger than {limit >> 20} MB."


class TooLarge(Exception):
    """A body is above its limit."""


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body. Raises TooLarge."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > limit:
            raise TooLarge
        if not message.get("more_body"):
            return bytes(body)


def announces_more(scope: Scope, limit: int) -> bool:
    """Whether a request says by its headers that its body is above the limit."""
    length = header(scope, "content-length")
    return length is not None and (not length.isdecimal() or int(length[:20]) > limit)


def replaying(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body which was read already, then what `receive` gives."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> MutableMapping[str, Any]:
        return pending.pop() if pending else await receive()

    return receive_again


class StreamLimit:
    """Lets a body pass up to a limit; beyond it the reply, whatever the application says to a body cut off, is 413."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        self._scope, self._receive, self._send, self._limit = scope, receive, send, limit
        self._size = 0
        self._is_exceeded = self._has_answered = False

    async def receive(self) -> MutableMapping[str, Any]:
        if self._is_exceeded:
            return {"type": "http.disconnect"}
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self._size > self._limit:
            self._is_exceeded = True
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if self._is_exceeded:
            await self._refuse_once()
            return
        self._has_answered = True
        await self._send(message)

    async def run(self, app: Any, send: Send) -> None:
        """Let an application answer the request by `send`, which ends in ours."""
        try:
            await app(self._scope, self.receive, send)
        except Exception:  # what it makes of a body cut off is no error of its own
            if not self._is_exceeded:
                raise
        await self._refuse_once()

    async def _refuse_once(self) -> None:
        if self._is_exceeded and not self._has_answered:
            self._has_answered = True
            await refuse(self._scope, self._receive, self._send, 413, too_large(self._limit))
