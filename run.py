"""The project's two tasks: `python run.py demo` and `python run.py test`. Needs nothing but Python 3.10 to 3.12.

Both run in a virtual environment in this checkout. The first call creates it from a file in tests/pins; later calls reuse it
as long as that file and the Python version stay the same. Exit codes: the program's own; 2 invalid request; 130 Ctrl-C.
"""

from __future__ import annotations  # so that a Python that is too old can still print its error message

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
SUITABLE = {  # Python versions that have wheels for each file of tests/pins
    "default": ("3.10", "3.11", "3.12"),
    "a1111": ("3.10", "3.11"),
    "forge": ("3.10", "3.11"),
}
TORCH_INDEX = "https://download.pytorch.org/whl"
CUDA = "cu130"  # of PyPI's Linux wheels of the default torch

DEMO_WORD, DEMO_DATA = "my-coin", "demo"
DEMO_EMBEDDINGS, DEMO_RUNS = f"{DEMO_DATA}/embeddings", f"{DEMO_DATA}/textual_inversion"
DEMO_TRAINING = f"""
    --model lib_ti/practice/model/practice.safetensors --images lib_ti/practice/concepts/coin
    --name {DEMO_WORD} --out {DEMO_EMBEDDINGS} --runs-dir {DEMO_RUNS} --overwrite
    --steps 400 --batch-size 4 --vectors 2 --init-text object
    --preview-prompt "a photo of a red [name] on grass" --preview-prompt "a photo of a blue [name] in snow"
"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
PYTEST = (
    "pytest",
    "-n",
    "logical",
    "--maxprocesses",
    "4",
    "--dist",
    "loadfile",
)  # a module's tests share their fixtures
CHECKS = (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"])


class Interpreter(NamedTuple):
    """A Python interpreter: the command that starts it, and its full version."""

    command: tuple[str, ...]
    version: str


def log(message: str) -> None:
    """Print a message, flushed so that it comes before the output of the next child process."""
    print(message, flush=True)


def fail(message: str, code: int) -> NoReturn:
    """Print a message to stderr and exit with `code`."""
    print(message, file=sys.stderr)
    sys.exit(code)


def call(command: Sequence[str | Path], *, stderr: int | None = None) -> int:
    """Run a command in the checkout; returns its exit code, 128 + n if signal n ended it.

    The terminal sends Ctrl-C to the child as well: wait until it has ended, then raise KeyboardInterrupt.
    """
    child = subprocess.Popen([str(part) for part in command], cwd=ROOT, stderr=stderr)
    interrupted = False
    while child.returncode is None:
        try:
            child.wait()
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        raise KeyboardInterrupt
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def capture_output(command: Sequence[str]) -> str | None:
    """What a command prints; None if there is no such command or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def python_commands(versions: Iterable[str], system: str) -> list[tuple[str, ...]]:
    """The commands that start these Python versions ("3.10") on a system (a value of `sys.platform`)."""
    return [("py", f"-{version}") if system == "win32" else (f"python{version}",) for version in versions]


def find_pythons(commands: Iterable[tuple[str, ...]]) -> Iterable[Interpreter]:
    """The interpreters among the commands; a version manager's shim for a version that is not installed is not one."""
    for command in commands:
        if version := capture_output([*command, "-c", "import platform; print(platform.python_version())"]):
            yield Interpreter(command, version)


def choose_python(running: Interpreter, suitable: Sequence[str], others: Iterable[Interpreter] = ()) -> Interpreter:
    """The running Python if it is suitable, else the first suitable one of the others; exits if there is none."""
    for python in chain([running], others):
        if python.version.rpartition(".")[0] in suitable:
            return python
    versions = ", ".join(suitable[:-1]) + f" or {suitable[-1]}"
    fail(f"This needs Python {versions}, and only {running.version} is at hand: start run.py with one of those.", 2)


def read_pins(text: str) -> dict[str, str]:
    """Requirement lines by package name, without comments."""
    lines = (line.strip() for line in text.splitlines())
    return {line.partition("==")[0]: line for line in lines if line and not line.startswith("#")}


def torch_build(requirement: str, system: str, nvidia: bool) -> tuple[str, str] | None:
    """The build of torch to try before PyPI's, and its index; None if PyPI's is the right one.

    PyPI has CUDA builds of several GB for Linux, and CPU builds for Windows and macOS.
    """
    build = {("linux", False): "cpu", ("win32", True): CUDA}.get((system, nvidia))
    return (f"{requirement}+{build}", f"{TORCH_INDEX}/{build}") if build else None


def stamp(pins: str, version: str) -> str:
    """The identity of a complete environment: a hash of its pins, and its Python version."""
    return f"{hashlib.sha256(pins.encode()).hexdigest()} {version}"


def venv_python(folder: Path, system: str) -> Path:
    """The interpreter inside a virtual environment."""
    return folder / "Scripts" / "python.exe" if system == "win32" else folder / "bin" / "python"


def is_ready(folder: Path, expected_stamp: str, system: str) -> bool:
    """Whether an environment was completed with this stamp, and its Python still exists."""
    file = folder / STAMP
    return file.is_file() and file.read_text() == expected_stamp and venv_python(folder, system).exists()


def recreate(folder: Path) -> None:
    """Replace a folder by an empty one with an invalid stamp. Only a folder that run.py created is deleted."""
    if folder.exists():
        if not (folder / STAMP).is_file():
            fail(f"{folder} was not made by run.py, which wants that place: move it away.", 2)
        try:
            shutil.rmtree(folder)
        except OSError as error:  # Windows deletes no open file, such as the interpreter of a running program
            fail(f"{folder} is in use ({error}): end what runs from it, then delete it.", 1)
    folder.mkdir()
    (folder / STAMP).write_text("unfinished")


def install(python: Path, pins: dict[str, str]) -> None:
    """Install the pinned set into an environment, with the user's own pip configuration."""
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install"]
    if build := torch_build(pins["torch"], sys.platform, nvidia=capture_output(["nvidia-smi"]) is not None):
        requirement, index = build
        log(f"Asking for {requirement}, the build for this machine.")
        # Give up on an unreachable server quickly, and hide pip's errors, which the fallback makes irrelevant.
        options = ["--no-deps", "--retries", "1", "--timeout", "15", "--extra-index-url", index]
        if call([*pip, *options, requirement], stderr=subprocess.DEVNULL) != 0:
            log("No index at hand has it: taking PyPI's build, which for Linux brings CUDA along (several GB).")
    # diffusers is installed without its dependencies, as the extension does it to leave a host's packages unchanged.
    diffusers = pins["diffusers"]
    for requirements in ([line for line in pins.values() if line != diffusers], ["--no-deps", diffusers]):
        if code := call([*pip, *requirements]):
            fail("pip could not install this, for the reasons above. The next call starts afresh.", code)


def prepare_environment(name: str) -> Path:
    """The interpreter of the environment for a file of pins; creates the environment if necessary."""
    # The base interpreter: the running one may lie in the environment that is about to be replaced.
    running = Interpreter((getattr(sys, "_base_executable", sys.executable),), platform.python_version())
    # For the hosts' pins look for others, since the Python of the development environment may be too new for them.
    others = () if name == "default" else find_pythons(python_commands(SUITABLE[name], sys.platform))
    interpreter = choose_python(running, SUITABLE[name], others)
    folder = ROOT / (".venv" if name == "default" else f".venv-{name}")
    python = venv_python(folder, sys.platform)
    pins = (ROOT / "tests" / "pins" / f"{name}.txt").read_text()
    new_stamp = stamp(pins, interpreter.version)
    if is_ready(folder, new_stamp, sys.platform):
        log(f"Using {folder.name} again, which holds the packages of tests/pins/{name}.txt.")
        return python
    log(f"Making {folder.name} with Python {interpreter.version} and the packages of tests/pins/{name}.txt.")
    log("This happens once. Fetching the packages, above all torch, takes some minutes.")
    recreate(folder)
    if code := call([*interpreter.command, "-m", "venv", folder]):
        fail("Python could not make a virtual environment, for the reasons above.", code)
    install(python, read_pins(pins))
    (folder / STAMP).write_text(new_stamp)  # last, so that an interrupted installation is not taken for a complete one
    return python


def demo(opens_page: bool) -> int:
    """Train an embedding for the practice model, print where everything is, and serve the page until Ctrl-C."""
    python = prepare_environment("default")
    (ROOT / DEMO_EMBEDDINGS).parent.mkdir(exist_ok=True)
    log(f"Teaching the little model that comes with this project the word {DEMO_WORD}. Ctrl-C saves and stops.")
    if code := call([python, "-m", "lib_ti", "train", *shlex.split(DEMO_TRAINING)]):
        return code
    run = max((ROOT / DEMO_RUNS / DEMO_WORD).iterdir()).relative_to(ROOT)  # run folders are named by date and time
    log(f"The embedding is {DEMO_EMBEDDINGS}/{DEMO_WORD}.safetensors.")
    log(f"The previews, the prompts as the word was learned, are in {run / 'previews'}.")
    log(f"The run with its settings, events and snapshots is {run}.")
    if not opens_page:
        return 0
    log(f"Opening the page: the run is among the earlier ones, and {DEMO_WORD} can be put into prompts.")
    try:
        return call([python, "-m", "lib_ti", "ui", "--data-dir", DEMO_DATA])
    except KeyboardInterrupt:  # the normal way to end it
        return 0


def missing_browser() -> str | None:
    """Why the browser tests cannot run; None if they can."""
    if os.environ.get("CHROMIUM") or any(map(shutil.which, BROWSERS)):
        return None
    return "there is no Chromium here; on Debian or Ubuntu: apt-get install chromium"


def test(host: str | None, faults: bool, extra: Sequence[str]) -> int:
    """Run all checks, the smoke tests with a host's packages, or every fault; returns the exit code of the first failure."""
    python = prepare_environment(host or "default")
    failed: dict[str, int] = {}
    steps = [[*PYTEST, "-m", "smoke or browser", *extra]] if host else [*CHECKS, [*PYTEST, *extra]]
    for step in [["pytest", "-m", "faults", "--faults", *extra]] if faults else steps:
        log(f"\n== {shlex.join(step)}")
        if code := call([python, "-m", *step]):
            failed[shlex.join(step)] = code
    if not faults and (reason := missing_browser()):
        log(f"\nThe browser tests were skipped: {reason}.")
    if failed:
        log("\nFailed: " + "; ".join(failed))
    return next(iter(failed.values()), 0)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The request, and the arguments for pytest."""
    parser = argparse.ArgumentParser(prog="run.py", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    demo_parser = commands.add_parser(
        "demo", help="teach the practice model a word, and open the page", allow_abbrev=False
    )
    demo_parser.add_argument("--no-ui", action="store_true", help="do not open the page at the end")
    test_parser = commands.add_parser(
        "test", help="run every check; further arguments go to pytest", allow_abbrev=False
    )
    test_parser.add_argument(
        "--pins", choices=list(SUITABLE)[1:], help="the smoke and browser tests, on this host's packages"
    )
    test_parser.add_argument(
        "--faults", action="store_true", help="provoke every fault of docs/reliability.md, about a quarter of an hour"
    )
    request, extra = parser.parse_known_args(arguments)
    if extra and request.command != "test":
        parser.error(f"unrecognized arguments: {shlex.join(extra)}")
    return request, extra


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code."""
    request, extra = parse(arguments)
    try:
        return demo(not request.no_ui) if request.command == "demo" else test(request.pins, request.faults, extra)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
