"""Drives the page as a user does: clicks and types, finding elements by the ids that scripts may rely on."""

import json
import re
from pathlib import Path

from driver.browser import screenshot_folder

ACTIVE_STATES = ("queued", "loading", "encoding", "training", "saving")


class Tab:
    """The Textual Inversion tab of an open page, with the tabs of the host."""

    def __init__(self, page, url: str) -> None:
        self.page, self.url = page, url
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self) -> "Tab":
        self.page.goto(self.url)
        self.page.wait_for_selector("#tinv_name", state="attached", timeout=60_000)
        self.show("Textual Inversion")
        self.page.wait_for_selector("#tinv_status [data-state]", state="attached", timeout=30_000)
        return self

    def show(self, title: str) -> None:
        """Open one of the page's tabs."""
        self.page.locator("#tabs > .tab-nav button, #tabs > div button[role=tab]").filter(
            has_text=re.compile(f"^\\s*{re.escape(title)}\\s*$", re.IGNORECASE)
        ).first.click()

    def field(self, name: str):
        """The input of a field, by the name of its setting."""
        return self.page.locator(f"#tinv_{name}").locator("input, textarea").first

    def fill(self, **values) -> "Tab":
        """Fill in fields, also under Advanced; `preset` and `kind` are chosen by their labels."""
        for name, value in values.items():
            if name in ("preset", "kind"):
                self.page.locator(f"#tinv_{name}").get_by_text(str(value), exact=False).first.click()
                continue
            if not self.field(name).is_visible():
                self.open_advanced()
            self.field(name).fill(str(value))
            self.field(name).blur()
        return self

    def open_advanced(self) -> None:
        self.page.locator("#tinv_advanced > button, #tinv_advanced > .label-wrap").first.click()

    def add_pictures(self, *paths: Path, wait: bool = True) -> "Tab":
        before = self.thumbnails().count()
        self.page.locator("#tinv_images input[type=file]").set_input_files([str(path) for path in paths])
        if wait:
            self.wait_until(lambda: self.thumbnails().count() >= before + len(paths))
        return self

    def thumbnails(self):
        return self.page.locator("#tinv_images img")

    def train(self) -> "Tab":
        self.click("train")
        return self

    def click(self, name: str) -> None:
        """Click a button once it is enabled."""
        button = self.page.locator(f"button#tinv_{name}, #tinv_{name} button").first
        self.wait_until(lambda: button.is_enabled(), awaited=f"{name} to be enabled")
        button.click()

    @property
    def state(self) -> str:
        return self.page.locator("#tinv_status [data-state]").first.get_attribute("data-state") or ""

    @property
    def step(self) -> int:
        return int(self.page.locator("#tinv_status [data-state]").first.get_attribute("data-step") or 0)

    @property
    def problems(self) -> str:
        return self.page.locator("#tinv_problems").inner_text()

    def previews(self):
        return self.page.locator("#tinv_previews_gallery img[data-step]")

    def wait_until(self, condition, timeout_s: float = 60, awaited: str = "") -> "Tab":
        """Wait for a condition; `awaited` describes it in the error message."""
        for _ in range(int(timeout_s * 10)):
            if condition():
                return self
            self.page.wait_for_timeout(100)
        raise AssertionError(
            f"waited {timeout_s} s for {awaited or condition}; the page is {self.state} at {self.step}: {self.problems}"
        )

    def wait_for_state(self, *states: str, timeout_s: float = 120) -> "Tab":
        return self.wait_until(lambda: self.state in states, timeout_s, f"the state {' or '.join(states)}")

    def screenshot(self, name: str, full: bool = True) -> None:
        """Save a screenshot if SCREENSHOTS names a folder for them."""
        if folder := screenshot_folder():
            self.page.screenshot(path=str(folder / f"{name}.png"), full_page=full)

    def call(self, action: str, **args):
        """Call an action as the page does."""
        response = self.page.request.post(f"{self.url}run/tinv", data={"data": [json.dumps({"do": action, **args})]})
        return json.loads(response.json()["data"][0])

    def picker_choices(self, tab: str = "txt2img") -> list[str]:
        """The labels that the picker of embeddings offers."""
        box = self._open_picker(tab)
        box.click()
        self.page.wait_for_timeout(300)
        labels = self.page.locator(f"#{tab}_tinv_picker ul li, ul.options li").all_inner_texts()
        box.press("Escape")
        return [text.strip().lstrip("✓").strip() for text in labels]

    def choose_embedding(self, name: str, tab: str = "txt2img") -> None:
        box = self._open_picker(tab)
        box.fill(name)
        self.page.wait_for_timeout(200)
        box.press("Enter")

    def _open_picker(self, tab: str):
        """Unfold the picker; gives its input."""
        self.show(tab)
        box = self.page.locator(f"#{tab}_tinv_picker input").first
        if not box.is_visible():
            self.page.locator(f"#{tab}_tinv_accordion > button, #{tab}_tinv_accordion > .label-wrap").first.click()
        return box

    def prompt(self, tab: str = "txt2img", negative: bool = False):
        return self.page.locator(f"#{tab}_{'neg_' if negative else ''}prompt textarea").first
