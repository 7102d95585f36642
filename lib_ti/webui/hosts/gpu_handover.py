"""Hands the GPU over to a training: takes the host's lock, offloads its model, and reloads its embeddings afterwards."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lib_ti import files
from lib_ti.errors import RunBusy
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.queue import Job
from lib_ti.webui.hosts.host import Host, acquired

log = logging.getLogger("lib_ti")

TRIAL_MARKER = "trial.json"  # in the run folder: the path of the trial embedding to remove, even after a kill


class GpuHandover:
    """The GPU handover of one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._current_job: Job | None = None

    @property
    def current_job(self) -> Job | None:
        """The training that holds the host's lock: nothing can be generated meanwhile."""
        return self._current_job

    @contextmanager
    def gpu_context(self, job: Job) -> Iterator[Callable[[], bool] | None]:
        """The `runs.queue.GpuContext` of a job. A job that keeps generating gets a trial embedding instead of the lock."""
        name = job.folder.path.parent.name
        if job.keep_generating:
            trial = TrialEmbedding(job.folder, self._host, self.reload_embeddings)

            def update_trial() -> bool:
                trial.update()
                return False  # the host, which keeps its lock, has no reason to stop the training

            try:
                yield update_trial
            finally:
                trial.remove()
                self.reload_embeddings([name])
            return
        with acquired(self._host.lock, lambda: job.cancelled) as is_acquired:
            if not is_acquired:
                yield None
                return
            self._current_job = job
            try:
                with self._host.gpu_lent(name) as interrupted:
                    yield interrupted
            finally:
                self._current_job = None
                self._reload_with_lock_held([name])

    @contextmanager
    def lend(self, name: str, cancelled: Callable[[], bool]) -> Iterator[Callable[[], bool] | None]:
        """Like `gpu_context`, for work that is no training and leaves no embedding. `name` is shown by the host."""
        with acquired(self._host.lock, cancelled) as is_acquired:
            if not is_acquired:
                yield None
                return
            with self._host.gpu_lent(name) as interrupted:
                yield interrupted

    def reload_embeddings(self, names: Sequence[str]) -> None:
        """Have the host reload its embeddings as soon as it is not generating; returns at once."""

        def reload() -> None:
            with acquired(self._host.lock, lambda: False):
                self._reload_with_lock_held(names)

        threading.Thread(target=reload, name="textual-inversion-reload", daemon=True).start()

    def _reload_with_lock_held(self, names: Sequence[str]) -> None:
        try:
            self._host.reload_embeddings(names)
        except Exception:  # the embedding is saved, whatever the host does
            log.exception("%s did not take notice of the new embedding; it will after a restart", self._host.title)


class TrialEmbedding:
    """The newest snapshot of a running training as an embedding called NAME-preview, to be tried in txt2img meanwhile."""

    def __init__(self, folder: RunFolder, host: Host, reload_embeddings: Callable[[Sequence[str]], None]) -> None:
        self._folder, self._reload_embeddings = folder, reload_embeddings
        self._name = f"{folder.path.parent.name}-preview"
        self._target = host.embeddings_dir / f"{self._name}.safetensors"
        self._enabled = not self._target.exists()
        self._step = -1

    def update(self) -> None:
        """Copy the newest snapshot to the embeddings folder, if there is a newer one."""
        if self._enabled and (newest := _newest_snapshot(self._folder)) > self._step:
            try:
                files.atomic_write_bytes(self._folder.path / TRIAL_MARKER, json.dumps(str(self._target)).encode())
                files.atomic_write_bytes(self._target, self._folder.snapshot(newest).read_bytes())
            except OSError:
                log.exception("the snapshot of step %d cannot be tried", newest)
                self._enabled = False
            else:
                self._step = newest
                self._reload_embeddings([self._name])

    def remove(self) -> None:
        if remove_trial_embedding(self._folder):
            self._reload_embeddings([self._name])


def remove_trial_embedding(folder: RunFolder) -> bool:
    """Remove a run's trial embedding. True if there was one."""
    marker = folder.path / TRIAL_MARKER
    try:
        target = Path(json.loads(marker.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return False
    if target.name == f"{folder.path.parent.name}-preview.safetensors":
        target.unlink(missing_ok=True)
    marker.unlink(missing_ok=True)
    return True


def remove_stale_trial_embeddings(runs_dir: Path) -> None:
    """Remove the trial embeddings of runs that were killed together with their host."""
    for marker in runs_dir.glob(f"*/*/{TRIAL_MARKER}"):
        folder = RunFolder(marker.parent)
        if not folder.running:
            remove_trial_embedding(folder)


def delete_unwanted_outputs(folder: RunFolder, host: Host) -> None:
    """Delete the images and snapshots of a finished run that the host's settings say not to keep."""
    last = folder.history().last
    if last is None or last.kind != "finished":
        return
    if not host.keep_images:
        from lib_ti.runs.picture_copies import delete_picture_copies  # Pillow takes a moment

        with suppress(OSError, RunBusy):  # a file that is open elsewhere; it can be deleted by hand
            delete_picture_copies(folder)
    if not host.keep_snapshots:
        shutil.rmtree(folder.path / "snapshots", ignore_errors=True)


def _newest_snapshot(folder: RunFolder) -> int:
    steps = (path.stem for path in (folder.path / "snapshots").glob("*.safetensors"))
    return max((int(step) for step in steps if step.isdecimal()), default=-1)
