"""Creates a run and trains it to its end; new and resumed runs, command line and worker all go through `execute_run`."""

from __future__ import annotations

import errno
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress

from lib_ti import files
from lib_ti.data.captions import load_templates
from lib_ti.embedding.read import read_embedding
from lib_ti.errors import TextualInversionError, TrainingFailed, UnusableFile
from lib_ti.formats.safetensors_tensors import safetensors_bytes
from lib_ti.runs.card_image import save_card_image
from lib_ti.runs.events import Event, EventLog
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.recorder import FolderRecorder
from lib_ti.runs.report.run_report import write_report
from lib_ti.runs.resume import record_inputs
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.health.failures import describe_unexpected
from lib_ti.training.import_images import import_images, load_examples
from lib_ti.training.preflight.preflight import Plan, open_for_training
from lib_ti.training.trainer import Trainer


def create_run(plan: Plan) -> RunFolder:
    """Create the run folder of a new training, complete but for the images, which `execute_run` imports."""
    contents = {
        "templates.txt": "\n".join(plan.templates).encode() + b"\n",
        "auto.json": json.dumps(list(plan.auto)).encode(),
    }
    if plan.initial_embedding:
        contents["start.safetensors"] = safetensors_bytes(
            plan.initial_embedding.vectors, plan.initial_embedding.metadata
        )
    folder = RunFolder.create(plan.settings, contents)
    record_inputs(folder, folder.settings)
    EventLog(folder.events).append("pictures", summary=plan.pictures)
    return folder


def execute_run(
    folder: RunFolder,
    on_event: Callable[[Event], None] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
    warnings: Sequence[str] = (),
    preview_requested: Callable[[], bool] = lambda: False,
) -> bool:
    """Train from the saved state to the last step, and save the embedding. Returns False if it was stopped before.

    `preview_requested` says whether previews were requested since its last call. However training ends, the last event says so.
    Raises TextualInversionError; the traceback is in the run's log by then.
    """
    lock = folder.lock
    try:
        lock.acquire()
        folder.remove_stale_parts()
        recorder = FolderRecorder(folder, on_event)
    except OSError as error:
        lock.release()
        raise TrainingFailed(describe_unexpected(error, folder.path, folder.log)) from error
    try:
        for message in warnings:
            recorder.event("warning", message=message)
        return _train(folder, recorder, should_stop, preview_requested)
    except KeyboardInterrupt:
        with suppress(OSError, UnusableFile):
            recorder.event("stopped", step=folder.saved_step)
        raise
    except Exception as error:
        message = (
            str(error)
            if isinstance(error, TextualInversionError)
            else describe_unexpected(error, folder.path, folder.log)
        )
        with suppress(OSError):  # on a full disk neither may be possible: the caller is told all the same
            recorder.event("failed", message=message)
            with folder.log.open("a", encoding="utf-8", errors="backslashreplace") as log:
                log.write(traceback.format_exc())
        if isinstance(error, TextualInversionError):
            raise
        raise TrainingFailed(message) from error
    finally:
        if not isinstance(sys.exc_info()[1], KeyboardInterrupt):  # who interrupts twice does not want to wait
            _write_report(folder, recorder)
        lock.release()


def _train(
    folder: RunFolder, recorder: FolderRecorder, should_stop: Callable[[], bool], preview_requested: Callable[[], bool]
) -> bool:
    settings = folder.settings
    recorder.event("loading", checkpoint=settings.model.name, folder=str(folder.path))
    import_images(settings.images, settings.captions, folder.images, should_stop, settings.masks, settings.name)
    if settings.contrast_images:
        import_images(settings.contrast_images, "none", folder.contrast_images, should_stop, masks=False)
    result = None
    if not should_stop():
        changes = record_inputs(folder, settings).changes
        trainer = Trainer(
            settings=settings,
            checkpoint=open_for_training(settings),
            examples=load_examples(folder.images, settings),
            contrast_examples=load_examples(folder.contrast_images, settings) if settings.contrast_images else (),
            templates=load_templates(folder.templates),
            initial_embedding=read_embedding(folder.init_embedding) if folder.init_embedding.exists() else None,
            recorder=recorder,
            notes={"changed_inputs": "; ".join(changes)} if changes else {},
            stop_requested=should_stop,
            preview_requested=preview_requested,
        )
        result = trainer.run()
    if result is None:
        recorder.event("stopped", step=folder.saved_step)
        return False
    install_embedding(result.embedding, folder, settings)
    if warning := save_card_image(folder, settings):
        recorder.event("warning", message=warning)
    file = settings.out / f"{settings.name}.safetensors"
    recorder.event("finished", step=result.last_step, file=str(file), reason=result.reason)
    return True


def _write_report(folder: RunFolder, recorder: FolderRecorder) -> None:
    """Write the run's report; what goes wrong becomes a warning, because the report is not the result."""
    try:
        path = write_report(folder)
        recorder.event("report", file=path.relative_to(folder.path).as_posix())
    except Exception as error:
        with suppress(OSError):
            with folder.log.open("a", encoding="utf-8", errors="backslashreplace") as log:
                log.write(traceback.format_exc())
            recorder.event(
                "warning", message=f"there is no report: {describe_unexpected(error, folder.path, folder.log)}"
            )


def install_embedding(data: bytes, folder: RunFolder, settings: TrainSettings) -> None:
    """Write a finished embedding to `settings.out` and into the run folder; never overwrite somebody else's file.

    `out` comes first: if the process is killed in between, the resumed run recognizes the file there by its bytes, and
    likewise a snapshot that the user has copied there. Raises TrainingFailed; the run folder has the embedding then.
    """
    target = settings.out / f"{settings.name}.safetensors"
    if target.exists() and not settings.overwrite and target.read_bytes() not in (data, *folder.own_embeddings()):
        files.atomic_write_bytes(folder.embedding, data, durable=True)
        raise TrainingFailed(
            f"{target} has come into being meanwhile and was left alone; the new embedding is {folder.embedding}"
        )
    try:
        settings.out.mkdir(exist_ok=True)
        # staged in the run folder: a kill leaves nothing in the embeddings folder
        with files.atomic_write(target, durable=True, staging=folder.path) as part:
            part.write_bytes(data)
            if part.read_bytes() != data:
                raise OSError(errno.EIO, "what was written reads otherwise")
    except OSError as error:
        files.atomic_write_bytes(folder.embedding, data, durable=True)  # or else says what is full
        raise TrainingFailed(
            f"{settings.out} cannot be written to ({error.strerror}); the new embedding is {folder.embedding}"
        ) from error
    files.atomic_write_bytes(folder.embedding, data, durable=True)
