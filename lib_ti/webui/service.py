"""Everything the page can ask for, and the state behind it: one trainer in a WebUI's process.

It outlives the page, and the host's "Reload UI". What it knows of runs it reads from their folders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lib_ti import __version__
from lib_ti.errors import BadInput, TextualInversionError
from lib_ti.runs.queue import Job, RunQueue
from lib_ti.webui.api import results
from lib_ti.webui.api.results import Results
from lib_ti.webui.api.runs_view import RunsView, id_of
from lib_ti.webui.embedding_index import EmbeddingIndex
from lib_ti.webui.forms import form_to_settings
from lib_ti.webui.forms.launch import Launch
from lib_ti.webui.forms.live_check import LiveCheck
from lib_ti.webui.forms.speed import Speed
from lib_ti.webui.hosts import gpu_handover
from lib_ti.webui.hosts.host import Host
from lib_ti.webui.images.actions import EXAMPLE_FOLDER, ImageActions
from lib_ti.webui.images.drafts import Drafts
from lib_ti.webui.images.thumbnails import ThumbnailCache
from lib_ti.webui.ui import form

_current: TrainingService | None = None


def start(host: Host) -> TrainingService:
    """The trainer of this process, made at the first call."""
    global _current
    if _current is None:
        _current = TrainingService(host)
    return _current


def current() -> TrainingService:
    """The trainer that was started."""
    if _current is None:
        raise TextualInversionError("The trainer is not running.")
    return _current


class TrainingService:
    """What stands behind the tab and the picker of one host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.library = EmbeddingIndex(host)
        self._thumbnails = ThumbnailCache()
        self._lending = gpu_handover.GpuHandover(host)
        self._queue = RunQueue(self._lending.around, self._ended)
        self._runs = RunsView(lambda: host.runs, self._queue, self._thumbnails)
        self._drafts = Drafts(host.runs, self._thumbnails)
        self._speed = Speed(host.runs)
        self._checking = LiveCheck(host, self._drafts, self._speed, self.library.named, self._training_names)
        self._results = Results(host, self._thumbnails, self._lending.tell)
        self._starting = Launch(host, self.library, self._drafts, self._checking, self._runs, self._queue)
        self._pictures = ImageActions(host, self._drafts, self._checking, self._runs, self._thumbnails)
        gpu_handover.clean_trials(host.runs)
        self._drafts.delete_stale()

    def blocked(self) -> list[str]:
        """Folders that gradio must not serve files from."""
        return [str(self.host.runs.absolute())]

    def close(self) -> None:
        """Stop all trainings, saved."""
        self._queue.close()

    def actions(self) -> dict[str, Callable[..., Any]]:
        """By the names that the page calls them."""
        own = (
            self.form, self.check, self.poll, self.stop, self.sample, self.delete, self.runs, self.settings, self.preview,
            self.use, self.card, self.download, self.open_folder,
        )  # fmt: skip
        parts = (self._starting, self._pictures, self.library)
        return {action.__name__: action for action in own} | {k: v for p in parts for k, v in p.actions().items()}

    # the form

    def form(self) -> dict[str, Any]:
        return {
            "values": form.values(self.host.hides_paths),
            "presets": self._checking.presets(),
            "checkpoint": self._checking.checkpoint(),
            "hides_paths": self.host.hides_paths,
            "example": EXAMPLE_FOLDER.is_dir(),
            "host": self.host.title,
            "version": __version__,
        }

    def check(self, form: Mapping[str, Any], draft: str) -> dict[str, Any]:
        answer = self._checking.check(form, draft)
        earlier = self._runs.latest(str(form.get("name", "")).strip())
        return {**answer, "earlier": id_of(earlier) if earlier else None}

    # runs

    def poll(self, run: str | None, after: int) -> dict[str, Any]:
        jobs = self._queue.jobs()
        borrower = self._lending.borrower
        answer: dict[str, Any] = {
            "active": id_of(jobs[0].folder) if jobs else self._elsewhere(),
            "queue": [id_of(job.folder) for job in jobs[1:]],
            "lending": {"run": id_of(borrower.folder), "name": borrower.folder.path.parent.name} if borrower else None,
            "library": self.library.version(),
            "runs": self._runs.version(),
            "version": __version__,
            "run": None,
        }
        if run is not None:
            try:
                answer["run"] = self._runs.follow(run, after)
            except TextualInversionError as error:
                answer["gone"] = str(error)
        return answer

    def _elsewhere(self) -> str | None:
        """A run of this host that another process works on: the WebUI before this one, which is saving."""
        folder = self._runs.working()
        return id_of(folder) if folder else None

    def stop(self, run: str) -> dict[str, Any]:
        if not self._queue.stop(self._runs.folder(run).path):
            raise TextualInversionError("This training is not running.")
        return {}

    def sample(self, run: str) -> dict[str, Any]:
        job = self._queue.find(self._runs.folder(run).path)
        if job is None or job.child is None or not job.started:
            raise TextualInversionError("Previews can be made once the training runs.")
        job.child.sample()
        return {}

    def delete(self, run: str) -> dict[str, Any]:
        folder = self._runs.folder(run)
        if self._queue.find(folder.path) or folder.running:
            raise TextualInversionError("Stop this training before deleting it.")
        gpu_handover.clean_trial(folder)
        results.delete(folder)
        self._runs.forget()
        return {}

    def runs(self) -> dict[str, Any]:
        return {"runs": self._runs.listed()}

    def settings(self, run: str) -> dict[str, Any]:
        return {"form": form_to_settings.form_of(self._runs.folder(run).settings, self.host.hides_paths)}

    # results

    def preview(self, run: str, step: int, prompt: int, seed: int, full: bool = False) -> dict[str, Any]:
        return {"image": self._results.preview(self._runs.folder(run), step, prompt, seed, full)}

    def use(
        self, run: str, step: int | None = None, name: str | None = None, overwrite: bool = False
    ) -> dict[str, Any]:
        if name is not None and (problems := self._checking.name_problems(str(name))):
            raise BadInput(problems)
        return {"name": self._results.use(self._runs.folder(run), step, name, bool(overwrite))}

    def card(self, run: str, step: int, prompt: int, seed: int) -> dict[str, Any]:
        self._results.make_card(self._runs.folder(run), step, prompt, seed)
        return {}

    def download(self, run: str, step: int | None = None) -> dict[str, Any]:
        return self._results.download(self._runs.folder(run), step)

    def open_folder(self, run: str) -> dict[str, Any]:
        self._results.open_folder(self._runs.folder(run))
        return {}

    def _training_names(self) -> set[str]:
        return {job.folder.path.parent.name.casefold() for job in self._queue.jobs()}

    def _ended(self, job: Job) -> None:
        self._speed.learn(job.folder)
        gpu_handover.tidy(job.folder, self.host)
