"""Trainings over HTTP, for scripts: routes under the host's own API, behind the host's own `--api-auth`.

    GET  /tinv/v1/runs                      every run
    POST /tinv/v1/runs                      start one: its settings by their names, and "pictures": [{name, data, caption}]
    GET  /tinv/v1/runs/NAME/DATE            one run with its events
    POST /tinv/v1/runs/NAME/DATE/stop
    POST /tinv/v1/runs/NAME/DATE/resume     {"steps": the new total} or nothing

They go through the page's actions, so all that is checked there is checked here. A reply that is not 200 holds `error`,
a sentence, or `problems`, a list of {option, message}.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, NoReturn

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBasic

from lib_ti.webui.api.bridge import Action, carry_out

LARGEST_BODY = 256 << 20  # bytes, as base64: some hundred photographs
MOST_POLLS = 1000


class Refusal(Exception):
    """What an action or a check said no with: the HTTP status and the body of the reply."""

    def __init__(self, status: int, reply: Mapping[str, Any]) -> None:
        self.status, self.reply = status, reply


def add_routes(app: FastAPI, actions: Mapping[str, Action], api_auth: str | None) -> None:
    """Serve the routes; `api_auth` as the host takes it: `user:password`, several separated by commas."""
    gates = [Depends(_gate(api_auth))] if api_auth else []
    runs = Runs(actions)
    routes: list[tuple[str, str, Callable[..., Coroutine[Any, Any, Response]]]] = [
        ("GET", "", runs.all),
        ("POST", "", runs.start),
        ("GET", "/{name}/{date}", runs.one),
        ("POST", "/{name}/{date}/stop", runs.stop),
        ("POST", "/{name}/{date}/resume", runs.resume),
    ]
    for method, path, answer in routes:
        app.add_api_route(f"/tinv/v1/runs{path}", answer, methods=[method], dependencies=gates, response_model=None)


def _gate(api_auth: str) -> Callable[[Request], Coroutine[Any, Any, None]]:
    known = [tuple(part.encode() for part in entry.partition(":")[::2]) for entry in api_auth.split(",")]
    basic = HTTPBasic()

    async def check(request: Request) -> None:
        given = await basic(request)
        # every pair is compared whole, so that the time taken says nothing about either half
        user, password = (given.username.encode(), given.password.encode()) if given else (b"", b"")
        fits = [secrets.compare_digest(user, u) & secrets.compare_digest(password, p) for u, p in known]
        if not any(fits):
            raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})

    return check


class Runs:
    """What the routes answer with."""

    def __init__(self, actions: Mapping[str, Action]) -> None:
        self._actions = actions

    async def all(self, request: Request) -> Response:
        """List the runs."""
        return await _reply(self._all)

    async def start(self, request: Request) -> Response:
        """Start a training."""
        return await _reply_to_body(request, self._start)

    async def one(self, name: str, date: str) -> Response:
        """Show a run, with its events."""
        return await _reply(lambda: self._one(f"{name}/{date}"))

    async def stop(self, name: str, date: str) -> Response:
        """Stop a run; everything is saved."""
        return await _reply(lambda: self._on_run("stop", f"{name}/{date}"))

    async def resume(self, request: Request, name: str, date: str) -> Response:
        """Go on with a run, to another total of steps if one is given."""
        return await _reply_to_body(request, lambda body: self._resume(f"{name}/{date}", body))

    def _do(self, action: str, **given: Any) -> dict[str, Any]:
        reply: dict[str, Any] = carry_out(self._actions[action], given)
        if "problems" in reply:
            raise Refusal(422, {"problems": reply["problems"]})
        if "error" in reply:
            raise Refusal(500 if "details" in reply else 409, {"error": reply["error"]})
        return reply

    def _all(self) -> dict[str, Any]:
        runs = self._do("runs")["runs"]
        return {"runs": [{key: value for key, value in run.items() if key != "thumb"} for run in runs]}

    def _known(self, run: str) -> None:
        if run not in {known["id"] for known in self._do("runs")["runs"]}:
            _unknown(run)

    def _one(self, run: str) -> dict[str, Any]:
        self._known(run)
        events: list[Any] = []
        shown: dict[str, Any] = {"after": 0}
        for _ in range(MOST_POLLS):
            shown = self._do("poll", run=run, after=shown["after"])["run"] or _unknown(run)
            events += shown["events"]
            if not shown.get("more"):
                break
        return {**shown, "events": events}

    def _on_run(self, action: str, run: str, **given: Any) -> dict[str, Any]:
        self._known(run)
        return self._do(action, run=run, **given)

    def _resume(self, run: str, body: dict[str, Any]) -> dict[str, Any]:
        steps = body.pop("steps", None)
        if isinstance(steps, bool) or not isinstance(steps, int | None):
            _not("steps", "is not a whole number")
        for other in body:
            _not(other, "cannot be changed here; only steps can")
        return self._on_run("resume", run, steps=steps, form=None)

    def _start(self, body: dict[str, Any]) -> dict[str, Any]:
        pictures = _pictures(body.pop("pictures", []))
        offered = self._do("form")["values"]
        for name in body.keys() - offered.keys():
            _not(name, "is no setting that can be given here")
        form = {**offered, **{name: _text(name, value) for name, value in body.items() if value is not None}}
        draft = secrets.token_hex(16)
        try:
            for name, data, caption in pictures:
                self._add(draft, name, data, caption)
            return self._do("train", form=form, draft=draft, token=secrets.token_hex(16))
        finally:  # the run has its own copies
            carry_out(self._actions["clear"], {"draft": draft})

    def _add(self, draft: str, name: str, data: bytes, caption: str) -> None:
        upload = _upload(data)
        try:
            reply = self._do("add", draft=draft, path=str(upload), name=name)
        finally:
            upload.unlink(missing_ok=True)
            if upload.parent.exists():
                upload.parent.rmdir()
        for refused in reply.get("refused") or ():
            _not("pictures", f"{refused['name']}: {refused['reason']}")
        for picture in reply.get("pictures") or () if caption else ():
            self._do("caption", draft=draft, id=picture["id"], text=caption)


def _unknown(run: str) -> NoReturn:
    raise Refusal(404, {"error": f"There is no run {run}."})


def _not(option: str, message: str) -> NoReturn:
    raise Refusal(422, {"problems": [{"option": option, "message": message}]})


def _upload(data: bytes) -> Path:
    """A file such as gradio makes of an upload: in a folder of its own, by a name that says nothing."""
    root = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")
    folder = root / secrets.token_hex(20)
    folder.mkdir(parents=True)
    (folder / "upload").write_bytes(data)
    return folder / "upload"


def _pictures(given: Any) -> list[tuple[str, bytes, str]]:
    """Name, file and caption of each picture in a request."""
    if not isinstance(given, list) or not given:
        _not("pictures", 'is missing: a list of {"name": ..., "data": the file in base64}')
    found = []
    for number, picture in enumerate(given, 1):
        picture = picture if isinstance(picture, dict) else {}
        name = picture.get("name") or f"picture {number}"
        data, caption = picture.get("data", ""), picture.get("caption") or ""
        if not data or not all(isinstance(text, str) for text in (name, data, caption)):
            _not("pictures", f"number {number} is not {{name, data, caption}}, each a text")
        try:  # a data URL's head is passed over; what is not base64 is not guessed at
            found.append((name, base64.b64decode(data.partition(",")[2] or data, validate=True), caption))
        except (binascii.Error, ValueError):
            _not("pictures", f"{name}: its data is not base64")
    return found


def _text(option: str, value: Any) -> str | bool:
    """A setting as the form holds it: a switch, or text, one line for each of several values."""
    if isinstance(value, bool):
        return value
    if isinstance(value, list) and not any(isinstance(item, dict | list | bool) for item in value):
        return "\n".join(map(str, value))
    if not isinstance(value, str | int | float):
        _not(option, "is neither a text, nor a number, nor true or false, nor a list of those")
    return str(value)


async def _reply_to_body(request: Request, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> Response:
    try:
        body = await _body(request)
        return _json(await run_in_threadpool(answer, body))
    except Refusal as refusal:
        return _json(refusal.reply, refusal.status)


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object sent. It has to be called JSON: a page of another site cannot send that without being asked."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > LARGEST_BODY:
            raise Refusal(413, {"error": f"The request is larger than {LARGEST_BODY >> 20} MB."})
    if not data:
        return {}
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, {"error": "Send JSON, with Content-Type: application/json."})
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise Refusal(400, {"error": "The request is not a JSON object."})
    return body


async def _reply(answer: Callable[[], dict[str, Any]]) -> Response:
    """What `answer`, which may take its time, gives or refuses with."""
    try:
        return _json(await run_in_threadpool(answer))
    except Refusal as refusal:
        return _json(refusal.reply, refusal.status)


def _json(content: Mapping[str, Any], status: int = 200) -> Response:
    return Response(
        json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"), status, media_type="application/json"
    )
