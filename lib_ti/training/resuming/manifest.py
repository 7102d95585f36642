"""The inputs of a run, by size and hash: a resumed run must have those that it began with.

`inputs.json` in the run folder holds sections: the checkpoint with the files that belong to it, the VAE, the pictures with
captions and masks, the templates. A section is recorded when its files are first used; old runs have none.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_ti import files
from lib_ti.errors import UnusableFile

WHOLE_BYTES = 256 << 20  # a file up to this size is hashed as a whole
SAMPLES, SAMPLE_BYTES = 256, 1 << 16  # of a larger one, these pieces, evenly spread, and its ends
END_BYTES = 1 << 20  # a header of safetensors, or a zip archive's list with the checksums of its members
MAX_FILES = 5000  # of a folder

_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".json", ".yaml", ".txt", ".model"}

Section = Mapping[str, tuple[int, str]]
"""By file name, its size in bytes and its hash; "" for a single file itself."""

TITLES = {
    "model": "the checkpoint", "vae": "the VAE", "images": "picture", "contrast_images": "good picture",
    "template_file": "the list of templates", "init_embedding": "the embedding it starts from",
}  # fmt: skip
"""The sections, by the option that names them, and what they are called."""


@dataclass
class Manifest:
    """`sections`: what was recorded. `changes`: what the user has gone on in spite of, each a phrase with its step."""

    sections: dict[str, Section] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """The manifest in a file; an empty one if there is none. Raises UnusableFile."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            sections = {name: _section(record["sections"][name]) for name in TITLES if name in record["sections"]}
            return cls(sections, [str(change) for change in record["changes"]])
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UnusableFile(
                path, "it is damaged; delete it to go on without a check of the pictures and the checkpoint"
            ) from error

    def write(self, path: Path) -> None:
        record = {"sections": self.sections, "changes": self.changes}
        files.atomic_write_bytes(path, json.dumps(record, indent=1).encode(), durable=True)

    def differences(self, now: Mapping[str, Section]) -> dict[str, list[str]]:
        """What has changed, by section: phrases for a sentence. Sections that were never recorded cannot have changed."""
        found = {
            name: list(_describe(TITLES[name], self.sections[name], section))
            for name, section in now.items()
            if name in self.sections and self.sections[name] != section
        }
        return {name: phrases for name, phrases in found.items() if phrases}

    def record(self, now: Mapping[str, Section]) -> bool:
        """Record sections that were not recorded yet; whether there were any."""
        new = {name: section for name, section in now.items() if name not in self.sections}
        self.sections |= new
        return bool(new)

    def accept(self, now: Mapping[str, Section], step: int) -> None:
        """Go on with changed inputs from `step` on: they are recorded, and so is that they have changed."""
        changed = self.differences(now)
        if changed:
            titles = [TITLES[name].removeprefix("the ") + ("s" if name.endswith("images") else "") for name in changed]
            self.changes.append(f"other {' and '.join(titles)} from step {step} on")
        self.sections |= {name: now[name] for name in changed}


def section_of(path: Path) -> Section:
    """What a file is, or the files of a folder of weights; a .yaml beside a file belongs to it. Raises OSError."""
    if path.is_dir():
        names = sorted(name for name in _walk(path) if Path(name).suffix.lower() in _WEIGHT_SUFFIXES)
        return {name: fingerprint(path / name) for name in names[:MAX_FILES]}
    config = path.with_suffix(".yaml")
    beside = {".yaml": fingerprint(config)} if config != path and config.is_file() else {}
    return {"": fingerprint(path), **beside}


def section_of_files(paths: Iterable[Path]) -> Section:
    """What files of different names are. Raises OSError."""
    return {path.name: fingerprint(path) for path in sorted(paths)}


def fingerprint(path: Path) -> tuple[int, str]:
    """A file's size in bytes, and a hash: of the whole file, or of both ends and samples of one that is very large."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= WHOLE_BYTES:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
        else:
            for start, length in _samples(size):
                file.seek(start)
                digest.update(file.read(length))
    return size, digest.hexdigest()


def _samples(size: int) -> Iterator[tuple[int, int]]:
    yield 0, END_BYTES
    for i in range(SAMPLES):
        yield (size - SAMPLE_BYTES) * i // SAMPLES, SAMPLE_BYTES
    yield size - END_BYTES, END_BYTES


def _walk(folder: Path) -> Iterator[str]:
    """The relative paths of the files in a folder, with "/"."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.is_file():
                yield path.relative_to(folder).as_posix()


def _describe(title: str, then: Section, now: Section) -> Iterator[str]:
    """What has changed between two states of a section."""
    for name in sorted({*then, *now}):
        if then.get(name) == now.get(name):
            continue
        what = f"{title} {name}" if title.endswith("picture") else title
        if name and title in (TITLES["model"], TITLES["vae"]):
            what = f"{name} of {title}"
        if name not in now:
            yield f"{what} is gone"
        elif name not in then:
            yield f"{what} is new"
        elif then[name][0] != now[name][0]:
            yield f"{what} is another file ({now[name][0]} bytes, then {then[name][0]})"
        else:
            yield f"{what} has other content"


def _section(record: Any) -> Section:
    """A section as it is stored. Raises ValueError, TypeError or AttributeError."""
    return {str(name): (int(size), str(digest)) for name, (size, digest) in record.items()}
