"""The web application around the standalone page: our scripts and style, a password, and no answers to other sites."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import FileResponse, Response

import lib_ti
from lib_ti.webui.service import TrainingService
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


def create_app(service: TrainingService, page: Any, auth: tuple[str, str] | None = None) -> Any:
    """The ASGI application that serves the page, with our scripts and style in it as the WebUIs insert them.

    `auth`: user and password, asked for before anything else is shown.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get(f"/{STATIC}/{{name}}")
    def static(name: str) -> Response:
        path = next((path for path in _static_files() if path.name == name), None)
        return FileResponse(path) if path else Response(status_code=404)

    # gradio 3.41 would serve the working directory too, which may hold anything
    working_dir = [] if Path.cwd() in _gradio_temp_dir().parents else [str(Path.cwd())]
    blocked_paths = [*service.private_paths(), *working_dir]
    page.auth, page.auth_message, page.blocked_paths = [auth] if auth else None, None, blocked_paths
    arguments = supported_arguments(gr.mount_gradio_app, auth=page.auth, blocked_paths=blocked_paths)
    return SameSiteOnly(gr.mount_gradio_app(app, page, "/", **arguments))


def _gradio_temp_dir() -> Path:
    """Where gradio keeps the images that it shows."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir()).absolute() / "gradio"


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


class SameSiteOnly:
    """ASGI middleware that inserts our files into the page, and refuses requests from other sites' pages.

    gradio 3.41 itself answers requests from any site.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers") or ())
        is_navigation = scope.get("method") == "GET" and headers.get(b"sec-fetch-mode") == b"navigate"
        if headers.get(b"sec-fetch-site") == b"cross-site" and not is_navigation:
            await _refuse(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "GET" and scope["path"] in ("", "/"):
            await self._app(scope, receive, HeadInserter(send))
        else:
            await self._app(scope, receive, send)


async def _refuse(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
    else:
        await Response("Not for other sites.", 403)(scope, receive, send)


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
