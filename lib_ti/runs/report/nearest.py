"""The words of the checkpoint's vocabulary that a run's vectors are nearest to."""

from __future__ import annotations

from pathlib import Path

from lib_ti.embedding.inspect import EmbeddingReport, inspect_embedding
from lib_ti.embedding.read import read_embedding
from lib_ti.errors import UnusableFile
from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.runs.folder import RunFolder


def nearest_words(folder: RunFolder, best_step: int | None) -> EmbeddingReport | None:
    """A report on the run's embedding, or on its best or last snapshot; None if it has none, or its checkpoint is gone."""
    path = _embedding_path(folder, best_step)
    if path is None:
        return None
    try:
        tables = open_checkpoint(folder.settings.model).token_embeddings()
        return inspect_embedding(read_embedding(path), tables)
    except (UnusableFile, OSError, ValueError):
        return None


def _embedding_path(folder: RunFolder, best_step: int | None) -> Path | None:
    if folder.embedding.exists():
        return folder.embedding
    if best_step is not None and folder.snapshot(best_step).exists():
        return folder.snapshot(best_step)
    snapshots = (p for p in (folder.path / "snapshots").glob("*.safetensors") if p.stem.isdecimal())
    return max(snapshots, key=lambda p: int(p.stem), default=None)
