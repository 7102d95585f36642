"""Trying a word in place: pictures of prompts that the user asks for, made beside the test pictures of its training.

The actions, each with its parameters and its reply:

    try_prompts(run, text)      make a picture of each line of `text`, in which [name] stands for the word
        -> {"total": how many prompts}; the pictures come as events of the kind "test", through `poll`
    cancel_try()                stop that -> {}

`poll` replies with `trying`: {"run", "total", "error": why it failed, or ""} while pictures are made or after it failed, or None.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib_ti.errors import BadInput, Problem, TextualInversionError
from lib_ti.runs import worker
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.queue import RunQueue
from lib_ti.settings.train_settings import NAME_SLOT
from lib_ti.text import is_encodable
from lib_ti.webui.api.results import Results
from lib_ti.webui.api.runs_view import RunsView, run_id
from lib_ti.webui.hosts.background_task import BackgroundTask, Work
from lib_ti.webui.hosts.gpu_handover import GpuHandover
from lib_ti.webui.hosts.lent_child import run_child

log = logging.getLogger("lib_ti")
MAX_PROMPTS = 6  # in one request
MAX_PICTURES = 48  # of a run
MAX_CHARACTERS = 500
LABEL = "trying a word"  # of this work, in the host


class TryPrompts:
    """Makes pictures with the words of one host, one request at a time."""

    def __init__(self, results: Results, runs: RunsView, queue: RunQueue, handover: GpuHandover) -> None:
        self._results, self._runs, self._queue, self._handover = results, runs, queue, handover
        self._task = BackgroundTask("textual-inversion-try")
        self.status: dict[str, Any] | None = None
        self.has_gpu = False

    def actions(self) -> dict[str, Callable[..., Any]]:
        return {"try_prompts": self.try_prompts, "cancel_try": self.cancel_try}

    def try_prompts(self, run: str, text: str) -> dict[str, Any]:
        """Start to make the pictures; while some are made, another request is refused."""
        folder = self._runs.folder(run)
        prompts = _prompts(text, folder)
        if self._queue.jobs():
            raise TextualInversionError("A word is being trained; try this when it is finished.")
        if len(folder.history().tests) + len(prompts) > MAX_PICTURES:
            raise TextualInversionError("This training has many pictures already; try the word in txt2img.")
        embedding = self._results.embedding_to_try(folder)

        def prepare() -> Work:
            self.status = {"run": run_id(folder), "total": len(prompts), "error": ""}
            return lambda cancelled: self._run(folder, embedding, prompts, cancelled)

        if not self._task.start(prepare):
            raise TextualInversionError("Pictures are being made already; wait for them.")
        return {"total": len(prompts)}

    def cancel_try(self) -> dict[str, Any]:
        self._task.cancel()
        return {}

    def close(self) -> None:
        self._task.close()

    def _run(self, folder: RunFolder, embedding: Path, prompts: list[str], cancelled: threading.Event) -> None:
        request = {"tests": {"run": str(folder.path), "embedding": str(embedding), "prompts": prompts}}
        error = ""
        try:
            with self._handover.lend(LABEL, cancelled.is_set) as interrupted:
                if interrupted is not None:
                    self.has_gpu = True
                    error = self._make(request, lambda: cancelled.is_set() or interrupted())
        except Exception as failure:
            log.exception("pictures could not be made")
            error = f"{type(failure).__name__}: {failure}"
        finally:
            self.has_gpu = False
        self.status = {"run": run_id(folder), "total": 0, "error": error} if error else None

    @staticmethod
    def _make(request: dict[str, Any], should_stop: Callable[[], bool]) -> str:
        """Have a child make the pictures; why it failed, or ""."""
        replies: list[dict[str, Any]] = []

        def read(line: str) -> None:
            if line.startswith("{"):  # libraries may print others
                replies.append(json.loads(line))

        end = run_child(worker.command_program(["work"]), should_stop, read, json.dumps(request))
        if end.stopped or (replies and not replies[-1].get("error")):
            return ""
        return str(replies[-1]["error"]) if replies else end.reason


def _prompts(text: str, folder: RunFolder) -> list[str]:
    """The prompts in a request, one a line. Raises BadInput if there is none, or one that does not name the word."""
    settings = folder.settings
    prompts = [line.strip() for line in str(text).splitlines() if line.strip()]
    problems = []
    if not prompts:
        problems.append(Problem("try_prompt", f"write a prompt, such as: a drawing of {settings.name}"))
    if len(prompts) > MAX_PROMPTS:
        problems.append(Problem("try_prompt", f"{MAX_PROMPTS} prompts are the most at once"))
    for prompt in prompts[:MAX_PROMPTS]:
        named = NAME_SLOT in prompt or settings.name.casefold() in prompt.casefold()
        if len(prompt) > MAX_CHARACTERS or not is_encodable(prompt):
            problems.append(Problem("try_prompt", f"a prompt has at most {MAX_CHARACTERS} characters of readable text"))
        elif not named and settings.kind != "negative":
            problems.append(Problem("try_prompt", f"write {settings.name} into the prompt: {prompt!r} is without it"))
    if problems:
        raise BadInput(problems)
    return prompts
