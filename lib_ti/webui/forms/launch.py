"""From a click on Train or Resume to a training in the queue."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lib_ti.errors import BadInput, Problem, RunBusy, TextualInversionError
from lib_ti.runs.events import EventLog
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.queue import Job, RunQueue
from lib_ti.runs.worker import Worker
from lib_ti.settings.option import RawValue
from lib_ti.settings.train_settings import CHANGEABLE_ON_RESUME, MEMORY_MODES, TrainSettings
from lib_ti.webui.api.results import delete_run
from lib_ti.webui.api.runs_view import RunsView, run_id
from lib_ti.webui.embedding_index import EmbeddingIndex, files_named
from lib_ti.webui.forms import form_to_settings
from lib_ti.webui.forms.live_check import LiveCheck
from lib_ti.webui.hosts.host import Host
from lib_ti.webui.images.drafts import Drafts

REMEMBERED = 50  # clicks


class Launch:
    """Starts trainings of one host, one click at a time."""

    def __init__(
        self, host: Host, library: EmbeddingIndex, drafts: Drafts, checking: LiveCheck, runs: RunsView, queue: RunQueue
    ) -> None:
        self._host, self._library, self._drafts, self._checking = host, library, drafts, checking
        self._runs, self._queue = runs, queue
        self._one_at_a_time = threading.Lock()
        self._started: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def actions(self) -> dict[str, Callable[..., Any]]:
        return {"train": self.train, "resume": self.resume}

    def train(self, form: Mapping[str, Any], draft: str, token: str) -> dict[str, Any]:
        """Start a training, or put it in the queue. The same `token` again gives the same training."""
        with self._one_at_a_time:
            if token not in self._started:
                self._started[token] = self._train(form, draft)
                while len(self._started) > REMEMBERED:
                    self._started.popitem(last=False)
            return self._started[token]

    def _train(self, form: Mapping[str, Any], draft: str) -> dict[str, Any]:
        raw, problems = form_to_settings.raw_settings(form, self._host, self._drafts.folder(draft), self._library.find)
        problems += self._checking.name_problems(str(raw["name"]))
        if not raw.get("overwrite") and files_named(str(raw["name"]), self._host.embeddings_dir):
            # also below the folder, where the training's own check does not look
            reason = "this word exists already; choose another name, or replace it with --overwrite"
            problems.append(form_to_settings.in_form_words(Problem("name", reason)))
        if not self._drafts.images(draft):
            problems.append(Problem("images", "add pictures first; four are enough to start"))
        if "model" not in raw:
            problems.append(Problem("model", "no checkpoint is selected; choose one at the top of the WebUI"))
        with suppress(OSError):  # the training's own check says it better
            self._host.embeddings_dir.mkdir(parents=True, exist_ok=True)
        child = Worker({"settings": raw})
        try:
            answer = self._answer(child, problems)
            folder = RunFolder.open(Path(answer["run"]))
            self._take_along(folder, draft)
            warnings = [form_to_settings.translated(warning) for warning in answer.get("warnings", ())]
            for warning in warnings:
                EventLog(folder.events).append("warning", message=warning)
            self._queue.add(Job(folder, bool(form.get("keep_generating")), worker=child))
        except BaseException:
            child.close()
            raise
        self._runs.invalidate()
        return {"run": run_id(folder), "warnings": warnings}

    def _answer(self, child: Worker, problems: list[Problem]) -> dict[str, Any]:
        """The child's answer to its request. Raises BadInput with what it and we found wrong, each option once."""
        try:
            answer = child.reply()
        except BadInput as error:
            known = {problem.option for problem in problems}
            problems += [form_to_settings.in_form_words(p) for p in error.problems if p.option not in known]
        if problems:
            if "answer" in locals():
                delete_run(RunFolder(Path(answer["run"])))
            raise BadInput(problems)
        return answer

    def _take_along(self, folder: RunFolder, draft: str) -> None:
        """Give the run its own copies of the pictures; without them there is no run."""
        settings = folder.settings
        try:
            self._drafts.copy_to_run(draft, folder.images, settings.captions)
            # not the draft, which may be another by the time that the run goes on
            folder.store_settings(dataclasses.replace(settings, images=folder.images))
        except OSError as error:
            delete_run(folder)
            raise TextualInversionError(f"The pictures could not be copied: {error.strerror}.") from error

    def resume(self, run: str, steps: int | None = None, form: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Go on with a run, to a new total of `steps`; `form` may hold `keep_generating` and `less_memory`."""
        folder, form = self._runs.folder(run), form or {}
        with self._one_at_a_time:
            if self._queue.find(folder.path):
                return {"run": run}  # the same click twice
            if folder.running:
                raise RunBusy("Another program is training this run.")
            settings = folder.settings
            changes: dict[str, RawValue] = {
                name: str(form[name]) for name in (CHANGEABLE_ON_RESUME - {"device"}) & form.keys()
            }
            if steps is not None:
                changes["steps"] = str(steps)
            if form.get("less_memory"):
                changes |= {
                    "memory": _leaner(settings), "batch_size": "1",
                    "gradient_accumulation": str(settings.effective_batch_size),
                }  # fmt: skip
            child = Worker({"run": str(folder.path), "changes": changes})
            try:
                child.reply()
                self._queue.add(Job(folder, bool(form.get("keep_generating")), worker=child))
            except BaseException:
                child.close()
                raise
            self._runs.reload_settings(folder)
        return {"run": run}


def _leaner(settings: TrainSettings) -> str:
    """The memory mode after the one that a training ran in."""
    return MEMORY_MODES[min(MEMORY_MODES.index(settings.memory_modes[0]) + 1, len(MEMORY_MODES) - 1)]
