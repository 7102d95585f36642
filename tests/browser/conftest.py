"""A standalone server that most tests share, and a new browser page for each test."""

from pathlib import Path

import pytest
from driver.browser import chromium
from driver.server import COIN, Server
from driver.tab import Tab


@pytest.fixture(scope="session")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def server(tmp_path_factory, browser):
    """The server that most tests share; each test trains embeddings with names of its own."""
    shared = Server(tmp_path_factory.mktemp("ui"))
    yield shared
    shared.stop()


@pytest.fixture
def open_tab(browser):
    """Opens the tab in a new browser context; any error in the page's scripts fails the test."""
    contexts, tabs = [], []

    def open_in_new_context(server: Server, **options) -> Tab:
        contexts.append(browser.new_context(**{"viewport": {"width": 1380, "height": 1000}, **options}))
        tabs.append(Tab(contexts[-1].new_page(), server.url))
        return tabs[-1].open()

    yield open_in_new_context
    for context in contexts:
        context.close()
    assert [error for tab in tabs for error in tab.errors] == []


@pytest.fixture
def tab(open_tab, server) -> Tab:
    return open_tab(server)


@pytest.fixture(scope="session")
def coins() -> list[Path]:
    return sorted(path for path in COIN.glob("*.png"))[:4]
