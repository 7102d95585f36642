"""Start words for the user's pictures: a child process ranks them, with the GPU handed over to it as to a training."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from lib_ti.errors import BadInput, Problem, TextualInversionError
from lib_ti.runs import worker
from lib_ti.runs.queue import RunQueue
from lib_ti.settings.option import RawValue
from lib_ti.text import option_flag
from lib_ti.webui.forms import form_to_settings
from lib_ti.webui.forms.live_check import NO_CHECKPOINT
from lib_ti.webui.hosts.background_task import BackgroundTask, Work
from lib_ti.webui.hosts.gpu_handover import GpuHandover
from lib_ti.webui.hosts.host import Host
from lib_ti.webui.hosts.lent_child import run_child
from lib_ti.webui.images.drafts import Drafts

log = logging.getLogger("lib_ti")
OPTIONS = (
    "images", "model", "vae", "name", "kind", "init_text", "captions", "masks", "resolution", "buckets", "clip_skip",
    "prediction", "device", "precision", "memory",
)  # fmt: skip
"""The options of a training that the ranking depends on."""
IDLE: dict[str, Any] = {"state": "idle", "done": 0, "total": 0, "words": [], "vectors": None, "message": ""}
LABEL = "start words"  # of this work, in the host


class Suggestions:
    """Ranks start words for the pictures of a page, one request at a time.

    The state that the actions reply with: `state` (idle, running, done or failed), `done` of `total` words tried, `words`
    ({text, gain, share}, the best first), `vectors` that are worth it or None, `message`.
    """

    def __init__(self, host: Host, drafts: Drafts, handover: GpuHandover, queue: RunQueue) -> None:
        self._host, self._drafts, self._handover, self._queue = host, drafts, handover, queue
        self._task = BackgroundTask("textual-inversion-suggest")
        self._status = IDLE
        self.has_gpu = False

    def actions(self) -> dict[str, Callable[..., Any]]:
        return {"suggest": self.suggest, "suggestions": self.suggestions, "cancel_suggest": self.cancel_suggest}

    def suggest(self, form: Mapping[str, Any], draft: str) -> dict[str, Any]:
        """Start to rank words; while it runs, another request changes nothing."""
        raw, _ = form_to_settings.raw_settings(form, self._host, self._drafts.folder(draft), lambda _: None)
        problems = []
        if not self._drafts.images(draft):
            problems.append(Problem("images", "add pictures first; words are tried on them"))
        if "model" not in raw:
            problems.append(Problem("model", NO_CHECKPOINT))
        if problems:
            raise BadInput(problems)
        if self._queue.jobs():
            raise TextualInversionError("A training is running. Try again when it has finished.")

        def prepare() -> Work:
            self._status = {**IDLE, "state": "running", "message": "Waiting for the WebUI"}
            program = worker.command_program(["suggest", "--json", *_arguments(raw)])
            return lambda cancelled: self._run(program, cancelled)

        self._task.start(prepare)
        return self._status

    def suggestions(self) -> dict[str, Any]:
        return self._status

    def cancel_suggest(self) -> dict[str, Any]:
        self._task.cancel()
        return {}

    def close(self) -> None:
        self._task.close()

    def _run(self, program: str, cancelled: threading.Event) -> None:
        try:
            with self._handover.lend(LABEL, cancelled.is_set) as interrupted:
                if interrupted is not None:
                    self.has_gpu = True
                    self._rank(program, lambda: cancelled.is_set() or interrupted())
        except Exception as error:
            log.exception("start words could not be ranked")
            self._status = {**IDLE, "state": "failed", "message": f"{type(error).__name__}: {error}"}
        finally:
            self.has_gpu = False
            if self._status["state"] == "running":  # cancelled
                self._status = IDLE

    def _rank(self, program: str, should_stop: Callable[[], bool]) -> None:
        self._status = {**self._status, "message": ""}
        end = run_child(program, should_stop, self._read_reply)
        if not end.stopped and self._status["state"] == "running":
            self._status = {**IDLE, "state": "failed", "message": end.reason}

    def _read_reply(self, line: str) -> None:
        """A line of JSON is the state from then on; libraries may print others."""
        with suppress(ValueError, TypeError):
            reply = json.loads(line) if line.startswith("{") else {}
            self._status = {**self._status, **{key: reply[key] for key in IDLE.keys() & reply.keys()}}


def _arguments(raw: Mapping[str, RawValue]) -> list[str]:
    """Command-line arguments of the options that the ranking depends on."""
    arguments = []
    for name in OPTIONS:
        value = raw.get(name, "")
        if isinstance(value, bool):
            arguments.append(option_flag(name) if value else option_flag(f"no_{name}"))
        elif isinstance(value, str) and value:
            arguments.append(f"{option_flag(name)}={value}")  # as one: a value may begin with a dash
    return arguments
