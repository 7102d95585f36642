"""AUTOMATIC1111's WebUI as a host. reForge and Forge Classic differ only in how they unload models.

The host's modules are looked up when they are needed: importing some of them is slow or has side effects, and an extension
is loaded before the host itself is complete. Anything that another version of the host lacks is logged and skipped, above all
after a training: its result must not be lost because the host could not be notified.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from lib_ti.webui.hosts import captioners, host_options
from lib_ti.webui.hosts.host import CheckpointChoice, TryLock

log = logging.getLogger("lib_ti")

MODEL_LOAD_TIMEOUT_S = 300.0  # how long to wait for the host to load its first model
RESTORE_ATTEMPTS, RESTORE_INTERVAL_S = 5, 1.0  # a worker that has just exited may hold GPU memory a little longer
_LDM_PATCHED = "ldm_patched.modules.model_management"  # the memory management of reForge and Forge Classic


def host_module(name: str) -> Any:
    """Import a module of the host."""
    return import_module(name)


def call_host_safely(purpose: str, function: Callable[..., object], *args: Any) -> bool:
    """Call a function of the host; if it raises, log that we could not `purpose` and return False."""
    try:
        function(*args)
    except Exception as error:
        log.warning("Could not %s: %s: %s", purpose, type(error).__name__, error)
        log.debug("in full", exc_info=True)
        return False
    return True


class A1111:
    """The `Host` implementation for AUTOMATIC1111's WebUI."""

    title: str = "AUTOMATIC1111"

    def __init__(self) -> None:
        self.lock: TryLock = host_module("modules.call_queue").queue_lock
        if _LDM_PATCHED in sys.modules:
            self.title = "WebUI"

    @property
    def hides_paths(self) -> bool:
        return bool(getattr(self._flags, "hide_ui_dir_config", False))

    @property
    def embeddings_dir(self) -> Path:
        configured = getattr(host_module("modules.shared").opts, "embeddings_dir", None)
        return Path(configured or self._flags.embeddings_dir).absolute()

    @property
    def runs_dir(self) -> Path:
        configured = host_options.option_value(host_options.RUNS_FOLDER).strip().strip('"')
        return self._data_dir / (Path(configured).expanduser() if configured else "textual_inversion")

    @property
    def keep_snapshots(self) -> bool:
        return bool(host_options.option_value(host_options.KEEP_SNAPSHOTS))

    @property
    def keep_images(self) -> bool:
        return bool(host_options.option_value(host_options.KEEP_IMAGES))

    def selected_checkpoint(self) -> CheckpointChoice | None:
        # not the host's select_checkpoint(): it prints a page of complaint whenever there is no checkpoint
        models = host_module("modules.sd_models")
        aliases = getattr(models, "checkpoint_aliases", {})
        choice = aliases.get(getattr(host_module("modules.shared").opts, "sd_model_checkpoint", None))
        choice = choice or next(iter(models.checkpoints_list.values()), None)
        return CheckpointChoice(str(choice.title), Path(choice.filename).absolute()) if choice else None

    def selected_vae(self) -> Path | None:
        choice = self.selected_checkpoint()
        paths: list[str | None] = []
        if choice:
            call_host_safely("ask for the VAE", lambda: paths.append(self._vae_of(choice.path)))
        path = Path(paths[0]).absolute() if paths and paths[0] else None
        return path if path and path.is_file() else None

    def device(self) -> str:
        devices = host_module("modules.devices")
        device = getattr(devices, "device", None) or devices.get_optimal_device()
        if device.type == "cuda":
            return f"cuda:{device.index or 0}"
        return "cpu" if device.type == "cpu" else "auto"

    def precision(self) -> str:
        # A host on a CPU has to be started with --no-half, which does not mean that its user wants fp32.
        return "fp32" if self._uses_full_precision() and self.device() != "cpu" else "auto"

    def clip_skip(self) -> int:
        layer = getattr(host_module("modules.shared").opts, "CLIP_stop_at_last_layers", None)
        return layer if isinstance(layer, int) and layer > 0 else 1

    def captioners(self) -> dict[str, str]:
        return captioners.available()

    def captioner(self, name: str) -> AbstractContextManager[Callable[[Any], str]]:
        return captioners.opened(name)

    @contextmanager
    def gpu_lent(self, name: str) -> Iterator[Callable[[], bool]]:
        """See `Host.gpu_lent`. If the host is still loading its first model, this waits for it, some minutes at most."""
        state = host_module("modules.shared").state
        was_interrupted = False

        def interrupted() -> bool:
            nonlocal was_interrupted  # remembered: anything else that a user does in the host resets its flags
            flags = ("interrupted", "stopping_generation")
            was_interrupted = was_interrupted or any(getattr(state, flag, False) for flag in flags)
            return was_interrupted

        with ExitStack() as undo:
            undo.callback(call_host_safely, "tell the host that the training has ended", lambda: state.end())
            call_host_safely("tell the host of the training", lambda: state.begin(job=f"Textual Inversion: {name}"))
            call_host_safely("let the training outlive Reload UI", _ignore_reload_interrupt, state, undo)
            call_host_safely("move the host's models off the GPU", self._offload_models, undo)
            yield interrupted

    def reload_embeddings(self, names: Sequence[str]) -> None:
        call_host_safely("make the host read its embeddings", self._reload_embedding_databases)
        call_host_safely("make the host forget its encoded prompts", self._clear_prompt_caches)

    @property
    def _flags(self) -> Any:
        return host_module("modules.shared").cmd_opts

    @property
    def _data_dir(self) -> Path:
        return Path(host_module("modules.paths_internal").data_path).absolute()

    def _vae_of(self, checkpoint: Path) -> str | None:
        path: str | None = host_module("modules.sd_vae").resolve_vae(str(checkpoint)).tuple()[0]
        return path

    def _uses_full_precision(self) -> bool:
        return bool(getattr(self._flags, "no_half", False)) or getattr(self._flags, "precision", "") == "full"

    def _offload_models(self, undo: ExitStack) -> None:
        """Move the models off the GPU; the restoring of each is pushed on `undo` before it is moved."""
        if management := sys.modules.get(_LDM_PATCHED):
            management.unload_all_models()  # the host loads them again by itself
            management.soft_empty_cache()
            return
        models = host_module("modules.sd_models")
        data = models.model_data
        self._wait_for_first_model(data)
        for model in [data.sd_model, *(m for m in data.loaded_sd_models if m is not data.sd_model)]:
            if model is None or not _is_on_gpu(model):
                continue  # a model that the host itself keeps in RAM must not be moved to the GPU afterwards
            undo.callback(self._restore_model, models, model)
            call_host_safely("move the host's model off the GPU", lambda model=model: models.send_model_to_cpu(model))

    def _restore_model(self, models: Any, model: Any) -> None:
        for attempt in range(RESTORE_ATTEMPTS):
            if attempt:
                time.sleep(RESTORE_INTERVAL_S)
                call_host_safely("empty the GPU's cache", host_module("modules.devices").torch_gc)
            if call_host_safely("move the host's model back to the GPU", lambda: models.send_model_to_device(model)):
                return
        log.error("The host's model is not back on the GPU: choose the checkpoint again, or restart the WebUI.")

    def _reload_embedding_databases(self) -> None:
        data = host_module("modules.sd_models").model_data
        self._wait_for_first_model(data)
        if data.sd_model is None:
            return  # embeddings are read together with the model; reading them now would load one
        database = host_module("modules.sd_hijack").model_hijack.embedding_db
        database.load_textual_inversion_embeddings(force_reload=True)

    def _wait_for_first_model(self, data: Any) -> None:
        """Wait for the thread that loads the first model: it would move it to the GPU, or read embeddings, concurrently."""
        lock = getattr(data, "lock", None)
        if lock is not None and data.sd_model is None and lock.acquire(timeout=MODEL_LOAD_TIMEOUT_S):
            lock.release()

    def _clear_prompt_caches(self) -> None:
        """The host caches encoded prompts by their text, whatever embeddings the names in it stand for by now."""
        processing = host_module("modules.processing")
        for kind in (processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img):
            for name in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):
                if cache := getattr(kind, name, None):
                    cache[0] = None  # in place: instances hold the same list


def _ignore_reload_interrupt(state: Any, undo: ExitStack) -> None:
    """Reload UI interrupts whatever is running; a training need not end for that."""
    interrupt = state.interrupt

    def interrupt_unless_reloading() -> None:
        if sys._getframe(1).f_code.co_name != "request_restart":
            interrupt()

    state.interrupt = interrupt_unless_reloading
    undo.callback(vars(state).pop, "interrupt", None)


def _is_on_gpu(model: Any) -> bool:
    if getattr(model, "lowvram", False):
        return True  # its parts are moved to the GPU one at a time
    return any(parameter.device.type != "cpu" for parameter in model.parameters())
