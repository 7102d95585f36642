"""Puts what the trainer needs beyond the WebUI's own packages into a folder that only the trainer's process sees.

The WebUI runs this at each start; it can also be run by hand, with the Python of the WebUI's environment:

    python install.py

What the WebUI has installed is never changed. diffusers has to be one exact version, since other extensions and hosts
bring all kinds; of everything else any version will do that a WebUI of today has.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata, util
from pathlib import Path

FOLDER = "private"
STAMP = "installed.json"
EXACTLY = {"diffusers": "0.31.0"}
IMPORTED_AS = {  # the package that has it, as pip is asked for it, by the module
    "transformers": "transformers>=4.30.2,<4.50",
    "safetensors": "safetensors>=0.4.2",
    "yaml": "PyYAML>=6.0",
    "tqdm": "tqdm>=4.66",
    "numpy": "numpy>=1.26,<2",
    "PIL": "Pillow>=9.5",
    "huggingface_hub": "huggingface_hub>=0.25,<1",
    "regex": "regex",
    "ftfy": "ftfy>=6.1",
    "wcwidth": "wcwidth",
    "filelock": "filelock",
    "requests": "requests",
}
ABANDONED_S = 3600.0

Pip = Callable[[Sequence[str]], int]


def version_of(distribution: str) -> str | None:
    """The version that the WebUI has of a package."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def is_there(module: str) -> bool:
    """Whether the WebUI has a module, without importing it."""
    try:
        return util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def lacking(version: Callable[[str], str | None], has: Callable[[str], bool]) -> list[str]:
    """What has to be in the folder, as pip is asked for it."""
    exact = [f"{name}=={wanted}" for name, wanted in EXACTLY.items() if version(name) != wanted or not has(name)]
    return exact + [asked for module, asked in IMPORTED_AS.items() if not has(module)]


def is_whole(folder: Path) -> bool:
    """Whether all files are there that pip has listed, each with its size."""
    lists = list(folder.glob("*.dist-info/RECORD"))
    for record in lists:
        with record.open(encoding="utf-8", newline="") as file:
            for name, _, size in csv.reader(file):
                # the names of scripts lead out of the folder; compiled files come and go
                if size and not name.startswith("..") and not _has_size(folder / name, int(size)):
                    return False
    return bool(lists)


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def is_ready(folder: Path, wanted: Sequence[str]) -> bool:
    """Whether the folder holds what is wanted and nothing beyond that the WebUI may meanwhile have itself."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        holds, python = set(stamp["packages"]), stamp["python"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    pure = {f"{name}=={version}" for name, version in EXACTLY.items()}
    return (
        holds >= set(wanted)
        and holds <= pure | set(wanted)
        and (holds <= pure or python == sys.version)
        and is_whole(folder)
    )


def fill(folder: Path, wanted: Sequence[str], pip: Pip) -> bool:
    """Make the folder anew; it is there whole, or as it was before."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    old = folder.with_name(f"{folder.name}.{os.getpid()}.old")
    try:
        if pip(["install", "--no-deps", "--target", str(part), *wanted]) != 0:
            return False
        stamp = {"packages": list(wanted), "python": sys.version}
        (part / STAMP).write_text(json.dumps(stamp, indent=1), encoding="utf-8")
        (part / ".gitignore").write_text("*\n", encoding="utf-8")  # an extension with changes could not be updated
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        return True
    except OSError as error:
        print(f"{folder}: {error}", file=sys.stderr)
        if old.exists() and not folder.exists():
            old.rename(folder)
        return False
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def clean(folder: Path) -> None:
    """Delete what an installation that was cut off has left; another one may be under way just now."""
    for left in [*folder.parent.glob(f"{folder.name}.*.part"), *folder.parent.glob(f"{folder.name}.*.old")]:
        if time.time() - left.stat().st_mtime > ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)


def run_pip(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """pip as the user has set it up, but that it shall not hold up the start of a WebUI that is offline."""
    env = {"PIP_RETRIES": "2", "PIP_DEFAULT_TIMEOUT": "15", **environment, "PIP_USER": "0"}
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments, "--quiet"]
    if environment.get("INDEX_URL"):  # the hosts' own variable
        command += ["--index-url", environment["INDEX_URL"]]
    return subprocess.run(command, env=env, check=False).returncode


def main(
    folder: Path,
    version: Callable[[str], str | None] = version_of,
    has: Callable[[str], bool] = is_there,
    pip: Pip = run_pip,
) -> int:
    """Do what is necessary; returns the exit code."""
    if sys.version_info < (3, 10):  # noqa: UP036 - a WebUI may run on an older one
        print(f"Textual Inversion needs Python 3.10 or later, and this is {sys.version}.", file=sys.stderr)
        return 1
    clean(folder)
    wanted = lacking(version, has)
    if is_ready(folder, wanted) or not (wanted or folder.exists()):
        return 0
    if not wanted:  # what is in there would come before what the WebUI has
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    print(f"Installing {', '.join(wanted)} for Textual Inversion into {folder}", flush=True)
    if fill(folder, wanted, pip):
        return 0
    by_hand = f'"{sys.executable}" "{Path(__file__).resolve()}"'
    print(
        f"Textual Inversion cannot train yet: {', '.join(wanted)} could not be installed, for the reason above. "
        "The WebUI and what it has installed are as they were. Most often there is no connection to the internet: "
        f"restart the WebUI when there is one, or run {by_hand} by hand.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent / FOLDER))
