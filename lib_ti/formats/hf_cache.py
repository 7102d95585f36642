"""Folders in which Hugging Face's programs keep what they have downloaded: `models--OWNER--NAME/snapshots/REVISION/`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from lib_ti.errors import UnusableFile
from lib_ti.formats.text_file import read_text

_INDEX = "model_index.json"
_CHECKPOINT_SUFFIXES = (".safetensors", ".ckpt")


def resolve_snapshot(path: Path) -> Path:
    """The diffusers folder, or the only checkpoint file, in a folder of the cache; any other path as it is.

    Of several revisions the one that `refs/main` names, else the one that changed last. Raises UnusableFile if none is of use.
    """
    folder = path if path.name == "snapshots" else path / "snapshots"
    if (path / _INDEX).is_file() or not folder.is_dir():
        return path
    revisions = sorted(
        (p for p in folder.iterdir() if p.is_dir()), key=lambda p: (p.name == _main(folder), p.stat().st_mtime)
    )
    for revision in reversed(revisions):
        if (revision / _INDEX).is_file():
            return revision
        files = sorted(p for p in revision.iterdir() if p.suffix.lower() in _CHECKPOINT_SUFFIXES and p.is_file())
        if len(files) == 1:
            return files[0]
        if files:
            names = ", ".join(file.name for file in files[:8])
            raise UnusableFile(
                path, f"this folder of Hugging Face's cache holds several checkpoints ({names}); name one in {revision}"
            )
    raise UnusableFile(path, "this folder of Hugging Face's cache holds no checkpoint; the download was not finished")


def _main(folder: Path) -> str:
    """The revision that the main branch is at; "" if it is not known."""
    with suppress(UnusableFile):
        return read_text(folder.parent / "refs" / "main", 1000).text.strip()
    return ""
