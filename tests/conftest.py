"""Shared fixtures: a tiny checkpoint and a folder of images. There is no network access."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from PIL import Image, ImageDraw
from reference.checkpoints import SIZES, write_checkpoint

os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it when it is imported, which nothing above does
os.environ["OMP_NUM_THREADS"] = "1"  # for child processes; with models this small more threads are slower
# A shell's background job starts with SIGINT ignored, and would pass that on to the servers that tests stop with it.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights for images of 64 pixels, with its .yaml beside it."""
    return write_checkpoint(tmp_path_factory.mktemp("model") / "tiny.safetensors", SIZES["small"])


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four images of a disc, which differ in colours, position and size."""
    folder = tmp_path_factory.mktemp("pictures")
    variants = [
        ((80, 80), "navy", "gold"),
        ((96, 80), "white", "teal"),
        ((80, 88), "gray", "red"),
        ((84, 84), "tan", "black"),
    ]
    for i, (size, background, colour) in enumerate(variants):
        image = Image.new("RGB", size, background)
        low, high = 8 * i + 8, 8 * i + 44
        ImageDraw.Draw(image).ellipse((low, low, high, high), colour)
        image.save(folder / f"{i}.png")
    return folder


@pytest.fixture(autouse=True)
def _no_search_for_start_words(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings start from "object" unless a test is about the search: it would take most of their time."""
    if not request.node.get_closest_marker("start_words"):
        monkeypatch.setattr("lib_ti.training.start.automatic.common_words", lambda kind: ["object"])


@pytest.fixture
def page(tmp_path: Path, tiny_checkpoint: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A page of a stand-in WebUI, with pictures in its draft; what it starts is real."""
    from test_queue import FakeHost
    from test_training_service import Page

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    page = Page(FakeHost(tmp_path, tiny_checkpoint), tmp_path / "gradio")
    page.add(pictures)
    yield page
    page.service.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults",
        action="store_true",
        help="provoke each fault as often as docs/reliability.md says, not only a few times",
    )


@pytest.fixture(scope="session")
def fault_count(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """How often to provoke a fault: a function of the number in an ordinary run of the tests and that with --faults."""
    thorough = request.config.getoption("--faults")
    return lambda few, many: many if thorough else few


_fault_results: dict[str, tuple[str, str, str]] = {}  # by test: the fault, the outcome, a note


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Add something measured to the line about this test in the summary of faults."""

    def add(text: str) -> None:
        request.node.user_properties.append(("note", text))

    return add


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    marker = item.get_closest_marker("faults")
    if marker and (call.when == "call" or call.excinfo):
        notes = [text for key, text in item.user_properties if key == "note"]
        skipped = call.excinfo is not None and call.excinfo.errisinstance(pytest.skip.Exception)
        outcome = "skipped" if skipped else "FAILED" if call.excinfo else "withstood"
        if skipped:
            notes = [str(call.excinfo.value)] if call.excinfo else notes
        _fault_results[item.nodeid] = (" ".join(marker.args), outcome, "; ".join(notes))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """With --faults: each fault, and whether it was withstood."""
    if not config.getoption("--faults"):
        return
    terminalreporter.section("faults")
    lines: dict[str, list[tuple[str, str]]] = {}
    for fault, outcome, text in _fault_results.values():
        lines.setdefault(fault, []).append((outcome, text))
    for fault, results in lines.items():
        outcomes = Counter(outcome for outcome, _ in results)
        counted = ", ".join(
            f"{outcome} {count}" if len(results) > 1 else outcome for outcome, count in outcomes.items()
        )
        notes = "; ".join(dict.fromkeys(text for _, text in results if text))
        terminalreporter.line(f"{fault:<58} {counted}{f' ({notes})' if notes else ''}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run browser tests last: they take the longest."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)
