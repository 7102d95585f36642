"""The project's two errands: `python run.py demo` and `python run.py test`. Needs nothing but Python 3.10 to 3.12.

Each runs in a virtual environment of this checkout, made at the first call from a file in tests/pins and reused as long
as that file and the Python stay the same. Exit codes: the program's own; 2 unsuitable request; 130 stopped by Ctrl-C.
"""

from __future__ import annotations  # a Python that is too old shall get as far as the sentence that says so

import argparse
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parent
STAMP = "made-by-run-py.txt"
SUITABLE = {  # the Pythons that have wheels for each file of tests/pins
    "default": ("3.10", "3.11", "3.12"),
    "a1111": ("3.10", "3.11"),
    "forge": ("3.10", "3.11"),
}
TORCH_INDEX = "https://download.pytorch.org/whl"
CUDA = "cu130"  # what PyPI's Linux wheels of the default torch are built for

DEMO_WORD, DEMO_DATA = "my-coin", "demo"
DEMO_EMBEDDINGS, DEMO_RUNS = f"{DEMO_DATA}/embeddings", f"{DEMO_DATA}/textual_inversion"
DEMO_TRAINING = f"""
    --model lib_ti/practice/model/practice.safetensors --images lib_ti/practice/concepts/coin
    --name {DEMO_WORD} --out {DEMO_EMBEDDINGS} --runs-dir {DEMO_RUNS} --overwrite
    --steps 400 --batch-size 4 --vectors 2 --init-text object
    --preview-prompt "a photo of a red [name] on grass" --preview-prompt "a photo of a blue [name] in snow"
"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
CHECKS = (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"])


class Interpreter(NamedTuple):
    """A Python: the command that starts it, and its full version."""

    command: tuple[str, ...]
    version: str


def say(sentence: str) -> None:
    """Print a sentence before whatever a child prints next."""
    print(sentence, flush=True)


def give_up(sentence: str, code: int) -> NoReturn:
    """End the program with the reason on stderr."""
    print(sentence, file=sys.stderr)
    sys.exit(code)


def call(command: Sequence[str | Path], *, errors: int | None = None) -> int:
    """Run a command in the checkout; returns its exit code, 128 + n where signal n ended it.

    The terminal sends Ctrl-C to the child as well: it is left to end in its own time, then KeyboardInterrupt goes on.
    """
    child = subprocess.Popen([str(part) for part in command], cwd=ROOT, stderr=errors)
    interrupted = False
    while child.returncode is None:
        try:
            child.wait()
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        raise KeyboardInterrupt
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def answer(command: Sequence[str]) -> str | None:
    """What a command prints, or None where there is no such command or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def python_commands(series: Iterable[str], system: str) -> list[tuple[str, ...]]:
    """The commands that start Pythons of these series on a system (a value of `sys.platform`)."""
    return [("py", f"-{one}") if system == "win32" else (f"python{one}",) for one in series]


def find_pythons(commands: Iterable[tuple[str, ...]]) -> Iterable[Interpreter]:
    """Those of the commands that start a Python; a version manager's stand-in for a missing one does not."""
    for command in commands:
        if version := answer([*command, "-c", "import platform; print(platform.python_version())"]):
            yield Interpreter(command, version)


def choose_python(running: Interpreter, suitable: Sequence[str], others: Iterable[Interpreter] = ()) -> Interpreter:
    """The running Python where it is suitable, else the first suitable one of the others; without any, the end."""
    for python in chain([running], others):
        if python.version.rpartition(".")[0] in suitable:
            return python
    wanted = ", ".join(suitable[:-1]) + f" or {suitable[-1]}"
    give_up(f"This needs Python {wanted}, and only {running.version} is at hand: start run.py with one of those.", 2)


def read_pins(text: str) -> dict[str, str]:
    """Requirement lines by package name, comments left out."""
    lines = (line.strip() for line in text.splitlines())
    return {line.partition("==")[0]: line for line in lines if line and not line.startswith("#")}


def special_torch(requirement: str, system: str, nvidia: bool) -> tuple[str, str] | None:
    """The build of torch to ask for before PyPI's, and the index that has it; None where PyPI's is the right one.

    PyPI carries CUDA builds of several GB for Linux, and CPU builds for Windows and macOS.
    """
    build = {("linux", False): "cpu", ("win32", True): CUDA}.get((system, nvidia))
    return (f"{requirement}+{build}", f"{TORCH_INDEX}/{build}") if build else None


def stamp(pins: str, version: str) -> str:
    """What identifies a finished environment: its pins and its Python."""
    return f"{hashlib.sha256(pins.encode()).hexdigest()} {version}"


def venv_python(folder: Path, system: str) -> Path:
    """The interpreter inside a virtual environment."""
    return folder / "Scripts" / "python.exe" if system == "win32" else folder / "bin" / "python"


def is_ready(folder: Path, wanted: str, system: str) -> bool:
    """Whether an environment was finished with this stamp and its Python is still there."""
    mark = folder / STAMP
    return mark.is_file() and mark.read_text() == wanted and venv_python(folder, system).exists()


def clear(folder: Path) -> None:
    """Leave an empty folder with a stamp that fits nothing. Only what run.py made is deleted."""
    if folder.exists():
        if not (folder / STAMP).is_file():
            give_up(f"{folder} was not made by run.py, which wants that place: move it away.", 2)
        try:
            shutil.rmtree(folder)
        except OSError as problem:  # Windows deletes nothing that is open, its own Python included
            give_up(f"{folder} is in use ({problem}): end what runs from it, then delete it.", 1)
    folder.mkdir()
    (folder / STAMP).write_text("unfinished")


def install(python: Path, pins: dict[str, str]) -> None:
    """Install the pinned set into an environment, with the user's own pip configuration."""
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install"]
    if special := special_torch(pins["torch"], sys.platform, nvidia=answer(["nvidia-smi"]) is not None):
        requirement, index = special
        say(f"Asking for {requirement}, the build for this machine.")
        # A server out of reach shall not hold things up, and why pip found no such build does not concern the user.
        quick = ["--no-deps", "--retries", "1", "--timeout", "15", "--extra-index-url", index]
        if call([*pip, *quick, requirement], errors=subprocess.DEVNULL) != 0:
            say("No index at hand has it: taking PyPI's build, which for Linux brings CUDA along (several GB).")
    # diffusers goes in as the extension installs it: alone, so that it cannot change what a host has.
    diffusers = pins["diffusers"]
    for what in ([line for line in pins.values() if line != diffusers], ["--no-deps", diffusers]):
        if code := call([*pip, *what]):
            give_up("pip could not install this, for the reasons above. The next call starts afresh.", code)


def prepare(name: str) -> Path:
    """The interpreter of the environment for a file of pins; the environment is made where it is not there."""
    # Not an environment's Python: it may be the very one that is about to be replaced.
    running = Interpreter((getattr(sys, "_base_executable", sys.executable),), platform.python_version())
    # Only the hosts' sets look further: one may well develop with a Python that is too new for them.
    others = () if name == "default" else find_pythons(python_commands(SUITABLE[name], sys.platform))
    interpreter = choose_python(running, SUITABLE[name], others)
    folder = ROOT / (".venv" if name == "default" else f".venv-{name}")
    python = venv_python(folder, sys.platform)
    pins = (ROOT / "tests" / "pins" / f"{name}.txt").read_text()
    wanted = stamp(pins, interpreter.version)
    if is_ready(folder, wanted, sys.platform):
        say(f"Using {folder.name} again, which holds the packages of tests/pins/{name}.txt.")
        return python
    say(f"Making {folder.name} with Python {interpreter.version} and the packages of tests/pins/{name}.txt.")
    say("This happens once. Fetching the packages, above all torch, takes some minutes.")
    clear(folder)
    if code := call([*interpreter.command, "-m", "venv", folder]):
        give_up("Python could not make a virtual environment, for the reasons above.", code)
    install(python, read_pins(pins))
    (folder / STAMP).write_text(wanted)  # last: an interrupted set-up is not taken for a finished one
    return python


def demo(opens_page: bool) -> int:
    """Teach the practice model a word, say where everything lies, and show it in the browser until Ctrl-C."""
    python = prepare("default")
    (ROOT / DEMO_EMBEDDINGS).parent.mkdir(exist_ok=True)
    say(f"Teaching the little model that comes with this project the word {DEMO_WORD}. Ctrl-C saves and stops.")
    if code := call([python, "-m", "lib_ti", "train", *shlex.split(DEMO_TRAINING)]):
        return code
    run = max((ROOT / DEMO_RUNS / DEMO_WORD).iterdir()).relative_to(ROOT)  # folders are named by date and time
    say(f"The embedding is {DEMO_EMBEDDINGS}/{DEMO_WORD}.safetensors.")
    say(f"The previews, the prompts as the word was learned, are in {run / 'previews'}.")
    say(f"The run with its settings, events and snapshots is {run}.")
    if not opens_page:
        return 0
    say(f"Opening the page: the run is among the earlier ones, and {DEMO_WORD} can be put into prompts.")
    try:
        return call([python, "-m", "lib_ti", "ui", "--data-dir", DEMO_DATA])
    except KeyboardInterrupt:  # the way to end it
        return 0


def no_browser() -> str | None:
    """Why the tests have no browser to drive; None where they have one."""
    if os.environ.get("CHROMIUM") or any(map(shutil.which, BROWSERS)):
        return None
    return "there is no Chromium here; on Debian or Ubuntu: apt-get install chromium"


def test(host: str | None, extra: Sequence[str]) -> int:
    """Run all checks, or the smoke tests on a host's packages; returns the exit code of the first that fails."""
    python = prepare(host or "default")
    failed: dict[str, int] = {}
    for step in [["pytest", "-m", "smoke or browser", *extra]] if host else [*CHECKS, ["pytest", *extra]]:
        say(f"\n== {shlex.join(step)}")
        if code := call([python, "-m", *step]):
            failed[shlex.join(step)] = code
    if reason := no_browser():
        say(f"\nThe browser tests were skipped: {reason}.")
    if failed:
        say("\nFailed: " + "; ".join(failed))
    return next(iter(failed.values()), 0)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The request, and the arguments that are meant for pytest."""
    parser = argparse.ArgumentParser(prog="run.py", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("demo", help="teach the practice model a word, and open the page", allow_abbrev=False)
    show.add_argument("--no-ui", action="store_true", help="do not open the page at the end")
    check = commands.add_parser("test", help="run every check; further arguments go to pytest", allow_abbrev=False)
    check.add_argument(
        "--pins", choices=list(SUITABLE)[1:], help="the smoke and browser tests, on this host's packages"
    )
    request, extra = parser.parse_known_args(arguments)
    if extra and request.command != "test":
        parser.error(f"unrecognized arguments: {shlex.join(extra)}")
    return request, extra


def main(arguments: Sequence[str]) -> int:
    """Carry out one request; returns the exit code."""
    request, extra = parse(arguments)
    try:
        return demo(not request.no_ui) if request.command == "demo" else test(request.pins, extra)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
