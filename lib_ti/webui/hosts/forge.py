"""Forge as a host: AUTOMATIC1111's pages before a backend of its own."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lib_ti.errors import UnusableFile
from lib_ti.formats.safetensors_header import read_safetensors_header
from lib_ti.webui.hosts.a1111 import A1111, call_host_safely, module

_TELLS_A_VAE = "decoder.conv_in.weight"  # by which Forge itself tells one


class Forge(A1111):
    """The `Host` that Forge is."""

    title: str = "Forge"

    def _vae_of(self, checkpoint: Path) -> str | None:
        """Forge has one list for VAEs and text encoders; of several VAEs the last counts."""
        listed = getattr(module("modules.shared").opts, "forge_additional_modules", None) or []
        return next((str(path) for path in reversed(listed) if _is_vae(Path(path))), None)

    def _in_full_precision(self) -> bool:
        asked: list[Any] = []
        call_host_safely("ask for the precision", lambda: asked.append(module("backend.args").args.all_in_fp32))
        return any(asked) or super()._in_full_precision()

    def _park(self, undo: ExitStack) -> None:
        management = module("backend.memory_management")
        management.unload_all_models()  # they come back by themselves, each when it is needed
        management.soft_empty_cache()

    def _read_embeddings(self) -> None:
        """Each text encoder has a table of its own, read when it is built and never again; the cards have another."""
        model = module("modules.sd_models").model_data.sd_model
        for name, engine in list(vars(model).items()) if model is not None else ():
            if name.startswith("text_processing_engine") and hasattr(engine, "embeddings"):
                call_host_safely("make Forge read its embeddings", engine.embeddings.load_textual_inversion_embeddings)
        cards = module("modules.ui_extra_networks_textual_inversion").embedding_db
        cards.load_textual_inversion_embeddings(force_reload=True, sync_with_sd_model=False)


def _is_vae(path: Path) -> bool:
    """By the names of its tensors; a pickle, which would have to be read whole, by the folder it lies in."""
    if path.suffix.lower() in (".ckpt", ".pt", ".bin"):
        return path.is_file() and "text_encoder" not in path.parts
    try:
        return _TELLS_A_VAE in read_safetensors_header(path).shapes
    except UnusableFile:
        return False
