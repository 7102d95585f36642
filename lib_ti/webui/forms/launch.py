"""Starts trainings: from a click on Train or Resume to a run in the queue."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lib_ti.errors import BadInput, Problem, RunBusy, TextualInversionError
from lib_ti.runs.events import EventLog
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.queue import Job, RunQueue
from lib_ti.runs.worker import Worker
from lib_ti.settings.option import RawValue
from lib_ti.settings.parsing import parse
from lib_ti.settings.train_settings import CHANGEABLE_ON_RESUME, MEMORY_MODES, TrainSettings
from lib_ti.webui.api.results import delete_run
from lib_ti.webui.api.runs_view import RunsView, run_id
from lib_ti.webui.embedding_index import EmbeddingIndex, files_named
from lib_ti.webui.forms import form_to_settings
from lib_ti.webui.forms.live_check import NO_CHECKPOINT, NO_IMAGES, LiveCheck
from lib_ti.webui.hosts.host import Host
from lib_ti.webui.images.drafts import Drafts

MAX_TOKENS = 50  # of recent clicks


class Launcher:
    """Starts and resumes the trainings of one host, one click at a time."""

    def __init__(
        self,
        host: Host,
        embeddings: EmbeddingIndex,
        drafts: Drafts,
        live_check: LiveCheck,
        runs: RunsView,
        queue: RunQueue,
    ) -> None:
        self._host, self._embeddings, self._drafts, self._live_check = host, embeddings, drafts, live_check
        self._runs, self._queue = runs, queue
        self._lock = threading.Lock()
        self._replies: OrderedDict[str, dict[str, Any]] = OrderedDict()  # by token
        self._starting: Worker | None = None
        self._closed = False

    def close(self) -> None:
        """Start nothing any more, and end the process that is being started: nothing is lost with it."""
        self._closed = True
        if worker := self._starting:
            worker.terminate()

    @contextmanager
    def starting(self, request: Mapping[str, Any]) -> Iterator[Worker]:
        """A new worker, which `close` ends as long as the context lasts."""
        if self._closed:
            raise TextualInversionError("The WebUI is closing.")
        self._starting = worker = Worker(request)
        try:
            if self._closed:
                worker.terminate()
            yield worker
        finally:
            self._starting = None

    def actions(self) -> dict[str, Callable[..., Any]]:
        return {"train": self.train, "resume": self.resume}

    def train(self, form: Mapping[str, Any], draft: str, token: str) -> dict[str, Any]:
        """Start a training, or put it in the queue. A repeated request has the same `token` and gets the same reply."""
        return self.once(token, lambda: self._train(form, draft))

    def once(self, token: str, start: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The reply of `start`, one click at a time; that of the first call for a repeated request with the same `token`."""
        with self._lock:
            if token not in self._replies:
                self._replies[token] = start()
                while len(self._replies) > MAX_TOKENS:
                    self._replies.popitem(last=False)
            return self._replies[token]

    def request(self, form: Mapping[str, Any], draft: str) -> tuple[dict[str, RawValue], list[Problem]]:
        """The settings that a form asks for, and problems that the training process will not see."""
        raw, problems = form_to_settings.raw_settings(
            form, self._host, self._drafts.folder(draft), self._embeddings.find
        )
        problems += self._live_check.name_problems(str(raw["name"]))
        if not self._drafts.images(draft):
            problems.append(Problem("images", NO_IMAGES))
        if "model" not in raw:
            problems.append(Problem("model", NO_CHECKPOINT))
        with suppress(OSError):  # preflight says why
            self._host.embeddings_dir.mkdir(parents=True, exist_ok=True)
        return raw, problems

    def _train(self, form: Mapping[str, Any], draft: str) -> dict[str, Any]:
        raw, problems = self.request(form, draft)
        if not raw.get("overwrite") and files_named(str(raw["name"]), self._host.embeddings_dir):
            # subfolders too, where preflight does not look
            reason = "this word exists; choose another name, or replace it with --overwrite"
            problems.append(form_to_settings.problem_with_labels(Problem("name", reason)))
        refuse_at_once(raw, problems)
        with self.starting({"settings": raw}) as worker:
            return self._start_run(worker, problems, form, draft)

    def _start_run(
        self, worker: Worker, problems: list[Problem], form: Mapping[str, Any], draft: str
    ) -> dict[str, Any]:
        try:
            answer = reply_or_problems(worker, problems)
            if problems or answer is None:
                if answer is not None:
                    delete_run(RunFolder(Path(answer["run"])))
                raise BadInput(problems)
            folder = RunFolder.open(Path(answer["run"]))
            self.copy_images(folder, draft)
            EventLog(folder.events).append("pictures", summary=self._drafts.summary(draft))
            warnings = [form_to_settings.flags_to_labels(warning) for warning in answer.get("warnings", ())]
            for warning in warnings:
                EventLog(folder.events).append("warning", message=warning)
            self._queue.add(Job(folder, bool(form.get("keep_generating")), worker=worker))
        except BaseException:
            worker.close()
            raise
        self._runs.invalidate()
        return {"run": run_id(folder), "warnings": warnings}

    def copy_images(self, folder: RunFolder, draft: str) -> None:
        """Copy the draft's images into the run; if that fails, delete the run."""
        settings = folder.settings
        try:
            self._drafts.copy_to_run(draft, folder.images, settings.captions)
            # not the draft, which may have changed when the run is resumed
            folder.store_settings(dataclasses.replace(settings, images=folder.images))
        except OSError as error:
            delete_run(folder)
            raise TextualInversionError(f"The pictures could not be copied: {error.strerror}.") from error

    def resume(self, run: str, steps: int | None = None, form: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Resume a run, to a new total of `steps`; `form` may have `keep_generating` and `less_memory`."""
        folder, form = self._runs.folder(run), form or {}
        with self._lock:
            if self._queue.find(folder.path):
                return {"run": run}  # a second click
            if folder.running:
                raise RunBusy("Another program is running this training.")
            settings = folder.settings
            changes: dict[str, RawValue] = {
                name: str(form[name]) for name in (CHANGEABLE_ON_RESUME - {"device"}) & form.keys()
            }
            if steps is not None:
                changes["steps"] = str(steps)
            if form.get("less_memory"):
                changes |= {
                    "memory": next_memory_mode(settings), "batch_size": "1",
                    "gradient_accumulation": str(settings.effective_batch_size),
                }  # fmt: skip
            with self.starting({"run": str(folder.path), "changes": changes | self._new_places(settings)}) as worker:
                try:
                    worker.reply()
                    self._queue.add(Job(folder, bool(form.get("keep_generating")), worker=worker))
                except BaseException:
                    worker.close()
                    raise
            self._runs.reload_settings(folder)
        return {"run": run}

    def _new_places(self, settings: TrainSettings) -> dict[str, RawValue]:
        """Where this WebUI has what a run that was copied from elsewhere had somewhere else."""
        places: dict[str, RawValue] = {}
        selected = self._host.selected_checkpoint()
        if selected and not settings.model.exists() and selected.path.name == settings.model.name:
            places["model"] = str(selected.path)
        if not settings.out.is_dir():
            places["out"] = str(self._host.embeddings_dir)
        return places


def refuse_at_once(raw: Mapping[str, RawValue], problems: list[Problem]) -> None:
    """Raise BadInput if there is nothing to train on or with: no process has to be started to find the other problems."""
    if {"images", "model"} & {problem.option for problem in problems}:
        known = {problem.option for problem in problems}
        found = [*problems, *(problem for problem in parse(raw)[1] if problem.option not in known)]
        raise BadInput([form_to_settings.problem_with_labels(problem) for problem in found])


def reply_or_problems(worker: Worker, problems: list[Problem]) -> dict[str, Any] | None:
    """The worker's reply after its checks; None if it has found problems, which are added to those of other options."""
    try:
        return worker.reply()
    except BadInput as error:
        known = {problem.option for problem in problems}
        problems += [form_to_settings.problem_with_labels(p) for p in error.problems if p.option not in known]
        return None


def next_memory_mode(settings: TrainSettings) -> str:
    """The memory mode that needs less than the one a training ran in."""
    return MEMORY_MODES[min(MEMORY_MODES.index(settings.memory_modes[0]) + 1, len(MEMORY_MODES) - 1)]
