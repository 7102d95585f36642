"""A real browser: Debian's Chromium, driven by Playwright, without a download of its own."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def why_not() -> str:
    """Why no browser can be driven here; empty where one can."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError as error:
        return f"Playwright is not there ({error})"
    return "" if executable() else "there is no Chromium; on Debian: apt-get install chromium"


def executable() -> str | None:
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def chromium():
    """A started browser. Skips the test where there is none."""
    if reason := why_not():
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
        yield browser
        browser.close()


def shots() -> Path | None:
    """Where screenshots go, if anybody wants them: the folder in SCREENSHOTS."""
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder) if folder else None
