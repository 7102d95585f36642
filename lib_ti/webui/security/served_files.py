"""What the standalone server answers at gradio's /file=: files of its own temporary folder, and none that could act as a page."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lib_ti.webui.images.uploads import upload_folder
from lib_ti.webui.security.replies import Send, hardened

_FILE = re.compile(r"/file[=/](.*)", re.DOTALL)
_RASTER_IMAGES = {b"image/png", b"image/jpeg", b"image/webp", b"image/gif", b"image/bmp", b"image/avif"}
_SANDBOX = b"default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'self'"


def requested_file(path: str) -> str | None:
    """The file that a request's path asks gradio for; None if it asks for none."""
    match = _FILE.fullmatch(path)
    return match[1] if match else None


def may_be_served(file: str) -> bool:
    """Whether gradio's temporary folder has it. Of all others the answer is the same, whether they exist or not."""
    try:
        return upload_folder() in Path(file).resolve().parents and "://" not in file and Path(file).is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def sandboxed(send: Send, file: str) -> Send:
    """A `send` that makes a browser save a file instead of showing it, unless it is a raster image."""

    async def send_safely(message: MutableMapping[str, Any]) -> None:
        if message["type"] != "http.response.start":
            await send(message)
            return
        headers = [(k, v) for k, v in message.get("headers") or () if k.lower() != b"content-disposition"]
        kind = next((v for k, v in headers if k.lower() == b"content-type"), b"").partition(b";")[0].strip().lower()
        disposition: tuple[tuple[bytes, bytes], ...] = ()
        if kind not in _RASTER_IMAGES:
            disposition = ((b"content-disposition", f"attachment; filename*=UTF-8''{quote(Path(file).name)}".encode()),)
        await hardened(send, _SANDBOX, disposition)({**message, "headers": headers})

    return send_safely
