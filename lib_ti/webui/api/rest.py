"""The REST API: routes under the host's own API, behind the host's own `--api-auth`.

    GET  /tinv/v1/runs?offset=0&limit=30    runs, the newest first, and the "total" of all
    POST /tinv/v1/runs                      start one: its settings by their names, and "pictures": [{name, data, caption}]
    GET  /tinv/v1/runs/NAME/DATE            one run with its events
    POST /tinv/v1/runs/NAME/DATE/stop
    POST /tinv/v1/runs/NAME/DATE/resume     {"steps": the new total} or nothing
    DELETE /tinv/v1/runs/NAME/DATE          its embedding in the WebUI's folder stays
    GET  /tinv/v1/runs/NAME/DATE/embedding  the file; ?step=N: of a snapshot; ?format=a1111: another format
    GET  /tinv/v1/runs/NAME/DATE/FILE       a preview or test picture, by the `file` of its event; report.html

The routes call the page's actions, so every check of those applies. A reply with a status other than 200 has `error`, a
sentence, or `problems`, a list of {option, message}. Each POST and DELETE is JSON, also without a body.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NoReturn, Protocol

from fastapi import Depends, FastAPI, Request, Response

from lib_ti.webui.api.bridge import Action, call_action
from lib_ti.webui.api.pools import STARTS
from lib_ti.webui.api.rest_replies import ErrorReply, call, json_response, reply
from lib_ti.webui.api.rest_results import ResultsApi
from lib_ti.webui.api.runs_view import PAGE
from lib_ti.webui.images.uploads import UploadRegistry
from lib_ti.webui.security.basic_auth import basic_auth

MAX_POLLS = 1000
MAX_WAITING = 4  # requests to start a run


class Service(Protocol):
    """What the routes need of the training service."""

    uploads: UploadRegistry

    def actions(self) -> Mapping[str, Action]: ...
    def redact(self, reply: Any) -> Any: ...


def add_routes(app: FastAPI, service: Service, api_auth: str | None) -> None:
    """Add the routes to an app. `api_auth` has the host's format: `user:password`, several separated by commas."""
    dependencies = [Depends(basic_auth(api_auth))] if api_auth else []
    runs, results = RunsApi(service), ResultsApi(service.actions(), service.redact)
    routes: list[tuple[str, str, Callable[..., Coroutine[Any, Any, Response]]]] = [
        ("GET", "", runs.list_runs),
        ("POST", "", runs.start_run),
        ("GET", "/{name}/{date}", runs.get_run),
        ("POST", "/{name}/{date}/stop", runs.stop_run),
        ("POST", "/{name}/{date}/resume", runs.resume_run),
        ("DELETE", "/{name}/{date}", runs.delete_run),
        ("GET", "/{name}/{date}/embedding", results.get_embedding),
        ("GET", "/{name}/{date}/report.html", results.get_report),
        ("GET", "/{name}/{date}/{kind}/{file}", results.get_image),
    ]
    for method, path, handler in routes:
        app.add_api_route(
            f"/tinv/v1/runs{path}", handler, methods=[method], dependencies=dependencies, response_model=None
        )


class RunsApi:
    """The handlers of the routes."""

    def __init__(self, service: Service) -> None:
        self._actions, self._uploads, self._redact = service.actions(), service.uploads, service.redact
        self._one_body, self._waiting = asyncio.Semaphore(1), 0  # the pictures of one request in memory at a time

    async def list_runs(self, offset: int = 0, limit: int = PAGE) -> Response:
        """List a page of the runs."""
        return await reply(lambda: self._list(offset, limit))

    async def start_run(self, request: Request) -> Response:
        """Start a training."""
        if self._waiting >= MAX_WAITING:
            return json_response({"error": "Other trainings are being started; try again in a moment."}, 409)
        self._waiting += 1
        try:
            async with self._one_body:
                return await reply(self._start, request, STARTS)
        finally:
            self._waiting -= 1

    async def get_run(self, name: str, date: str) -> Response:
        """Show a run, with its events."""
        return await reply(lambda: self._get(f"{name}/{date}"))

    async def stop_run(self, request: Request, name: str, date: str) -> Response:
        """Stop a run; everything is saved."""
        return await reply(lambda body: self._call_on_run("stop", f"{name}/{date}"), request)

    async def resume_run(self, request: Request, name: str, date: str) -> Response:
        """Continue a run, to another total of steps if one is given."""
        return await reply(lambda body: self._resume(f"{name}/{date}", body), request, STARTS)

    async def delete_run(self, request: Request, name: str, date: str) -> Response:
        """Delete a run that is not running."""
        return await reply(lambda body: self._call_on_run("delete", f"{name}/{date}"), request)

    def _call(self, action: str, **arguments: Any) -> dict[str, Any]:
        return call(self._actions, self._redact, action, arguments)

    def _list(self, offset: int, limit: int) -> dict[str, Any]:
        listed = self._call("runs", offset=offset, limit=limit)
        runs = [{key: value for key, value in run.items() if key != "thumb"} for run in listed["runs"]]
        return {"runs": runs, "total": listed["total"]}

    def _require_run(self, run: str) -> None:
        if not self._call("runs", run=run)["runs"]:
            _raise_not_found(run)

    def _get(self, run: str) -> dict[str, Any]:
        self._require_run(run)
        events: list[Any] = []
        details: dict[str, Any] = {"after": 0}
        for _ in range(MAX_POLLS):
            details = self._call("poll", run=run, after=details["after"])["run"] or _raise_not_found(run)
            events += details["events"]
            if not details.get("more"):
                break
        return {**details, "events": events}

    def _call_on_run(self, action: str, run: str, **arguments: Any) -> dict[str, Any]:
        self._require_run(run)
        return self._call(action, run=run, **arguments)

    def _resume(self, run: str, body: dict[str, Any]) -> dict[str, Any]:
        steps = body.pop("steps", None)
        if isinstance(steps, bool) or not isinstance(steps, int | None):
            _raise_problem("steps", "is not a whole number")
        for option in body:
            _raise_problem(option, "cannot be changed here; only steps can")
        return self._call_on_run("resume", run, steps=steps, form=None)

    def _start(self, body: dict[str, Any]) -> dict[str, Any]:
        images = _decode_images(body.pop("pictures", []))
        defaults = self._call("form")["values"]
        for option in body.keys() - defaults.keys():
            _raise_problem(option, "is no setting that can be given here")
        form = {**defaults, **{name: _form_value(name, value) for name, value in body.items() if value is not None}}
        draft = secrets.token_hex(16)
        try:
            for name, data, caption in images:
                self._add_image(draft, name, data, caption)
            return self._call("train", form=form, draft=draft, token=secrets.token_hex(16))
        finally:  # the run has its own copies
            call_action(self._actions["discard"], {"draft": draft})

    def _add_image(self, draft: str, name: str, data: bytes, caption: str) -> None:
        upload = self._uploads.store(data)
        try:
            reply = self._call("add", draft=draft, path=str(upload), name=name)
        finally:
            self._uploads.delete(upload)
        for refused in reply.get("refused") or ():
            _raise_problem("pictures", f"{refused['name']}: {refused['reason']}")
        for image in reply.get("pictures") or () if caption else ():
            self._call("caption", draft=draft, id=image["id"], text=caption)


def _raise_not_found(run: str) -> NoReturn:
    raise ErrorReply(404, {"error": f"There is no run {run}."})


def _raise_problem(option: str, message: str) -> NoReturn:
    raise ErrorReply(422, {"problems": [{"option": option, "message": message}]})


def _decode_images(images: Any) -> list[tuple[str, bytes, str]]:
    """Name, file content and caption of each image in a request."""
    if not isinstance(images, list) or not images:
        _raise_problem("pictures", 'is missing: a list of {"name": ..., "data": the file in base64}')
    decoded = []
    for number, image in enumerate(images, 1):
        image = image if isinstance(image, dict) else {}
        name = image.get("name") or f"picture {number}"
        data, caption = image.get("data", ""), image.get("caption") or ""
        if not data or not all(isinstance(text, str) for text in (name, data, caption)):
            _raise_problem("pictures", f"number {number} is not {{name, data, caption}}, each a text")
        try:  # the prefix of a data URL is skipped
            decoded.append((name, base64.b64decode(data.partition(",")[2] or data, validate=True), caption))
        except (binascii.Error, ValueError):
            _raise_problem("pictures", f"{name}: its data is not base64")
    return decoded


def _form_value(option: str, value: Any) -> str | bool:
    """A setting as the form has it: a switch, or text with one line per value."""
    if isinstance(value, bool):
        return value
    if isinstance(value, list) and not any(isinstance(item, dict | list | bool) for item in value):
        return "\n".join(map(str, value))
    if not isinstance(value, str | int | float):
        _raise_problem(option, "is neither a text, nor a number, nor true or false, nor a list of those")
    return str(value)
