"""Starts sweeps: from the page's form and the values to try, to their runs in the queue."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_ti.errors import BadInput, Problem, TextualInversionError
from lib_ti.runs.queue import Job, RunQueue
from lib_ti.runs.sweeps.grid import SWEEPABLE
from lib_ti.runs.sweeps.sweep import Sweep, SweepRun
from lib_ti.webui.api.results import delete_run
from lib_ti.webui.api.runs_view import RunsView, run_id
from lib_ti.webui.forms import form_to_settings
from lib_ti.webui.forms.launch import Launcher, refuse_at_once, reply_or_problems

DRAFT = ""
"""Stands for the draft's pictures among sets of images."""
DRAFT_LABEL = "new pictures"


class SweepLauncher:
    """Starts the sweeps of one host."""

    def __init__(self, launcher: Launcher, runs: RunsView, queue: RunQueue) -> None:
        self._launcher, self._runs, self._queue = launcher, runs, queue

    def start(self, form: Mapping[str, Any], draft: str, token: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Check every combination of values, create their runs and queue them; `token` as in `Launcher.train`."""
        return self._launcher.once(token, lambda: self._start(form, draft, values))

    def enqueue(self, sweep: Sweep, keep_generating: bool = False) -> list[str]:
        """Queue the runs of a sweep that are not finished; their ids."""
        queued = []
        for run in sweep.unfinished_runs:
            if self._queue.find(run.folder.path) is None and not run.folder.running:
                self._queue.add(Job(run.folder, keep_generating))
                queued.append(run_id(run.folder))
        return queued

    def _start(self, form: Mapping[str, Any], draft: str, values: Mapping[str, Any]) -> dict[str, Any]:
        texts = _texts(values)
        raw, problems = self._launcher.request(form, draft)
        sets = texts.get("images", [DRAFT])
        if DRAFT not in sets:
            problems = [problem for problem in problems if problem.option != "images"]
        sources = {DRAFT: Path(str(raw["images"]))} | {
            run: self._runs.folder(run).images for run in sets if run != DRAFT
        }
        if "images" in texts:
            texts["images"] = [str(sources[run]) for run in sets]
            raw["images"] = texts["images"][0]
        labels = {"images": {str(path): run or DRAFT_LABEL for run, path in sources.items()}}
        refuse_at_once(raw, problems)
        with self._launcher.starting({"sweep": {"settings": raw, "values": texts, "labels": labels}}) as worker:
            try:
                reply = reply_or_problems(worker, problems)
            finally:
                worker.close()
        if problems or reply is None:
            if reply is not None:
                _delete(Sweep.open(Path(reply["sweep"])))
            raise BadInput(problems)
        sweep = Sweep.open(Path(reply["sweep"]))
        try:
            for run in sweep.runs:
                self._copy_images(run, draft, sources[DRAFT])
            runs = self.enqueue(sweep, bool(form.get("keep_generating")))
        except BaseException:
            _delete(sweep)
            raise
        self._runs.invalidate()
        warnings = [form_to_settings.flags_to_labels(warning) for warning in reply["warnings"]]
        return {"sweep": sweep.path.name, "runs": runs, "warnings": warnings}

    def _copy_images(self, run: SweepRun, draft: str, draft_folder: Path) -> None:
        """Give the run its own copies, because the draft changes and other runs may be deleted."""
        settings = run.folder.settings
        if settings.images == draft_folder.absolute():
            self._launcher.copy_images(run.folder, draft)
            return
        try:
            shutil.copytree(settings.images, run.folder.images)
        except OSError as error:
            raise TextualInversionError(f"The pictures could not be copied: {error.strerror or error}.") from error
        run.folder.store_settings(dataclasses.replace(settings, images=run.folder.images))


def _texts(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """The values as texts. Raises BadInput where they are not lists of texts, or empty."""
    if not isinstance(values, Mapping):
        raise BadInput([Problem("", "a sweep needs several values for some options")])
    problems, texts = [], {}
    for option, items in values.items():
        if option not in SWEEPABLE:
            problems.append(Problem(option, "cannot have several values"))
        elif not isinstance(items, list) or not all(isinstance(item, str | int | float) for item in items):
            problems.append(Problem(option, "is not a list of values"))
        else:
            texts[option] = [str(item).strip() for item in items if option == "images" or str(item).strip()]
    if problems:
        raise BadInput(problems)
    return {option: items for option, items in texts.items() if items}


def _delete(sweep: Sweep) -> None:
    """Delete a sweep that was not started, with its runs."""
    for run in sweep.existing_runs:
        delete_run(run.folder)
    shutil.rmtree(sweep.path, ignore_errors=True)
