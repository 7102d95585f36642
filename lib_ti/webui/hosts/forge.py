"""Forge as a host: AUTOMATIC1111's user interface on a backend of its own."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lib_ti.errors import UnusableFile
from lib_ti.formats.safetensors_header import read_safetensors_header
from lib_ti.webui.hosts.a1111 import A1111, call_host_safely, host_module

_VAE_TENSOR = "decoder.conv_in.weight"  # Forge itself recognizes a VAE by it


class Forge(A1111):
    """The `Host` implementation for Forge."""

    title: str = "Forge"

    def _vae_of(self, checkpoint: Path) -> str | None:
        """Forge has one list for VAEs and text encoders; the last VAE in it counts."""
        modules = getattr(host_module("modules.shared").opts, "forge_additional_modules", None) or []
        return next((str(path) for path in reversed(modules) if _is_vae(Path(path))), None)

    def _uses_full_precision(self) -> bool:
        flags: list[Any] = []
        call_host_safely("ask for the precision", lambda: flags.append(host_module("backend.args").args.all_in_fp32))
        return any(flags) or super()._uses_full_precision()

    def _offload_models(self, undo: ExitStack) -> None:
        management = host_module("backend.memory_management")
        management.unload_all_models()  # Forge loads each of them again when it needs it
        management.soft_empty_cache()

    def _reload_embedding_databases(self) -> None:
        """Each text encoder reads its own database when it is built, and never again; the cards use another one."""
        model = host_module("modules.sd_models").model_data.sd_model
        for name, engine in list(vars(model).items()) if model is not None else ():
            if name.startswith("text_processing_engine") and hasattr(engine, "embeddings"):
                call_host_safely("make Forge read its embeddings", engine.embeddings.load_textual_inversion_embeddings)
        cards = host_module("modules.ui_extra_networks_textual_inversion").embedding_db
        cards.load_textual_inversion_embeddings(force_reload=True, sync_with_sd_model=False)


def _is_vae(path: Path) -> bool:
    """Decided by tensor names; for a pickle, which would have to be read whole, by the folder it is in."""
    if path.suffix.lower() in (".ckpt", ".pt", ".bin"):
        return path.is_file() and "text_encoder" not in path.parts
    try:
        return _VAE_TENSOR in read_safetensors_header(path).shapes
    except UnusableFile:
        return False
