"""The web application around the standalone page: our scripts and style, a password, and a guard around everything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import FileResponse, Response

import lib_ti
from lib_ti.webui.api import rest
from lib_ti.webui.security.login import LoginGate, password_check
from lib_ti.webui.security.request_check import AllowedHosts
from lib_ti.webui.service import TrainingService
from lib_ti.webui.standalone.guard import StandaloneGuard
from lib_ti.webui.standalone.page import supported_arguments

STATIC = "tinv-static"
STYLE = """<style>
#html_info_txt2img .wrap { display: none; } /* the gallery shows the progress already */
button.tool { align-self: end; max-width: 3em; }
.gradio-container button.primary { border-color: #c2410c; background: #c2410c; color: #fff; }
.gradio-container button.primary:hover { border-color: #9a3412; background: #9a3412; }
@media (width < 768px) {
  .gradio-container { padding-inline: 0.5rem !important; }
  .gradio-container > .main { padding-inline: 0 !important; }
}
</style>"""
_EXTERNAL_RESOURCE = re.compile(
    rb"<script[^>]*\ssrc=[\"']https?://[^>]*>\s*</script>|<link[^>]*\shref=[\"']https?://[^>]*>"
)
"""What gradio's page loads from the network; removed, because no other computer has to know that the page was opened."""
_ROOT = Path(lib_ti.__file__).parent.parent


def create_app(
    service: TrainingService,
    page: Any,
    auth: tuple[str, str] | None = None,
    hosts: AllowedHosts | None = None,
    port: int = 0,
) -> Any:
    """The ASGI application that serves the page, with our scripts and style in it as the WebUIs insert them.

    Args:
        service: whose actions the page calls.
        page: gradio's Blocks.
        auth: user and password, asked for before anything else is shown.
        hosts: the names that the server answers to; this computer's own alone if None.
        port: that it listens on.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get(f"/{STATIC}/{{name}}")
    def static(name: str) -> Response:
        path = next((path for path in _static_files() if path.name == name), None)
        return FileResponse(path) if path else Response(status_code=404)

    rest.add_routes(app, service, None)  # the guard asks for the password
    check = password_check(*auth) if auth else None
    page.auth, page.auth_message, page.blocked_paths = check, None, service.private_paths()
    if port and hasattr(page._queue, "set_url"):  # else gradio 3.41 takes the address it calls itself by from a request
        page._queue.set_url(f"http://127.0.0.1:{port}/")
    arguments = supported_arguments(gr.mount_gradio_app, auth=check, blocked_paths=page.blocked_paths)
    app = gr.mount_gradio_app(app, page, "/", **arguments)
    gate = LoginGate(app.routes[-1].app) if auth else None
    return StandaloneGuard(HeadInserting(app), hosts or AllowedHosts(), service.uploads, gate)


def _static_files() -> list[Path]:
    return [*sorted((_ROOT / "javascript").glob("*.js")), *_ROOT.glob("style.css")]


def _head_html() -> bytes:
    """The elements that load our files; a changed file has another address, so no browser uses a cached old one."""
    elements = [STYLE]
    for path in _static_files():
        address = f"{STATIC}/{quote(path.name)}?{path.stat().st_mtime_ns}"
        is_style = path.suffix == ".css"
        elements.append(
            f'<link rel="stylesheet" href="{address}">' if is_style else f'<script src="{address}"></script>'
        )
    return "".join(elements).encode()


class HeadInserting:
    """ASGI middleware that inserts our files into the page."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        is_page = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] in ("", "/")
        await self._app(scope, receive, HeadInserter(send) if is_page else send)


class HeadInserter:
    """An ASGI `send` that inserts our files at the end of an HTML page's head."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self._start: Any = None
        self._body = b""

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = _EXTERNAL_RESOURCE.sub(b"", self._body).replace(b"</head>", _head_html() + b"</head>", 1)
        headers = [(k, v) for k, v in self._start["headers"] if k.lower() != b"content-length"]
        await self._send({**self._start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await self._send({"type": "http.response.body", "body": body})
