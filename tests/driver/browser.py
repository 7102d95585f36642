"""The browser that the tests drive: the system's Chromium, through Playwright, which downloads none of its own."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

COMMANDS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def chromium_path() -> str | None:
    """The installed Chromium; CHROMIUM overrides it."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, COMMANDS)), None)


def missing_requirement() -> str:
    """What is missing for driving a browser; empty if nothing is."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError as error:
        return f"Playwright cannot be imported ({error})"
    return "" if chromium_path() else "Chromium is not installed (Debian: apt-get install chromium)"


@contextmanager
def chromium():
    """A running browser. Skips the test if none can be run."""
    if reason := missing_requirement():
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        yield browser
        browser.close()


def screenshot_folder() -> Path | None:
    """The folder that SCREENSHOTS names, created if necessary; None if it is not set."""
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder) if folder else None
