"""The page as a user meets it: what can be clicked and typed, by the ids that are a contract."""

import json
import re
from pathlib import Path

from driver.browser import shots

WORKING = ("queued", "loading", "encoding", "training", "saving")
ENDED = ("finished", "stopped", "failed")


class Tab:
    """The Textual Inversion tab of an open page, and txt2img beside it."""

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
        """Choose one of the page's tabs."""
        self.page.locator("#tabs > .tab-nav button, #tabs > div button[role=tab]").filter(
            has_text=re.compile(f"^\\s*{re.escape(title)}\\s*$", re.IGNORECASE)
        ).first.click()

    def field(self, name: str):
        return self.page.locator(f"#tinv_{name}").locator("input, textarea").first

    def fill(self, **values) -> "Tab":
        """Type into fields, wherever they are; `preset` and `kind` are chosen by their words."""
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

    def add(self, *paths: Path, wait: bool = True) -> "Tab":
        before = self.thumbnails().count()
        self.page.locator("#tinv_images input[type=file]").set_input_files([str(path) for path in paths])
        if wait:
            self.until(lambda: self.thumbnails().count() >= before + len(paths))
        return self

    def thumbnails(self):
        return self.page.locator("#tinv_images img")

    def train(self) -> "Tab":
        self.click("train")
        return self

    def click(self, name: str) -> None:
        """Press a button, once it can be pressed."""
        button = self.page.locator(f"button#tinv_{name}, #tinv_{name} button").first
        self.until(lambda: button.is_enabled(), what=f"{name} to be enabled")
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

    def until(self, true, timeout_s: float = 60, what: str = "") -> "Tab":
        """Wait for what a user would wait for."""
        for _ in range(int(timeout_s * 10)):
            if true():
                return self
            self.page.wait_for_timeout(100)
        raise AssertionError(
            f"waited {timeout_s} s for {what or true}; the page is {self.state} at {self.step}: {self.problems}"
        )

    def until_state(self, *states: str, timeout_s: float = 120) -> "Tab":
        return self.until(lambda: self.state in states, timeout_s, f"the state {' or '.join(states)}")

    def picture(self, name: str, full: bool = True) -> None:
        """A screenshot, where they are wanted."""
        if folder := shots():
            self.page.screenshot(path=str(folder / f"{name}.png"), full_page=full)

    def ask(self, do: str, **more):
        """Call the trainer as the page does."""
        answer = self.page.request.post(f"{self.url}run/tinv", data={"data": [json.dumps({"do": do, **more})]})
        return json.loads(answer.json()["data"][0])

    def choices(self, tab: str = "txt2img") -> list[str]:
        """What the picker offers."""
        self.show(tab)
        box = self.page.locator(f"#{tab}_tinv_picker input").first
        if not box.is_visible():
            self.page.locator(f"#{tab}_tinv_accordion > button, #{tab}_tinv_accordion > .label-wrap").first.click()
        box.click()
        self.page.wait_for_timeout(300)
        offered = self.page.locator(f"#{tab}_tinv_picker ul li, ul.options li").all_inner_texts()
        box.press("Escape")
        return [text.strip().lstrip("✓").strip() for text in offered]

    def choose(self, word: str, tab: str = "txt2img") -> None:
        self.show(tab)
        box = self.page.locator(f"#{tab}_tinv_picker input").first
        if not box.is_visible():
            self.page.locator(f"#{tab}_tinv_accordion > button, #{tab}_tinv_accordion > .label-wrap").first.click()
        box.fill(word)
        self.page.wait_for_timeout(200)
        box.press("Enter")

    def prompt(self, tab: str = "txt2img", negative: bool = False):
        return self.page.locator(f"#{tab}_{'neg_' if negative else ''}prompt textarea").first
