"""Guards the extension's own routes in a WebUI; the WebUI's pages and routes are left to the WebUI."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from lib_ti.webui.images.uploads import UploadRegistry
from lib_ti.webui.security import exchange, replies
from lib_ti.webui.security.body_limit import (
    MAX_CALL_BYTES,
    TooLarge,
    announces_more,
    is_json,
    read_body,
    replaying,
    too_large,
)
from lib_ti.webui.security.replies import Receive, Scope, Send, refuse
from lib_ti.webui.security.request_check import Names, refusal
from lib_ti.webui.security.upload_watch import is_upload, watch_upload

_CALL = re.compile(r".*/run/tinv/?", re.DOTALL)  # below any prefix: a WebUI may be served in a subfolder
_REST = re.compile(r".*/tinv/v1(/.*)?", re.DOTALL)
SAFE_METHODS = ("GET", "HEAD")


def is_call(path: str) -> bool:
    """Whether a path is the one that the page calls actions by."""
    return _CALL.fullmatch(path) is not None


async def pass_call(app: Any, scope: Scope, receive: Receive, send: Send) -> None:
    """Hand a call of the page, which names and origin were checked of, to gradio: if it is JSON, and small."""
    if scope["method"] != "POST" or not is_json(scope):
        await refuse(scope, receive, send, 415, "Send JSON, with Content-Type: application/json.")
        return
    try:
        if announces_more(scope, MAX_CALL_BYTES):
            raise TooLarge
        body = await read_body(receive, MAX_CALL_BYTES)
    except TooLarge:
        await refuse(scope, receive, send, 413, too_large(MAX_CALL_BYTES))
        return
    checked = exchange.begin()
    await app(scope, replaying(body, receive), replies.with_status(send, lambda: checked.status))


class RouteGuard:
    """ASGI middleware for a WebUI's application.

    `names` is called for each request with whether it is one of the REST calls: settings may change meanwhile.
    """

    def __init__(self, app: Any, names: Callable[[bool], Names], uploads: UploadRegistry) -> None:
        self._app, self._names, self._uploads = app, names, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        is_rest = _REST.fullmatch(path) is not None
        if scope["type"] == "http" and is_upload(scope):
            plain = {**scope, "headers": [(k, v) for k, v in scope["headers"] if k.lower() != b"accept-encoding"]}
            await self._app(plain, receive, watch_upload(scope, send, self._uploads, all_ours=False))
            return
        if scope["type"] != "http" or not (is_rest or is_call(path)):
            await self._app(scope, receive, send)
            return
        if reason := refusal(scope, self._names(is_rest)):
            await refuse(scope, receive, send, 403, reason)
        elif is_rest:
            await self._app(scope, receive, replies.hardened(send))
        else:
            await pass_call(self._app, scope, receive, replies.hardened(send))


def install(app: Any, names: Callable[[bool], Names], uploads: UploadRegistry) -> None:
    """Put a guard around a WebUI's application, which is running already: as the WebUIs themselves add middleware."""
    from starlette.middleware import Middleware

    app.user_middleware.insert(0, Middleware(RouteGuard, names=names, uploads=uploads))
    app.middleware_stack = None
    app.middleware_stack = app.build_middleware_stack()
