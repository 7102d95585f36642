"""The user's actions on the results of a run: view previews, install the embedding of some step, download it, delete the run."""

from __future__ import annotations

import base64
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lib_ti import files
from lib_ti.errors import BadInput, Problem, TextualInversionError, UnusableFile
from lib_ti.formats.safetensors_header import InvalidHeader, parse_header, replace_metadata
from lib_ti.runs.card_image import card_image_path
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.sharing.about import About, with_about
from lib_ti.settings import names
from lib_ti.webui.embedding_index import FileStamp, files_named
from lib_ti.webui.hosts.host import Host
from lib_ti.webui.images.thumbnails import ThumbnailCache, data_url

log = logging.getLogger("lib_ti")
NAME_KEYS = ("name", "modelspec.title", "modelspec.trigger_phrase")
"""The metadata keys of an embedding file that hold its name."""
_PREVIEW_GONE = "This preview no longer exists."


class Results:
    """The results of one host's runs."""

    def __init__(
        self, host: Host, thumbnails: ThumbnailCache, reload_embeddings: Callable[[Sequence[str]], None]
    ) -> None:
        self._host, self._thumbnails, self._reload_embeddings = host, thumbnails, reload_embeddings
        self._in_use: dict[Path, tuple[object, dict[str, Any]]] = {}  # by run: state of the files, and the answer

    def preview(self, folder: RunFolder, step: int, prompt: int, seed: int, full: bool) -> str:
        """A preview as a data URL: as it was sampled if `full`, else a thumbnail."""
        return self._image(folder.preview(int(step), int(prompt), int(seed)), full)

    def test_image(self, folder: RunFolder, prompt: int, full: bool) -> str:
        """A test picture of the finished embedding as a data URL, as `preview` gives them."""
        return self._image(folder.test(int(prompt)), full)

    def _image(self, path: Path, full: bool) -> str:
        try:
            return data_url(path.read_bytes(), "png") if full else self._thumbnails.get(path)
        except OSError as error:
            raise TextualInversionError(_PREVIEW_GONE) from error

    def embedding_file(self, folder: RunFolder, step: int | None) -> Path:
        """The snapshot of a step, or the result if `step` is None; the last snapshot if the run has no result."""
        path = folder.embedding if step is None else folder.snapshot(int(step))
        if step is None and not path.exists():
            snapshots = (p for p in (folder.path / "snapshots").glob("*.safetensors") if p.stem.isdecimal())
            path = max(snapshots, key=lambda p: int(p.stem), default=path)
        if not path.exists():
            raise TextualInversionError("This step was not saved. Choose one with the button Use this step.")
        return path

    def embedding_to_try(self, folder: RunFolder) -> Path:
        """The host's embedding of the run's name if it is one of this run, else the run's own result or last snapshot."""
        in_use = self.in_use(folder)["used_step"] is not None
        return (
            self._host.embeddings_dir / f"{folder.settings.name}.safetensors"
            if in_use
            else self.embedding_file(folder, None)
        )

    def install(self, folder: RunFolder, step: int | None, name: str | None, overwrite: bool) -> str:
        """Copy the embedding of a step to the host's folder; returns its name. Raises BadInput if the name is taken."""
        own_name = folder.settings.name
        name = own_name if name is None else str(name)
        if problem := names.name_problem(name):
            raise BadInput([Problem("name", problem)])
        data = self.embedding_file(folder, step).read_bytes()
        target = self._host.embeddings_dir / f"{name}.safetensors"
        if files_named(name, self._host.embeddings_dir) and not overwrite and not is_from_run(target, folder):
            raise BadInput([Problem("name", "this word exists; replace it, or choose another name")])
        self._host.embeddings_dir.mkdir(parents=True, exist_ok=True)
        files.atomic_write_bytes(target, data if name == own_name else with_name(data, name))
        self._reload_embeddings([name])
        return name

    def in_use(self, folder: RunFolder) -> dict[str, Any]:
        """What of a run the host's embedding of its name is, for the page.

        `used_step`: the step whose vectors it has; None if it is not one of this run. `delivered`: whether it is the result.
        """
        target = self._host.embeddings_dir / f"{folder.path.parent.name}.safetensors"
        try:
            stamp = FileStamp.of(target), folder.events.stat().st_size
            if folder.path not in self._in_use or self._in_use[folder.path][0] != stamp:
                data = target.read_bytes()
                plain = with_about(data, About())
                step = int(parse_header(data).metadata["steps"]) if plain in folder.own_embeddings() else None
                delivered = folder.embedding.exists() and plain == folder.embedding.read_bytes()
                self._in_use[folder.path] = (stamp, {"used_step": step, "delivered": delivered})
            return self._in_use[folder.path][1]
        except (OSError, UnusableFile, KeyError, ValueError):
            return {"used_step": None, "delivered": False}

    def set_card_image(self, folder: RunFolder, step: int, prompt: int, seed: int) -> None:
        """Make a preview the embedding's card image."""
        path = folder.preview(int(step), int(prompt), int(seed))
        if not path.exists():
            raise TextualInversionError(_PREVIEW_GONE)
        files.atomic_write_bytes(card_image_path(folder.settings), path.read_bytes())

    def download(self, folder: RunFolder, step: int | None) -> dict[str, str]:
        """The file name of an embedding, and its content in base64."""
        name = folder.settings.name + ("" if step is None else f"-{int(step)}")
        data = self.embedding_file(folder, step).read_bytes()
        return {"file": f"{name}.safetensors", "data": base64.b64encode(data).decode()}

    @property
    def opens_folders(self) -> bool:
        """Whether this computer has a file manager to show folders in, and may."""
        if sys.platform in ("win32", "darwin"):
            return not self._host.hides_paths
        has_display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
        return not self._host.hides_paths and has_display and shutil.which("xdg-open") is not None

    def open_folder(self, folder: RunFolder) -> None:
        """Show the run's folder in the file manager of the computer that the WebUI runs on."""
        if self._host.hides_paths:
            raise TextualInversionError("This WebUI does not show its folders.")
        if sys.platform == "win32":
            os.startfile(folder.path)
        else:
            opener = "open" if sys.platform == "darwin" else "xdg-open"
            if shutil.which(opener) is None:
                raise TextualInversionError(f"The folder is {folder.path}")
            subprocess.Popen([opener, str(folder.path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def is_from_run(target: Path, folder: RunFolder) -> bool:
    """Whether a file is an embedding of this very run, whatever its author has written into it."""
    try:
        return with_about(target.read_bytes(), About()) in folder.own_embeddings()
    except (OSError, InvalidHeader):
        return False


def delete_run(folder: RunFolder) -> None:
    """Delete a run; its embedding in the host's folder stays."""
    renamed = folder.path.with_name(f".deleted-{folder.path.name}")
    folder.path.rename(renamed)
    shutil.rmtree(renamed, ignore_errors=True)
    if not any(renamed.parent.iterdir()):
        renamed.parent.rmdir()


def with_name(data: bytes, name: str) -> bytes:
    """An embedding file that this project wrote, with another name in its safetensors metadata."""
    metadata = parse_header(data).metadata
    return replace_metadata(data, {key: name if key in NAME_KEYS else value for key, value in metadata.items()})
