"""A standalone server that most tests share, and a fresh browser page for each test."""

from pathlib import Path

import pytest
from driver.browser import chromium
from driver.server import COIN, Server
from driver.tab import Tab


@pytest.fixture(scope="session")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def server(tmp_path_factory, browser):
    """The server that most tests share; each trains words of its own."""
    started = Server(tmp_path_factory.mktemp("ui"))
    yield started
    started.stop()


@pytest.fixture
def open_tab(browser):
    """Opens the tab in a page of its own; whatever fails in the page's scripts fails the test."""
    contexts, tabs = [], []

    def opened(server: Server, **context) -> Tab:
        contexts.append(browser.new_context(**{"viewport": {"width": 1380, "height": 1000}, **context}))
        tabs.append(Tab(contexts[-1].new_page(), server.url))
        return tabs[-1].open()

    yield opened
    for context in contexts:
        context.close()
    assert [error for tab in tabs for error in tab.errors] == []


@pytest.fixture
def tab(open_tab, server) -> Tab:
    return open_tab(server)


@pytest.fixture(scope="session")
def coins() -> list[Path]:
    return sorted(path for path in COIN.glob("*.png"))[:4]
