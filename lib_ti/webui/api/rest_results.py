"""The routes of the REST API that answer with the files of a run."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from fastapi import Response

from lib_ti.webui.api.bridge import Action
from lib_ti.webui.api.rest_replies import ErrorReply, call, reply

_IMAGES = {"previews": re.compile(r"(\d{1,9})-(\d{1,4})-(\d{1,4})\.png"), "tests": re.compile(r"(\d{1,4})\.png")}
_SANDBOX = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'"}


class ResultsApi:
    """The handlers of the routes."""

    def __init__(self, actions: Mapping[str, Action], redact: Callable[[Any], Any]) -> None:
        self._actions, self._redact = actions, redact

    async def get_embedding(
        self, name: str, date: str, step: int | None = None, format: str = "safetensors"
    ) -> Response:
        """The embedding, of a snapshot or in another program's format."""
        return await reply(lambda: self._file("export", run=f"{name}/{date}", step=step, format=format))

    async def get_report(self, name: str, date: str) -> Response:
        """The report, which runs nothing and loads nothing."""
        policy = {
            **_SANDBOX,
            "Content-Security-Policy": "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        }
        return await reply(
            lambda: Response(self._call("report", run=f"{name}/{date}")["html"], 200, policy, "text/html")
        )

    async def get_image(self, name: str, date: str, kind: str, file: str) -> Response:
        """A preview or a test picture."""
        return await reply(lambda: self._image(f"{name}/{date}", kind, file))

    def _image(self, run: str, kind: str, file: str) -> Response:
        match = _IMAGES[kind].fullmatch(file) if kind in _IMAGES else None
        if match is None:
            raise ErrorReply(404, {"error": f"There is no {kind}/{file}."})
        numbers = map(int, match.groups())
        if kind == "previews":
            step, prompt, seed = numbers
            image = self._call("preview", run=run, step=step, prompt=prompt, seed=seed, full=True)["image"]
        else:
            image = self._call("test_picture", run=run, prompt=next(numbers), full=True)["image"]
        return Response(base64.b64decode(image.partition(",")[2]), 200, _SANDBOX, "image/png")

    def _file(self, action: str, **arguments: Any) -> Response:
        """The file in an action's reply, as a download."""
        result = self._call(action, **arguments)
        disposition = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(result['file'])}"}
        data = base64.b64decode(result["data"])
        return Response(data, 200, {**_SANDBOX, **disposition}, "application/octet-stream")

    def _call(self, action: str, **arguments: Any) -> dict[str, Any]:
        """The reply of an action about a run. Raises ErrorReply, with 404 for what does not exist."""
        try:
            return call(self._actions, self._redact, action, arguments)
        except ErrorReply as error:
            raise ErrorReply(404 if error.status == 409 else error.status, error.body) from error
