"""The embeddings in the host's folder: their format, whether they fit the selected checkpoint, and their images.

The page asks again and again, so each file is read once for each version of it (`FileStamp`), the most common kind by its
header alone, and a change is detected from the folder's entries.
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
from lib_ti.webui.images.decoder import decoder
from lib_ti.webui.images.thumbnails import ThumbnailCache

THUMBNAIL_SIZE = 160  # pixels, the longer side
_IMAGE_SUFFIXES = tuple(f"{infix}.{kind}" for infix in (".preview", "") for kind in ("png", "jpg", "jpeg", "webp"))
"""What follows an embedding's name in the file name of its image, by descending preference."""
_SDXL_ENCODERS = tuple(encoder.name for encoder in SDXL.encoders)
_LISTED_SUFFIXES = (*EMBEDDING_SUFFIXES, *_IMAGE_SUFFIXES[len(_IMAGE_SUFFIXES) // 2 :])


class FileStamp(NamedTuple):
    """One version of a file: a replaced or rewritten file has another stamp."""

    path: str
    time_ns: int
    size: int

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Raises OSError."""
        status = path.stat()
        return cls(str(path), status.st_mtime_ns, status.st_size)


@dataclass(frozen=True)
class Entry:
    """One embedding. `reason` tells users why it cannot be used with the selected checkpoint; empty if it can.

    `init_encoder`: the text encoder, of two, that a training on that checkpoint could nevertheless initialize from it.
    """

    name: str
    path: Path
    time: float  # seconds since 1970
    summary: Summary | None
    reason: str
    image: FileStamp | None
    init_encoder: str = ""

    @property
    def fits(self) -> bool:
        return not self.reason

    @property
    def label(self) -> str:
        """The text in a list of embeddings."""
        return f"{self.name} — {self.reason}" if self.reason else self.name


_T = TypeVar("_T")


def _cached_by_stamp(read: Callable[[Path], _T], max_entries: int) -> Callable[[FileStamp], _T]:
    """`read`, called once for each version of a file; the last `max_entries` results are kept."""
    return lru_cache(maxsize=max_entries)(lambda stamp: read(Path(stamp.path)))


_name_in = _cached_by_stamp(embedding_name, 10_000)


def files_named(name: str, folder: Path) -> list[str]:
    """The files in a folder and below that a WebUI would call `name`, images with an embedding in them included."""
    stamps = (stamp for files in scan(folder) for stamp in files.values())
    wanted = name.strip().casefold()  # an image without an embedding has no name, and answers to none
    return sorted(Path(s.path).name for s in stamps if wanted and (_name_in(s) or "").casefold() == wanted)


def free_name(name: str, folder: Path) -> str:
    """The name itself, or the first free one with a number: my-mug-2."""
    number, candidate = 1, name
    while files_named(candidate, folder):
        number += 1
        candidate = f"{name}-{number}"
    return candidate


class EmbeddingIndex:
    """The embeddings of one host. Thread-safe."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._summary_or_reason = _cached_by_stamp(_summary_or_reason, 10_000)
        self._vector_widths = _cached_by_stamp(embedding_widths, 50)
        self._thumbnails = ThumbnailCache(500, decoder.thumbnail)

    def checkpoint(self) -> CheckpointChoice | None:
        """The selected checkpoint."""
        return self._host.selected_checkpoint()

    def version(self) -> str:
        """Text that changes with the folder's embeddings and their images and, after the "-", with the checkpoint."""
        stamps = [stamp for files in scan(self._host.embeddings_dir) for stamp in files.values()]
        parts = repr(sorted(map(tuple, stamps))), repr(self._checkpoint_stamp())
        return "-".join(f"{zlib.crc32(part.encode('utf-8', 'surrogatepass')):08x}" for part in parts)

    def entries(self) -> list[Entry]:
        """All embeddings, newest first; those that do not fit the selected checkpoint come last."""
        checkpoint = self._checkpoint_stamp()
        widths = self._vector_widths(checkpoint) if checkpoint else None
        by_name: dict[str, Entry] = {}
        for files in scan(self._host.embeddings_dir):
            for file, stamp in files.items():
                entry = (
                    self._entry(stamp, files, widths) if file.endswith((*EMBEDDING_SUFFIXES, *IMAGE_SUFFIXES)) else None
                )
                if entry is None:
                    continue
                other = by_name.get(entry.name)
                if other is None or (entry.fits, entry.time) > (other.fits, other.time):
                    by_name[entry.name] = entry
        return sorted(by_name.values(), key=lambda e: (not e.fits, -e.time, e.name.casefold()))

    def find(self, name: str) -> Path | None:
        """The file of the embedding called `name`; of several, the one in the list."""
        folded = name.strip().casefold()
        return next((entry.path for entry in self.entries() if entry.name.casefold() == folded), None)

    def thumbnail(self, name: str) -> str | None:
        """An embedding's image as a data URL, at most `THUMBNAIL_SIZE` pixels long; None if it has none."""
        for entry in self.entries():
            if entry.name == name and entry.image:
                try:
                    return self._thumbnails.get(Path(entry.image.path), THUMBNAIL_SIZE)
                except Exception:  # a damaged image counts as none, whatever the decoder raises
                    return None
        return None

    def actions(self) -> dict[str, Callable[..., Any]]:
        """The page's actions, by name."""
        return {"embeddings": self._list_embeddings, "thumb": lambda name: {"image": self.thumbnail(str(name))}}

    def _list_embeddings(self) -> dict[str, Any]:
        version, checkpoint = self.version(), self.checkpoint()
        embeddings = [
            {
                "name": entry.name, "label": entry.label, "fits": entry.fits, "reason": entry.reason, "time": entry.time,
                "vectors": entry.summary.num_vectors if entry.summary else None, "preview": entry.image is not None,
                "starts": entry.init_encoder,
            }
            for entry in self.entries()
        ]  # fmt: skip
        return {"embeddings": embeddings, "checkpoint": checkpoint.title if checkpoint else "", "version": version}

    def _entry(
        self, stamp: FileStamp, siblings: Mapping[str, FileStamp], widths: tuple[int, ...] | None
    ) -> Entry | None:
        """The embedding in a file; None for an image without one. `siblings`: the files beside it."""
        path = Path(stamp.path)
        summary, problem = self._summary_or_reason(stamp)
        if summary is None and not problem:
            return None
        reason, init_encoder = f"unreadable: {problem}" if problem else "", ""
        if summary and widths and summary.widths != widths:
            reason = f"made for {summary.base_model}"
            encoder = initializable_encoder(summary.widths_by_encoder, dict(zip(_SDXL_ENCODERS, widths, strict=False)))
            init_encoder = encoder_title(encoder) if encoder else ""
        image_names = (f"{path.stem}{suffix}".lower() for suffix in _IMAGE_SUFFIXES)
        image = next((siblings[name] for name in image_names if name in siblings), None)
        name = summary.name if summary else path.stem
        return Entry(name, path, stamp.time_ns / 1e9, summary, reason, image, init_encoder)

    def _checkpoint_stamp(self) -> FileStamp | None:
        checkpoint = self.checkpoint()
        if checkpoint is None:
            return None
        try:
            return FileStamp.of(checkpoint.path)
        except OSError:
            return FileStamp(str(checkpoint.path), 0, 0)


def scan(root: Path) -> Iterator[dict[str, FileStamp]]:
    """For the folder and each below it, links followed, its embeddings and images by their lower-case names."""
    pending, seen = [str(root)], set()
    while pending:
        folder = pending.pop()
        real = os.path.realpath(folder)
        if real in seen:  # a link back up
            continue
        seen.add(real)
        stamps: dict[str, FileStamp] = {}
        for entry in _directory_entries(folder):
            name = entry.name.lower()
            try:
                if name.endswith(_LISTED_SUFFIXES) and not name.startswith("._"):  # macOS's resource forks
                    status = entry.stat()
                    # on a case-sensitive file system two names may differ in case alone
                    key = name if name not in stamps else f"{entry.name}/{name}"
                    stamps[key] = FileStamp(entry.path, status.st_mtime_ns, status.st_size)
                elif entry.is_dir():
                    pending.append(entry.path)
            except OSError:  # just deleted, or a broken link
                continue
        yield stamps


def _directory_entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # missing, or unreadable
        return []


def _summary_or_reason(path: Path) -> tuple[Summary | None, str]:
    try:
        return summarize(path), ""
    except UnusableFile as error:
        return None, error.reason
    except Exception as error:  # one odd file must not break the list
        return None, type(error).__name__
