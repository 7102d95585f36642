"""Carrying out a run: the one way, for a new one and for one that goes on."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Sequence

from lib_ti import files
from lib_ti.data.captions import load_templates
from lib_ti.embedding.read import read_embedding
from lib_ti.errors import TextualInversionError, TrainingFailed
from lib_ti.formats.safetensors_tensors import safetensors_bytes
from lib_ti.model.checkpoint.checkpoint import Checkpoint
from lib_ti.model.checkpoint.open import open_checkpoint, with_vae
from lib_ti.runs.card_image import place_card
from lib_ti.runs.events import Event
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.recorder import FolderRecorder
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.import_images import import_images, load_examples
from lib_ti.training.preflight.preflight import Plan
from lib_ti.training.trainer import Trainer


def create(plan: Plan) -> RunFolder:
    """The run folder of a new training, with all it needs but the pictures, which `execute` takes in."""
    contents = {"templates.txt": "\n".join(plan.templates).encode() + b"\n"}
    if plan.initial:
        contents["start.safetensors"] = safetensors_bytes(plan.initial.vectors, plan.initial.metadata)
    return RunFolder.create(plan.settings, contents)


def execute(
    folder: RunFolder,
    watch: Callable[[Event], None] = lambda event: None,
    stopped: Callable[[], bool] = lambda: False,
    warnings: Sequence[str] = (),
    sample: Callable[[], bool] = lambda: False,
) -> bool:
    """Train from wherever the run is to its end, and put the embedding in its place. False if it was stopped before.

    `sample` says whether previews were asked for since it was called last. However it ends, the last event says so.
    Raises TextualInversionError, after the log has the traceback.
    """
    lock = folder.lock
    lock.acquire()
    recorder = FolderRecorder(folder, watch)
    try:
        for message in warnings:
            recorder.event("warning", message=message)
        return _execute(folder, recorder, stopped, sample)
    except KeyboardInterrupt:
        recorder.event("stopped", step=folder.saved_step)
        raise
    except Exception as error:
        with folder.log.open("a", encoding="utf-8") as log:
            log.write(traceback.format_exc())
        message = str(error) if isinstance(error, TextualInversionError) else _unexpected(error, folder)
        recorder.event("failed", message=message)
        if isinstance(error, TextualInversionError):
            raise
        raise TrainingFailed(message) from error
    finally:
        lock.release()


def _execute(
    folder: RunFolder, recorder: FolderRecorder, stopped: Callable[[], bool], sample: Callable[[], bool]
) -> bool:
    settings = folder.settings
    recorder.event("loading", checkpoint=settings.model.name, folder=str(folder.path))
    import_images(settings.images, settings.captions, folder.images, stopped, settings.masks)
    done = None
    if not stopped():
        session = Trainer(
            settings=settings,
            checkpoint=checkpoint_of(settings),
            examples=load_examples(folder.images, settings),
            templates=load_templates(folder.templates),
            initial=read_embedding(folder.start) if folder.start.exists() else None,
            recorder=recorder,
            stopped=stopped,
            sample=sample,
        )
        done = session.run()
    if done is None:
        recorder.event("stopped", step=folder.saved_step)
        return False
    deliver(done, folder, settings)
    if problem := place_card(folder, settings):
        recorder.event("warning", message=problem)
    recorder.event("finished", step=settings.steps, file=str(settings.out / f"{settings.name}.safetensors"))
    return True


def checkpoint_of(settings: TrainSettings) -> Checkpoint:
    """The checkpoint that a run's settings name. Raises UnusableFile."""
    checkpoint = open_checkpoint(settings.model)
    if settings.vae:
        checkpoint = with_vae(checkpoint, settings.vae)
    return checkpoint.adjusted(settings.prediction, settings.zero_terminal_snr, settings.clip_skip)


def deliver(data: bytes, folder: RunFolder, settings: TrainSettings) -> None:
    """Put a finished embedding into its place, and into the run folder; another one of that name is not touched.

    The place comes first: if the run is killed in between, the file there is known by its bytes as this run's own; so
    is a snapshot that the user has put there.
    """
    target = settings.out / f"{settings.name}.safetensors"
    if target.exists() and not settings.overwrite and target.read_bytes() not in (data, *folder.own_embeddings()):
        files.atomic_write_bytes(folder.embedding, data)
        raise TrainingFailed(
            f"{target} has come into being meanwhile and was left alone; the new embedding is {folder.embedding}"
        )
    try:
        settings.out.mkdir(exist_ok=True)
        with files.atomic_write(target) as part:
            part.write_bytes(data)
            if part.read_bytes() != data:
                raise OSError(errno.EIO, "what was written reads otherwise")
    except OSError as error:
        files.atomic_write_bytes(folder.embedding, data)
        raise TrainingFailed(
            f"{settings.out} cannot be written to ({error.strerror}); the new embedding is {folder.embedding}"
        ) from error
    files.atomic_write_bytes(folder.embedding, data)


def _unexpected(error: Exception, folder: RunFolder) -> str:
    reason = str(error).strip().splitlines()
    return f"{type(error).__name__}: {reason[0] if reason else 'no reason given'} (details in {folder.log})"
