"""A WebUI that runs already: WEBUI_URL is its address, WEBUI_DIR its folder on this computer."""

import os
from pathlib import Path

import pytest
from driver.browser import chromium
from driver.server import COIN
from driver.tab import Tab


class WebUI:
    """The running host."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url.rstrip("/") + "/", folder

    @property
    def embeddings(self) -> Path:
        return self.folder / "embeddings"

    @property
    def runs(self) -> Path:
        return self.folder / "textual_inversion"


@pytest.fixture(scope="session")
def webui() -> WebUI:
    url, folder = os.environ.get("WEBUI_URL"), os.environ.get("WEBUI_DIR")
    if not (url and folder):
        pytest.skip("no WebUI here: WEBUI_URL and WEBUI_DIR say where one runs")
    return WebUI(url, Path(folder))


@pytest.fixture(scope="session")
def browser(webui):
    with chromium() as started:
        yield started


@pytest.fixture
def tab(webui, browser):
    context = browser.new_context(viewport={"width": 1380, "height": 1000})
    opened = Tab(context.new_page(), webui.url).open()
    yield opened
    if active := opened.call("poll", run=None, after=0)["active"]:  # a test that failed leaves nobody waiting
        opened.call("stop", run=active)
    context.close()
    assert [error for error in opened.errors if "tinv" in error] == []


@pytest.fixture(scope="session")
def coins() -> list[Path]:
    return sorted(COIN.glob("*.png"))[:4]


@pytest.fixture
def word(webui):
    """A new word; what came of it is removed afterwards."""
    name = f"test-coin-{os.getpid()}"
    yield name
    for path in webui.embeddings.glob(f"{name}*"):
        path.unlink()
