"""What a folder of images holds: what is used of it, and what is not. Nothing is left out without a word.

Subfolders are read, too. One that is called NUMBER_NAME, as kohya's scripts want it, says how often its images are used.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lib_ti import files
from lib_ti.data.image_files import Companions, ImageFile, caption_stem, mask_stem, name_key
from lib_ti.errors import UnusableFile
from lib_ti.formats.file_kind import PICTURE_SUFFIXES

MAX_DEPTH, MAX_FILES = 6, 50_000
MAX_NAMES = 6  # of files, in a sentence
REPEATS_FILE = "repeats.json"  # in a run's own folder of images: how often each is used, by its stem

_OTHER_SUFFIXES = {
    ".txt", ".json", ".jsonl", ".caption", ".cap", ".npz", ".npy", ".md", ".csv", ".yaml", ".yml", ".toml", ".db", ".ini", ".log",
    ".html", ".py", ".safetensors", ".pt", ".ckpt", ".bin",
}  # fmt: skip
"""Of files that are not tried as images."""
_SYSTEM_NAMES = {"thumbs.db", "desktop.ini", "draft.json", REPEATS_FILE, "__macosx", "@eadir", "$recycle.bin"}
_REPEATS = re.compile(r"([1-9]\d{0,2})_.*", re.DOTALL)


@dataclass(frozen=True)
class UnusedFile:
    """A file or folder that nothing is learned from. `kind`: what it is, in a few words, or "" where its name says enough."""

    path: Path
    kind: str = ""


@dataclass(frozen=True)
class ImageFolder:
    """The images of a folder and its subfolders in the order of their names, and the files that are not used."""

    path: Path
    files: Sequence[ImageFile]
    unused: Sequence[UnusedFile] = ()

    def summary(self, used: Sequence[ImageFile], counts: Mapping[str, int], refused: Iterable[Path] = ()) -> str:
        """One line: "6 pictures, 5 captions; not used: 1 broken link, notes.pdf".

        `used`: those of the images that can be read; `counts`: of other things that are used, by their name in the singular;
        `refused`: further files that are not used.
        """
        unused = [*self.unused, *(UnusedFile(path) for path in refused)]
        parts = [count_of(len(used), "picture"), *(count_of(n, name) for name, n in counts.items() if n)]
        folders = {f.path.parent.name: f.repeats for f in used if f.repeats > 1}
        parts += [f"those of {name} {count} times as often" for name, count in sorted(folders.items())]
        names = [*_grouped(unused), *self._named([f.path for f in unused if not f.kind])]
        return ", ".join(parts) + (f"; not used: {', '.join(names)}" if names else "")

    def without_names(self) -> list[str]:
        """What is not used, in words; of files that do not look like pictures only how many there are."""
        others = sum(not file.kind for file in self.unused)
        return [*_grouped(self.unused, names=False), *([count_of(others, "other file")] if others else [])]

    def _named(self, paths: Sequence[Path]) -> list[str]:
        """The names of files, but those of many of a kind only by their number."""
        by_suffix: dict[str, list[Path]] = {}
        for path in paths:
            by_suffix.setdefault(path.suffix.lower(), []).append(path)
        names = [self._name(path) for group in by_suffix.values() if len(group) <= MAX_NAMES for path in sorted(group)]
        shown = names[: 2 * MAX_NAMES]
        many = [
            f"{len(group)} {suffix or 'other'} files" for suffix, group in by_suffix.items() if len(group) > MAX_NAMES
        ]
        return [*shown, *([f"{len(names) - len(shown)} more"] if len(names) > len(shown) else []), *many]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix() if path.is_relative_to(self.path) else path.name


def count_of(count: int, name: str) -> str:
    """A number of things: "1 picture", "2 pictures"."""
    return f"{count} {name}{'' if count == 1 else 's'}"


def _grouped(unused: Sequence[UnusedFile], names: bool = True) -> list[str]:
    """The unused files of each kind: "1 broken link", "2 texts without a picture (a.txt, b.txt)"; `names`: with the latter."""
    by_kind: dict[str, list[str]] = {}
    for file in unused:
        if file.kind:
            by_kind.setdefault(file.kind, []).append(file.path.name)
    groups = []
    for kind, members in by_kind.items():
        first, without, rest = kind.partition(" without")
        listed = ", ".join(members[:MAX_NAMES]) + (", …" if len(members) > MAX_NAMES else "")
        in_brackets = f" ({listed})" if names and without else ""
        groups.append(f"{count_of(len(members), first)}{without}{rest}{in_brackets}")
    return groups


def scan_folder(folder: Path) -> ImageFolder:
    """What a folder and its subfolders hold, by names alone; whether images can be read, `images.decode` says.

    Raises UnusableFile if the folder cannot be read, or if it holds far too many files to be meant.
    """
    unused: list[UnusedFile] = []
    images: list[ImageFile] = []
    count = 0
    for subfolder, paths in _walk(folder, unused, set(), 0):
        count += len(paths)
        if count > MAX_FILES:
            raise UnusableFile(
                folder, f"it holds more than {MAX_FILES} files; name the folder of the pictures themselves"
            )
        images += _images_of(subfolder, paths, unused, _repeats_of(subfolder, folder))
    stored = _stored_repeats(folder)
    images = [replace(image, repeats=stored.get(image.path.stem, image.repeats)) for image in images]
    # what only may be an image does not count: it is most often none
    divisor = math.gcd(*(image.repeats for image in images if has_picture_name(image.path))) or 1
    return ImageFolder(folder, [replace(i, repeats=max(1, i.repeats // divisor)) for i in images], unused)


def find_images(folder: Path) -> Sequence[ImageFile]:
    """The images of a folder and its subfolders. Raises UnusableFile as `scan_folder` does."""
    return scan_folder(folder).files


def _walk(folder: Path, unused: list[UnusedFile], seen: set[Path], depth: int) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder from `folder` down, with the regular files in it, sorted."""
    try:
        seen.add(folder.resolve())
        entries = sorted(folder.iterdir())
    except OSError as error:
        if not depth:
            raise UnusableFile(folder, f"it cannot be read ({error.strerror})") from error
        unused.append(UnusedFile(folder, "folder that cannot be read"))
        return
    paths, folders = [], []
    for path in entries:
        if path.name.startswith(".") or path.name.casefold() in _SYSTEM_NAMES:
            continue
        if path.is_file():
            paths.append(path)
        elif path.is_dir():
            folders.append(path)
        else:
            unused.append(UnusedFile(path, "broken link" if path.is_symlink() else "special file"))
    yield folder, paths
    for path in folders:
        if path.resolve() in seen:
            continue
        if depth == MAX_DEPTH:
            unused.append(UnusedFile(path, "folder nested too deep"))
        elif _holds_runs(path):
            unused.append(UnusedFile(path, "folder of trainings"))
        else:
            yield from _walk(path, unused, seen, depth + 1)


def _holds_runs(folder: Path) -> bool:
    """Whether a folder is a run, or the folder that runs are kept in: their previews are no pictures to learn from."""
    return (folder / "settings.json").is_file() or any(True for _ in folder.glob("*/*/settings.json"))


def _images_of(folder: Path, paths: Sequence[Path], unused: list[UnusedFile], repeats: int) -> list[ImageFile]:
    captions = Companions(path for path in paths if caption_stem(path.name))
    masks = Companions(path for path in paths if mask_stem(path.name))
    stems = {name_key(stem) for path in paths if not mask_stem(path.name) for stem in (path.stem, path.name)}
    images = [
        ImageFile(path, captions.caption_of(path), masks.mask_of(path), repeats)
        for path in paths
        if path.suffix.lower() not in _OTHER_SUFFIXES and not _is_mask(path, stems)
    ]
    used = {path for image in images for path in (image.path, image.caption_file, image.mask)}
    for path in paths:
        if path not in used:
            is_caption = caption_stem(path.name) is not None and path.suffix.lower() == ".txt"
            kind = "mask without a picture" if _is_mask(path, stems) else "text without a picture" if is_caption else ""
            unused.append(UnusedFile(path, kind))
    return images


def _is_mask(path: Path, stems: set[str]) -> bool:
    """Whether a file is a mask by its name: a PNG always, others if there is the image that it belongs to."""
    stem = mask_stem(path.name)
    return stem is not None and (path.suffix.lower() == ".png" or name_key(stem) in stems)


def _repeats_of(subfolder: Path, root: Path) -> int:
    """How often the images of a subfolder are used: as the innermost folder below `root` says that has such a name."""
    for name in reversed(subfolder.relative_to(root).parts):
        if match := _REPEATS.fullmatch(name):
            return int(match[1])
    return 1


def _stored_repeats(folder: Path) -> dict[str, int]:
    """Raises UnusableFile for a damaged file."""
    path = folder / REPEATS_FILE
    if not path.is_file():
        return {}
    try:
        return {str(stem): max(1, min(999, int(count))) for stem, count in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UnusableFile(path, "damaged; start a new training") from error


def store_repeats(folder: Path, repeats: Mapping[str, int]) -> None:
    """Keep how often each image of a run's own folder is used; nothing where all are used alike."""
    if set(repeats.values()) - {1}:
        files.atomic_write_bytes(folder / REPEATS_FILE, json.dumps(repeats).encode())


def has_picture_name(path: Path) -> bool:
    """Whether a file is meant to be a picture, by its name."""
    return path.suffix.lower() in PICTURE_SUFFIXES
