"""AUTOMATIC1111's WebUI as a host. reForge and Forge Classic share everything but how they free the card.

The host's modules are looked up when they are needed: importing some of them is slow or starts things, and an extension
is loaded before the host itself is complete. What a host of another version lacks is logged and done without, above
all after a training: its result must not be lost because the host could not be told about it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from lib_ti.webui.hosts import host_options
from lib_ti.webui.hosts.host import CheckpointChoice, TryLock

log = logging.getLogger("lib_ti")

LOADING_S = 300.0  # how long the host may take to load its first model before it is not waited for any more
RESTORE_TRIES, RESTORE_PAUSE_S = 5, 1.0  # a process that has just ended may hold its memory on the card a little longer
_LDM_PATCHED = "ldm_patched.modules.model_management"  # reForge's and Forge Classic's own memory management


def module(name: str) -> Any:
    """A module of the host's."""
    return import_module(name)


def call_host_safely(what: str, action: Callable[..., object], *given: Any) -> bool:
    """Do it; where the host will not, log why and return False."""
    try:
        action(*given)
    except Exception as error:
        log.warning("Could not %s: %s: %s", what, type(error).__name__, error)
        log.debug("in full", exc_info=True)
        return False
    return True


class A1111:
    """The `Host` that AUTOMATIC1111's WebUI is."""

    title: str = "AUTOMATIC1111"

    def __init__(self) -> None:
        self.lock: TryLock = module("modules.call_queue").queue_lock
        if _LDM_PATCHED in sys.modules:
            self.title = "WebUI"

    @property
    def hides_paths(self) -> bool:
        return bool(getattr(self._flags, "hide_ui_dir_config", False))

    @property
    def embeddings(self) -> Path:
        set_by_user = getattr(module("modules.shared").opts, "embeddings_dir", None)
        return Path(set_by_user or self._flags.embeddings_dir).absolute()

    @property
    def runs(self) -> Path:
        asked = host_options.value(host_options.RUNS_FOLDER).strip().strip('"')
        return self._data / (Path(asked).expanduser() if asked else "textual_inversion")

    @property
    def keeps_snapshots(self) -> bool:
        return bool(host_options.value(host_options.KEEP_SNAPSHOTS))

    @property
    def keeps_pictures(self) -> bool:
        return bool(host_options.value(host_options.KEEP_PICTURES))

    def selected(self) -> CheckpointChoice | None:
        # not the host's select_checkpoint(): it prints a page of complaint each time there is no checkpoint
        models = module("modules.sd_models")
        known = getattr(models, "checkpoint_aliases", {})
        choice = known.get(getattr(module("modules.shared").opts, "sd_model_checkpoint", None))
        choice = choice or next(iter(models.checkpoints_list.values()), None)
        return CheckpointChoice(str(choice.title), Path(choice.filename).absolute()) if choice else None

    def vae(self) -> Path | None:
        choice = self.selected()
        found: list[str | None] = []
        if choice:
            call_host_safely("ask for the VAE", lambda: found.append(self._vae_of(choice.path)))
        path = Path(found[0]).absolute() if found and found[0] else None
        return path if path and path.is_file() else None

    def device(self) -> str:
        devices = module("modules.devices")
        device = getattr(devices, "device", None) or devices.get_optimal_device()
        if device.type == "cuda":
            return f"cuda:{device.index or 0}"
        return "cpu" if device.type == "cpu" else "auto"

    def precision(self) -> str:
        # A host on the CPU has to be told --no-half, which says nothing about what its user wants.
        return "fp32" if self._in_full_precision() and self.device() != "cpu" else "auto"

    @contextmanager
    def lent(self, name: str) -> Iterator[Callable[[], bool]]:
        """See `Host.lent`. A host that is still loading its first model is waited for, some minutes at most."""
        state = module("modules.shared").state
        pressed = False

        def interrupted() -> bool:
            nonlocal pressed  # kept: whatever else a user does in the host resets its flags
            pressed = pressed or any(getattr(state, flag, False) for flag in ("interrupted", "stopping_generation"))
            return pressed

        with ExitStack() as undo:
            undo.callback(call_host_safely, "tell the host that the training has ended", lambda: state.end())
            call_host_safely("tell the host of the training", lambda: state.begin(job=f"Textual Inversion: {name}"))
            call_host_safely("let the training outlive Reload UI", _outlive_reloads, state, undo)
            call_host_safely("free the card of the host's model", self._park, undo)
            yield interrupted

    def embeddings_changed(self, names: Sequence[str]) -> None:
        call_host_safely("make the host read its embeddings", self._read_embeddings)
        call_host_safely("make the host forget its encoded prompts", self._forget_prompts)

    @property
    def _flags(self) -> Any:
        return module("modules.shared").cmd_opts

    @property
    def _data(self) -> Path:
        return Path(module("modules.paths_internal").data_path).absolute()

    def _vae_of(self, checkpoint: Path) -> str | None:
        path: str | None = module("modules.sd_vae").resolve_vae(str(checkpoint)).tuple()[0]
        return path

    def _in_full_precision(self) -> bool:
        return bool(getattr(self._flags, "no_half", False)) or getattr(self._flags, "precision", "") == "full"

    def _park(self, undo: ExitStack) -> None:
        """Move models off the card; `undo` learns how to bring each back before it goes."""
        if management := sys.modules.get(_LDM_PATCHED):
            management.unload_all_models()  # they come back by themselves
            management.soft_empty_cache()
            return
        models = module("modules.sd_models")
        data = models.model_data
        self._wait_for_loading(data)
        for model in [data.sd_model, *(m for m in data.loaded_sd_models if m is not data.sd_model)]:
            if model is None or not _on_card(model):
                continue  # one that the host itself keeps in RAM must not come to the card afterwards
            undo.callback(self._bring_back, models, model)
            call_host_safely("move the host's model off the card", lambda model=model: models.send_model_to_cpu(model))

    def _bring_back(self, models: Any, model: Any) -> None:
        for attempt in range(RESTORE_TRIES):
            if attempt:
                time.sleep(RESTORE_PAUSE_S)
                call_host_safely("empty the card's cache", module("modules.devices").torch_gc)
            if call_host_safely("move the host's model back to the card", lambda: models.send_model_to_device(model)):
                return
        log.error("The host's model is not back on the card: choose the checkpoint anew, or restart the WebUI.")

    def _read_embeddings(self) -> None:
        data = module("modules.sd_models").model_data
        self._wait_for_loading(data)
        if data.sd_model is None:
            return  # it reads them with the model, and reading them now would load one
        module("modules.sd_hijack").model_hijack.embedding_db.load_textual_inversion_embeddings(force_reload=True)

    def _wait_for_loading(self, data: Any) -> None:
        """Until the thread that loads the first model is done: it would put it on the card, or read embeddings, beside us."""
        lock = getattr(data, "lock", None)
        if lock is not None and data.sd_model is None and lock.acquire(timeout=LOADING_S):
            lock.release()

    def _forget_prompts(self) -> None:
        """What the host keeps of encoded prompts is filed by their text, whatever the words mean by now."""
        processing = module("modules.processing")
        for kind in (processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img):
            for name in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):
                if cache := getattr(kind, name, None):
                    cache[0] = None  # in place: others hold the same list


def _outlive_reloads(state: Any, undo: ExitStack) -> None:
    """The host interrupts whatever runs when its page is reloaded from the settings; a training need not end for that."""
    interrupt = state.interrupt

    def unless_reloading() -> None:
        if sys._getframe(1).f_code.co_name != "request_restart":
            interrupt()

    state.interrupt = unless_reloading
    undo.callback(vars(state).pop, "interrupt", None)


def _on_card(model: Any) -> bool:
    if getattr(model, "lowvram", False):
        return True  # its parts come and go
    return any(parameter.device.type != "cpu" for parameter in model.parameters())
