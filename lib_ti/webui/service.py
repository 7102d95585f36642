"""The service behind the page: it answers every action that the page can call, and holds the state behind them.

One service belongs to one host. It outlives the page and the host's "Reload UI"; its owner is `extension.Extension`, or the
command that serves the standalone page. What it knows of runs it reads from their folders.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from lib_ti import __version__
from lib_ti.errors import BadInput, TextualInversionError
from lib_ti.runs.queue import Job, RunQueue
from lib_ti.runs.queue_record import QueueRecord
from lib_ti.webui.api.queue_view import QueueView
from lib_ti.webui.api.results import Results, delete_run
from lib_ti.webui.api.runs_view import PAGE, RunsView, run_id
from lib_ti.webui.api.sharing import Sharing
from lib_ti.webui.api.sweeps import Sweeps
from lib_ti.webui.api.try_prompts import LABEL as TRY_LABEL
from lib_ti.webui.api.try_prompts import TryPrompts
from lib_ti.webui.embedding_index import EmbeddingIndex
from lib_ti.webui.forms import form_to_settings
from lib_ti.webui.forms.cost import CostEstimator
from lib_ti.webui.forms.launch import Launcher
from lib_ti.webui.forms.launch_sweep import SweepLauncher
from lib_ti.webui.forms.live_check import LiveCheck
from lib_ti.webui.forms.own_prompts import prompts_text
from lib_ti.webui.forms.speed import SpeedRecords
from lib_ti.webui.forms.suggestions import LABEL, Suggestions
from lib_ti.webui.hosts import gpu_handover
from lib_ti.webui.hosts.gpu_handover import GpuHandover
from lib_ti.webui.hosts.host import Host
from lib_ti.webui.images.actions import EXAMPLE_FOLDER, ImageActions
from lib_ti.webui.images.captioning import Captioning
from lib_ti.webui.images.drafts import Drafts
from lib_ti.webui.images.thumbnails import ThumbnailCache
from lib_ti.webui.images.uploads import UploadRegistry
from lib_ti.webui.security.redaction import redaction
from lib_ti.webui.ui import form

log = logging.getLogger("lib_ti")


class TrainingService:
    """The actions of the tab and the picker of one host.

    A public method listed in `actions` is an action: its name, parameters and result are the page's JSON protocol.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.embedding_index = EmbeddingIndex(host)
        self._thumbnails = ThumbnailCache()
        self._gpu_handover = GpuHandover(host)
        self._queue = RunQueue(self._gpu_handover.gpu_context, self._on_job_end, QueueRecord(host.runs_dir))
        self.restore_queue = self._queue.restore  # to be called once the host serves its page
        self._runs = RunsView(lambda: host.runs_dir, self._queue, self._thumbnails)
        self.uploads = UploadRegistry()
        self._drafts = Drafts(host.runs_dir, self._thumbnails, self.uploads)
        self._speed_records = SpeedRecords(host.runs_dir)
        costs = CostEstimator(host, self._speed_records)
        self._queue_view = QueueView(self._runs, self._queue, costs.seconds_of_run)
        self._live_check = LiveCheck(host, self._drafts, costs, self.embedding_index.find, self._names_in_training)
        self._results = Results(host, self._thumbnails, self._gpu_handover.reload_embeddings)
        self._sharing = Sharing(host, self._runs, self._results)
        self._launcher = Launcher(host, self.embedding_index, self._drafts, self._live_check, self._runs, self._queue)
        self._image_actions = ImageActions(host, self._drafts, self._live_check, self._runs, self._thumbnails)
        sweep_launcher = SweepLauncher(self._launcher, self._runs, self._queue)
        self._sweeps = Sweeps(host, self._runs, self._queue, sweep_launcher)
        self._suggestions = Suggestions(host, self._drafts, self._gpu_handover, self._queue)
        self._captioning = Captioning(host, self._drafts)
        self._try_prompts = TryPrompts(self._results, self._runs, self._queue, self._gpu_handover)
        gpu_handover.remove_stale_trial_embeddings(host.runs_dir)
        self._drafts.delete_stale()

    def private_paths(self) -> list[str]:
        """Folders that gradio must not serve files from."""
        return [str(self.host.runs_dir.absolute())]

    def redact(self, reply: Any) -> Any:
        """A reply without this computer's folders, if the host hides them."""
        return redaction(self.host)(reply)

    def refuse_starts(self) -> None:
        """Start no training any more: the server ends, and does not wait for what is being started."""
        self._launcher.close()

    def close(self) -> None:
        """Stop all trainings; each saves its state."""
        self.refuse_starts()
        self.uploads.close()
        self._suggestions.close()
        self._try_prompts.close()
        self._captioning.close()
        self._queue.close()

    def actions(self) -> dict[str, Callable[..., Any]]:
        """The actions, by the names that the page calls them by."""
        own = (
            self.form, self.check, self.poll, self.delete, self.delete_pictures, self.runs, self.advice,
            self.settings, self.preview, self.test_picture, self.use, self.card, self.download, self.open_folder,
        )  # fmt: skip
        parts = (
            self._queue_view,
            self._try_prompts,
            self._launcher,
            self._image_actions,
            self._captioning,
            self._suggestions,
            self._sweeps,
            self._sharing,
            self.embedding_index,
        )
        return {action.__name__: action for action in own} | {k: v for p in parts for k, v in p.actions().items()}

    # The form

    def form(self) -> dict[str, Any]:
        return {
            "values": form.default_values(self.host.hides_paths),
            "presets": form_to_settings.PRESETS,
            "checkpoint": self._live_check.checkpoint(),
            "hides_paths": self.host.hides_paths,
            "opens_folders": self._results.opens_folders,
            "captioners": self.host.captioners(),
            "example": EXAMPLE_FOLDER.is_dir(),
            "host": self.host.title,
            "version": __version__,
        }

    def check(self, form: Mapping[str, Any], draft: str) -> dict[str, Any]:
        reply = self._live_check.check(form, draft)
        latest = self._runs.latest(str(form.get("name", "")).strip())
        return {**reply, "earlier": run_id(latest) if latest else None}

    # Runs

    def poll(self, run: str | None, after: int) -> dict[str, Any]:
        jobs = self._queue.jobs()
        reply: dict[str, Any] = {
            "active": run_id(jobs[0].folder) if jobs else self._running_elsewhere(),
            "queue": self._queue_view.waiting(),
            "lending": self._lending(),
            "trying": self._try_prompts.status,
            "library": self.embedding_index.version(),
            "runs": self._runs.version(),
            "version": __version__,
            "run": None,
        }
        if run is not None:
            after = int(after)
            try:
                details = self._runs.follow(run, after)
                details["seconds_left"] = self._queue_view.seconds_left(details)
                reply["run"] = {**details, **self._results.in_use(self._runs.folder(run))}
            except TextualInversionError as error:
                reply["gone"] = str(error)
            except Exception:  # a run that cannot be read does not keep the page from the others
                log.exception("%s cannot be followed", run)
                reply["gone"] = "This training cannot be read."
        return reply

    def _lending(self) -> dict[str, Any] | None:
        """What the host has lent its GPU to: a training, or (without a run) the search for start words."""
        if self._suggestions.has_gpu:
            return {"run": None, "name": LABEL}
        if self._try_prompts.has_gpu:
            return {"run": None, "name": TRY_LABEL}
        job = self._gpu_handover.current_job
        return {"run": run_id(job.folder), "name": job.folder.path.parent.name} if job else None

    def _running_elsewhere(self) -> str | None:
        """A run of this host that another process is training: the WebUI before a restart, which is saving."""
        folder = self._runs.running_elsewhere()
        return run_id(folder) if folder else None

    def delete(self, run: str) -> dict[str, Any]:
        folder = self._runs.folder(run)
        if self._queue.find(folder.path) or folder.running:
            raise TextualInversionError("Stop this training before deleting it.")
        gpu_handover.remove_trial_embedding(folder)
        delete_run(folder)
        self._runs.invalidate()
        return {}

    def delete_pictures(self, run: str) -> dict[str, Any]:
        """Delete the run's copies of the user's pictures."""
        from lib_ti.runs.picture_copies import delete_picture_copies  # Pillow takes a moment

        folder = self._runs.folder(run)
        if self._queue.find(folder.path) or folder.running:
            raise TextualInversionError("Stop this training before deleting its pictures.")
        delete_picture_copies(folder)
        self._runs.invalidate()
        return {}

    def runs(self, offset: int = 0, limit: int = PAGE, run: str | None = None) -> dict[str, Any]:
        if run is not None:
            try:
                return {"runs": self._runs.rows([self._runs.folder(run)]), "total": 1}
            except TextualInversionError:
                return {"runs": [], "total": 0}
        return dict(zip(("runs", "total"), self._runs.list_runs(int(offset), int(limit)), strict=True))

    def advice(self, run: str) -> dict[str, Any]:
        return {"advice": self._runs.advice(run)}

    def settings(self, run: str) -> dict[str, Any]:
        folder = self._runs.folder(run)
        values = form_to_settings.form_values_of_run(folder, self.host.hides_paths)
        own_prompts = {"template_file": prompts_text(folder)} if "template_file" in values else {}
        return {"form": values | own_prompts}

    # Results

    def preview(self, run: str, step: int, prompt: int, seed: int, full: bool = False) -> dict[str, Any]:
        return {"image": self._results.preview(self._runs.folder(run), step, prompt, seed, full)}

    def test_picture(self, run: str, prompt: int, full: bool = False) -> dict[str, Any]:
        return {"image": self._results.test_image(self._runs.folder(run), prompt, full)}

    def use(
        self, run: str, step: int | None = None, name: str | None = None, overwrite: bool = False
    ) -> dict[str, Any]:
        if name is not None and (problems := self._live_check.name_problems(str(name))):
            raise BadInput(problems)
        return {"name": self._results.install(self._runs.folder(run), step, name, bool(overwrite))}

    def card(self, run: str, step: int, prompt: int, seed: int) -> dict[str, Any]:
        self._results.set_card_image(self._runs.folder(run), step, prompt, seed)
        return {}

    def download(self, run: str, step: int | None = None) -> dict[str, Any]:
        return self._results.download(self._runs.folder(run), step)

    def open_folder(self, run: str) -> dict[str, Any]:
        self._results.open_folder(self._runs.folder(run))
        return {}

    def _names_in_training(self) -> set[str]:
        return {job.folder.path.parent.name.casefold() for job in self._queue.jobs()}

    def _on_job_end(self, job: Job) -> None:
        self._speed_records.add(job.folder)
        self._queue_view.forget_estimates()
        gpu_handover.delete_unwanted_outputs(job.folder, self.host)
        self._sweeps.on_run_end(job.folder)
