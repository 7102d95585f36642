"""What can be done with a run's results: look at them, choose a step, take it along."""

from __future__ import annotations

import base64
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lib_ti import files
from lib_ti.errors import BadInput, Problem, TextualInversionError
from lib_ti.formats.safetensors_header import parse_header, replace_metadata
from lib_ti.runs.card_image import card_of
from lib_ti.runs.folder import RunFolder
from lib_ti.settings import names
from lib_ti.webui.embedding_index import taken_by
from lib_ti.webui.hosts.host import Host
from lib_ti.webui.images.thumbnails import ThumbnailCache, data_url

log = logging.getLogger("lib_ti")
NAMES = ("name", "modelspec.title", "modelspec.trigger_phrase")


class Results:
    """Of the runs of one host."""

    def __init__(self, host: Host, thumbnails: ThumbnailCache, tell: Callable[[Sequence[str]], None]) -> None:
        self._host, self._thumbnails, self._tell = host, thumbnails, tell

    def preview(self, folder: RunFolder, step: int, prompt: int, seed: int, full: bool) -> str:
        """A preview as a data URL."""
        path = folder.preview(int(step), int(prompt), int(seed))
        try:
            return data_url(path.read_bytes(), "png") if full else self._thumbnails.get(path)
        except OSError as error:
            raise TextualInversionError("This preview is not there any more.") from error

    def file(self, folder: RunFolder, step: int | None) -> Path:
        """The embedding of a step, or the result; of a run without one, its last snapshot."""
        path = folder.embedding if step is None else folder.snapshot(int(step))
        if step is None and not path.exists():
            taken = (p for p in (folder.path / "snapshots").glob("*.safetensors") if p.stem.isdecimal())
            path = max(taken, key=lambda p: int(p.stem), default=path)
        if not path.exists():
            raise TextualInversionError("This step was not saved; choose one whose vectors were kept.")
        return path

    def use(self, folder: RunFolder, step: int | None, name: str | None, overwrite: bool) -> str:
        """Put the embedding of a step into the host's folder; gives its name. Raises BadInput where the name is taken."""
        own = folder.settings.name
        name = own if name is None else str(name)
        if problem := names.name_problem(name):
            raise BadInput([Problem("name", problem)])
        data = self.file(folder, step).read_bytes()
        target = self._host.embeddings / f"{name}.safetensors"
        if taken_by(name, self._host.embeddings) and not overwrite and not self._is_own(target, folder):
            raise BadInput([Problem("name", "this word exists already; replace it, or choose another name")])
        self._host.embeddings.mkdir(parents=True, exist_ok=True)
        files.atomic_write_bytes(target, data if name == own else renamed(data, name))
        self._tell([name])
        return name

    def make_card(self, folder: RunFolder, step: int, prompt: int, seed: int) -> None:
        """Show a preview on the word's card."""
        path = folder.preview(int(step), int(prompt), int(seed))
        if not path.exists():
            raise TextualInversionError("This preview is not there any more.")
        files.atomic_write_bytes(card_of(folder.settings), path.read_bytes())

    def download(self, folder: RunFolder, step: int | None) -> dict[str, str]:
        """The file's name and its content in base64."""
        name = folder.settings.name + ("" if step is None else f"-{int(step)}")
        return {
            "file": f"{name}.safetensors",
            "data": base64.b64encode(self.file(folder, step).read_bytes()).decode(),
        }

    def open_folder(self, folder: RunFolder) -> None:
        """Show the run's folder on the computer that the WebUI runs on."""
        if self._host.hides_paths:
            raise TextualInversionError("This WebUI does not show its folders.")
        if sys.platform == "win32":
            os.startfile(folder.path)
        else:
            opener = "open" if sys.platform == "darwin" else "xdg-open"
            if shutil.which(opener) is None:
                raise TextualInversionError(f"The folder is {folder.path}")
            subprocess.Popen([opener, str(folder.path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _is_own(self, target: Path, folder: RunFolder) -> bool:
        """Whether the file in the host's folder came from this very run."""
        if not target.exists():
            return False
        return target.read_bytes() in folder.own_embeddings()


def delete(folder: RunFolder) -> None:
    """Delete a run; its embedding in the host's folder stays."""
    doomed = folder.path.with_name(f".deleted-{folder.path.name}")
    folder.path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
    if not any(doomed.parent.iterdir()):
        doomed.parent.rmdir()


def renamed(data: bytes, name: str) -> bytes:
    """An embedding file of ours, under another name in its header, where it names itself."""
    metadata = parse_header(data).metadata
    return replace_metadata(data, {key: name if key in NAMES else value for key, value in metadata.items()})
