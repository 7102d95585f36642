"""Install the packages that the trainer needs and the WebUI lacks into a folder that only the trainer's process imports from.

The WebUI runs this at each start. It can also be run by hand, with the Python of the WebUI's environment:

    python install.py
    python install.py --heic    # and a decoder for HEIC pictures, which Pillow lacks

The WebUI's own packages are never changed. diffusers has to be one exact version, since hosts and other extensions install
all kinds of it; of all other packages any version of a current WebUI will do.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata, util
from pathlib import Path

FOLDER = "private"
MANIFEST = "installed.json"
EXACT_VERSIONS = {"diffusers": "0.31.0"}
REQUIREMENTS = {  # pip's requirement by the module that it provides
    "transformers": "transformers>=4.30.2,<6",
    "safetensors": "safetensors>=0.4.2",
    "yaml": "PyYAML>=6.0",
    "tqdm": "tqdm>=4.66",
    "numpy": "numpy>=1.26,<3",
    "PIL": "Pillow>=9.5",
    "huggingface_hub": "huggingface_hub>=0.25,<3",
    "regex": "regex",
    "ftfy": "ftfy>=6.1",
    "wcwidth": "wcwidth",
    "filelock": "filelock",
    "requests": "requests",
}
TOGETHER = {  # by requirement that the WebUI does not satisfy: what is installed instead, as its releases need each other
    "transformers": ("transformers==4.46.1", "tokenizers>=0.20,<0.21", "huggingface_hub>=0.25,<1"),
}
OPTIONAL = {
    "pillow_heif": "pillow-heif>=0.16"
}  # by module; installed only if they were asked for, and kept from then on
ABANDONED_S = 3600.0

Pip = Callable[[Sequence[str]], int]


def installed_version(distribution: str) -> str | None:
    """The version of a package in the WebUI's environment; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def has_module(module: str) -> bool:
    """Whether the WebUI's environment has a module, without importing it."""
    try:
        return util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def satisfies(requirement: str, version: str | None) -> bool:
    """Whether a version is in the requirement's range; a package that does not state its version is taken to be."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        from pip._vendor.packaging.requirements import Requirement
    return version is None or Requirement(requirement).specifier.contains(version, prereleases=True)


def missing_requirements(version: Callable[[str], str | None], has: Callable[[str], bool]) -> list[str]:
    """The requirements that the WebUI's environment does not satisfy."""
    missing: dict[str, str] = {}  # by distribution; of two requirements for one, the first counts
    for name, required in EXACT_VERSIONS.items():
        if version(name) != required or not has(name):
            missing[name] = f"{name}=={required}"
    for module, requirement in REQUIREMENTS.items():
        if not has(module) or not satisfies(requirement, version(_distribution(requirement))):
            for each in TOGETHER.get(module, (requirement,)):
                missing.setdefault(_distribution(each), each)
    return list(missing.values())


def optional_requirements(folder: Path, has: Callable[[str], bool], wanted: Sequence[str]) -> list[str]:
    """The optional packages that are wanted now, or were before, and that the WebUI's environment lacks."""
    try:
        before = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["packages"]
    except (OSError, ValueError, KeyError, TypeError):
        before = []
    return [r for module, r in OPTIONAL.items() if (module in wanted or r in before) and not has(module)]


def _distribution(requirement: str) -> str:
    return re.split("[=><]", requirement)[0]


def is_intact(folder: Path) -> bool:
    """Whether all files that pip has recorded exist with their sizes."""
    records = list(folder.glob("*.dist-info/RECORD"))
    for record in records:
        with record.open(encoding="utf-8", newline="") as file:
            for name, _, size in csv.reader(file):
                # scripts lie outside the folder; compiled files come and go
                if size and not name.startswith("..") and not _has_size(folder / name, int(size)):
                    return False
    return bool(records)


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def is_ready(folder: Path, requirements: Sequence[str]) -> bool:
    """Whether the folder satisfies the requirements, intact, and contains no package that the WebUI has meanwhile itself.

    Only the packages with exact versions may stay: they contain no compiled code, so they suit any Python.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        installed, python = set(manifest["packages"]), manifest["python"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    pure_python = {f"{name}=={version}" for name, version in EXACT_VERSIONS.items()}
    return (
        installed >= set(requirements)
        and installed <= pure_python | set(requirements)
        and (installed <= pure_python or python == sys.version)
        and is_intact(folder)
    )


def install(folder: Path, requirements: Sequence[str], pip: Pip) -> bool:
    """Install into a new folder that then replaces the old one; on a failure (False) the old one stays."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    old = folder.with_name(f"{folder.name}.{os.getpid()}.old")
    try:
        if pip(["install", "--no-deps", "--target", str(part), *requirements]) != 0:
            return False
        manifest = {"packages": list(requirements), "python": sys.version}
        (part / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        (part / ".gitignore").write_text("*\n", encoding="utf-8")  # the WebUI does not update an extension with changes
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


def delete_abandoned(folder: Path) -> None:
    """Delete the remains of interrupted installations; younger ones may belong to one that is running now."""
    for path in [*folder.parent.glob(f"{folder.name}.*.part"), *folder.parent.glob(f"{folder.name}.*.old")]:
        if time.time() - path.stat().st_mtime > ABANDONED_S:
            shutil.rmtree(path, ignore_errors=True)


def run_pip(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Run pip with the user's configuration, but with short timeouts, so that a WebUI that is offline starts quickly."""
    env = {"PIP_RETRIES": "2", "PIP_DEFAULT_TIMEOUT": "15", **environment, "PIP_USER": "0"}
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments, "--quiet"]
    if environment.get("INDEX_URL"):  # of the hosts
        command += ["--index-url", environment["INDEX_URL"]]
    return subprocess.run(command, env=env, check=False).returncode


def main(
    folder: Path,
    version: Callable[[str], str | None] = installed_version,
    has: Callable[[str], bool] = has_module,
    pip: Pip = run_pip,
    wanted: Sequence[str] = (),
) -> int:
    """Install what is missing, and the `OPTIONAL` modules that are wanted; returns the exit code."""
    if sys.version_info < (3, 10):  # noqa: UP036 - a WebUI may run on an older one
        print(f"Textual Inversion needs Python 3.10 or later, and this is {sys.version}.", file=sys.stderr)
        return 1
    delete_abandoned(folder)
    needed = missing_requirements(version, has)
    requirements = needed + optional_requirements(folder, has, wanted)
    if is_ready(folder, requirements) or not (requirements or folder.exists()):
        return 0
    if not requirements:  # the folder's packages would shadow the WebUI's
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    print(f"Installing {', '.join(requirements)} for Textual Inversion into {folder}", flush=True)
    if install(folder, requirements, pip):
        return 0
    command = f'"{sys.executable}" "{Path(__file__).resolve()}"'
    lost = "train" if needed else "read HEIC pictures"
    print(
        f"Textual Inversion cannot {lost} yet: {', '.join(requirements)} could not be installed, for the reason above. "
        "The WebUI and what it has installed are as they were. Most often there is no connection to the internet: "
        f"restart the WebUI when there is one, or run {command} by hand.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    heic = ("pillow_heif",) if "--heic" in sys.argv[1:] else ()
    sys.exit(main(Path(__file__).resolve().parent / FOLDER, wanted=heic))
