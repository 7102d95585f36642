"""Guards everything that the standalone server answers."""

from __future__ import annotations

from typing import Any

from lib_ti.webui.images.uploads import UploadRegistry
from lib_ti.webui.security.body_limit import (
    MAX_CALL_BYTES,
    MAX_UPLOAD_BYTES,
    StreamLimit,
    announces_more,
    is_json,
    too_large,
)
from lib_ti.webui.security.login import LoginGate
from lib_ti.webui.security.replies import Receive, Scope, Send, hardened, refuse
from lib_ti.webui.security.request_check import AllowedHosts, refusal
from lib_ti.webui.security.route_guard import SAFE_METHODS, is_call, pass_call
from lib_ti.webui.security.served_files import may_be_served, requested_file, sandboxed
from lib_ti.webui.security.upload_watch import is_upload, watch_upload

REST_RUNS = "/tinv/v1/runs"
_UNUSED = (
    "/proxy=",
    "/stream/",
    "/dev/",
    "/component_server",
    "/custom_component",
    "/monitoring",
    "/call/",
    "/upload_progress",
)
"""What gradio answers too and this page does not need."""


class StandaloneGuard:
    """ASGI middleware around the whole server."""

    def __init__(self, app: Any, hosts: AllowedHosts, uploads: UploadRegistry, gate: LoginGate | None) -> None:
        """`gate`: the login, if there is one."""
        self._app, self._hosts, self._uploads, self._gate = app, hosts, uploads, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif reason := refusal(scope, self._hosts):
            await refuse(scope, receive, send, 403, reason)
        elif self._gate and not await self._gate.is_open_to(scope):
            await refuse(scope, receive, send, 401, "Log in first.")
        elif scope["type"] == "websocket":
            await self._app(scope, receive, send)
        elif scope["path"].startswith(_UNUSED):
            await refuse(scope, receive, send, 404, "There is nothing here.")
        elif (file := requested_file(scope["path"])) is not None:
            await self._serve_file(file, scope, receive, send)
        elif scope["method"] in SAFE_METHODS:
            await self._app(scope, receive, hardened(send))
        else:
            await self._accept_body(scope, receive, hardened(send))

    async def _serve_file(self, file: str, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in SAFE_METHODS and may_be_served(file):
            await self._app(scope, receive, sandboxed(send, file))
        else:
            await refuse(scope, receive, send, 404, "There is no such file.")

    async def _accept_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_login = scope["path"].rstrip("/") == "/login"
        if is_call(scope["path"]):
            await pass_call(self._app, scope, receive, send)
            return
        takes_pictures = is_upload(scope) or scope["path"].rstrip("/") == REST_RUNS
        limit = MAX_UPLOAD_BYTES if takes_pictures else MAX_CALL_BYTES
        if not (is_upload(scope) or is_login or is_json(scope)):
            await refuse(scope, receive, send, 415, "Send JSON, with Content-Type: application/json.")
        elif announces_more(scope, limit):
            await refuse(scope, receive, send, 413, too_large(limit))
        else:
            limited = StreamLimit(scope, receive, send, limit)
            reply = (
                watch_upload(scope, limited.send, self._uploads, all_ours=True) if is_upload(scope) else limited.send
            )
            application = self._gate.log_in if self._gate and is_login else self._app
            await limited.run(application, reply)
