"""The embeddings in the host's folder: what each is, whether it fits the selected checkpoint, and its picture.

Asked for by the page again and again, so files are looked at once for each state they are in, the most common kind by
its header alone, and whether anything changed is told by the folder's entries.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lib_ti.embedding.compatibility import initializable_encoder
from lib_ti.embedding.file_type import IMAGE_SUFFIXES
from lib_ti.embedding.summary import Summary, embedding_name, summarize
from lib_ti.errors import UnusableFile
from lib_ti.model.checkpoint.embedding_widths import embedding_widths
from lib_ti.model.checkpoint.families import SDXL, encoder_title
from lib_ti.settings.names import EMBEDDING_SUFFIXES
from lib_ti.webui.hosts.host import CheckpointChoice, Host
from lib_ti.webui.images.thumbnails import ThumbnailCache

THUMB = 160  # pixels, the longer side
_PICTURES = tuple(f"{middle}.{kind}" for middle in (".preview", "") for kind in ("png", "jpg", "jpeg", "webp"))
"""What follows an embedding's name in its picture's, the best first."""
_PAIR = tuple(encoder.name for encoder in SDXL.encoders)
_WANTED = (*EMBEDDING_SUFFIXES, *_PICTURES[len(_PICTURES) // 2 :])


class Stamp(NamedTuple):
    """A file in one state: replaced or rewritten, it has another."""

    path: str
    time_ns: int
    size: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Raises OSError."""
        status = path.stat()
        return cls(str(path), status.st_mtime_ns, status.st_size)


@dataclass(frozen=True)
class Entry:
    """One embedding. `reason` says for users why it cannot be used with the selected checkpoint; empty where it can.

    `starts`: the text encoder, of two, that a training on that checkpoint could start from it nevertheless.
    """

    name: str
    path: Path
    time: float  # seconds since 1970
    summarize: Summary | None
    reason: str
    picture: Stamp | None
    starts: str = ""

    @property
    def fits(self) -> bool:
        return not self.reason

    @property
    def label(self) -> str:
        """What a list of embeddings shows."""
        return f"{self.name} — {self.reason}" if self.reason else self.name


_T = TypeVar("_T")


def _once(look: Callable[[Path], _T], most: int) -> Callable[[Stamp], _T]:
    """What is found out of a file, once for each state it is in; of `most` at a time."""
    return lru_cache(maxsize=most)(lambda stamp: look(Path(stamp.path)))


_named = _once(embedding_name, 10_000)


def taken_by(name: str, folder: Path) -> list[str]:
    """The files in a folder and below, pictures that hold an embedding among them, that a WebUI would call by `name`."""
    found = (stamp for files in folders(folder) for stamp in files.values())
    return sorted(Path(s.path).name for s in found if (_named(s) or "").casefold() == name.casefold())


def free_name(name: str, folder: Path) -> str:
    """The name itself, or with the first number behind it that is free: my-mug-2."""
    number, candidate = 1, name
    while taken_by(candidate, folder):
        number += 1
        candidate = f"{name}-{number}"
    return candidate


class EmbeddingIndex:
    """The embeddings of one host. To be asked from any thread."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._outline = _once(_outline_or_reason, 10_000)
        self._widths = _once(embedding_widths, 50)
        self._thumbs = ThumbnailCache(500)

    def checkpoint(self) -> CheckpointChoice | None:
        """The selected checkpoint."""
        return self._host.selected()

    def version(self) -> str:
        """Text that is another as soon as the folder's embeddings, their pictures or, behind the -, the checkpoint are others."""
        found = [stamp for folder in folders(self._host.embeddings) for stamp in folder.values()]
        parts = repr(sorted(map(tuple, found))), repr(self._selected())
        return "-".join(f"{zlib.crc32(part.encode('utf-8', 'surrogatepass')):08x}" for part in parts)

    def entries(self) -> list[Entry]:
        """All embeddings, the newest first; those that do not fit the selected checkpoint come last."""
        stamp = self._selected()
        widths = self._widths(stamp) if stamp else None
        by_name: dict[str, Entry] = {}
        for folder in folders(self._host.embeddings):
            for file, found in folder.items():
                entry = (
                    self._entry(found, folder, widths)
                    if file.endswith((*EMBEDDING_SUFFIXES, *IMAGE_SUFFIXES))
                    else None
                )
                if entry is None:
                    continue
                other = by_name.get(entry.name)
                if other is None or (entry.fits, entry.time) > (other.fits, other.time):
                    by_name[entry.name] = entry
        return sorted(by_name.values(), key=lambda e: (not e.fits, -e.time, e.name.casefold()))

    def named(self, name: str) -> Path | None:
        """The file of the embedding that goes by a name, of several the one in the list."""
        wanted = name.strip().casefold()
        return next((entry.path for entry in self.entries() if entry.name.casefold() == wanted), None)

    def thumb(self, name: str) -> str | None:
        """An embedding's picture as a data URL, at most `THUMB` pixels long; None where it has none."""
        for entry in self.entries():
            if entry.name == name and entry.picture:
                try:
                    return self._thumbs.get(Path(entry.picture.path), THUMB)
                except Exception:  # a damaged picture is no picture, whatever the decoder says
                    return None
        return None

    def actions(self) -> dict[str, Callable[..., Any]]:
        """What the page may ask for."""
        return {"embeddings": self._tell_embeddings, "thumb": lambda name: {"image": self.thumb(str(name))}}

    def _tell_embeddings(self) -> dict[str, Any]:
        version, checkpoint = self.version(), self.checkpoint()
        told = [
            {
                "name": entry.name, "label": entry.label, "fits": entry.fits, "reason": entry.reason, "time": entry.time,
                "vectors": entry.summarize.num_vectors if entry.summarize else None, "preview": entry.picture is not None,
                "starts": entry.starts,
            }
            for entry in self.entries()
        ]  # fmt: skip
        return {"embeddings": told, "checkpoint": checkpoint.title if checkpoint else "", "version": version}

    def _entry(self, stamp: Stamp, beside: Mapping[str, Stamp], widths: tuple[int, ...] | None) -> Entry | None:
        """An embedding in a file; None for a plain picture."""
        path = Path(stamp.path)
        found, problem = self._outline(stamp)
        if found is None and not problem:
            return None
        reason, starts = f"unreadable: {problem}" if problem else "", ""
        if found and widths and found.widths != widths:
            reason = f"made for {found.base_model}"
            part = initializable_encoder(found.widths_by_encoder, dict(zip(_PAIR, widths, strict=False)))
            starts = encoder_title(part) if part else ""
        names = (f"{path.stem}{end}".lower() for end in _PICTURES)
        picture = next((beside[name] for name in names if name in beside), None)
        return Entry(found.name if found else path.stem, path, stamp.time_ns / 1e9, found, reason, picture, starts)

    def _selected(self) -> Stamp | None:
        checkpoint = self.checkpoint()
        if checkpoint is None:
            return None
        try:
            return Stamp.of(checkpoint.path)
        except OSError:
            return Stamp(str(checkpoint.path), 0, 0)


def folders(root: Path) -> Iterator[dict[str, Stamp]]:
    """For the folder and each below it, links included, its embeddings and pictures by their names in small letters."""
    waiting, seen = [str(root)], set()
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in seen:  # a link back up
            continue
        seen.add(real)
        found: dict[str, Stamp] = {}
        for entry in _listed(folder):
            name = entry.name.lower()
            try:
                if name.endswith(_WANTED) and not name.startswith("._"):  # which macOS leaves about
                    status = entry.stat()
                    # on a file system that tells letters apart, two names may differ in nothing else
                    key = name if name not in found else f"{entry.name}/{name}"
                    found[key] = Stamp(entry.path, status.st_mtime_ns, status.st_size)
                elif entry.is_dir():
                    waiting.append(entry.path)
            except OSError:  # just gone, or a link to nothing
                continue
        yield found


def _listed(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # not there, or not ours to read
        return []


def _outline_or_reason(path: Path) -> tuple[Summary | None, str]:
    try:
        return summarize(path), ""
    except UnusableFile as error:
        return None, error.reason
    except Exception as error:  # one odd file must not take the list away
        return None, type(error).__name__
