"""The parts that the report of a run and the comparison of a sweep are put together from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lib_ti.runs.report.facts import RunFacts, Validation
from lib_ti.runs.report.markup import Html, element
from lib_ti.runs.report.pictures import data_uri

STYLE = Path(__file__).with_name("style.css")
PICTURE_SIDE = 320  # of the test pictures
PREVIEW_SIDE = 224
STATE_NAMES = {"finished": "Finished", "stopped": "Stopped", "failed": "Failed", "training": "In training"}


def style() -> str:
    """The style that all pages share."""
    return STYLE.read_text(encoding="utf-8")


def section(title: str, *content: str, note: str = "") -> Html:
    """A card with a heading; nothing at all if it has no content."""
    if not any(content):
        return Html("")
    return element("section", element("h2", title), *([element("p", note, class_="note")] if note else []), *content)


def tiles(values: Iterable[tuple[str, str, str]]) -> Html:
    """Key figures: each a value, what it is, and a remark that may be empty."""
    cells = (
        element("div", element("b", value), element("span", name), *([element("small", remark)] if remark else []),
                class_="tile")
        for value, name, remark in values
    )  # fmt: skip
    return element("div", *cells, class_="tiles")


def picture(path: Path, side: int, title: str, text: str = "", chosen: bool = False) -> Html:
    """A picture with its caption; a grey square if the file cannot be read."""
    uri = data_uri(path, side)
    alt = text or title
    shown = element("img", src=uri, alt=alt, title=alt, class_="picture") if uri else element("div", class_="picture")
    caption = element("figcaption", *([element("b", title)] if text else [title]), text)
    return element("figure", shown, caption, class_="chosen" if chosen else None)


def sentence(text: str) -> str:
    """The text with a capital letter and a full stop, as a message of the log has neither."""
    return text and text[0].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def number(value: float, signed: bool = False) -> str:
    """A number with four significant digits."""
    return f"{value:{'+' if signed else ''}.4g}".replace("-", "−")


def change_text(validation: Validation) -> str:
    """The change of the validation loss since step 0, in per cent of what it was then; empty where it is not known."""
    if validation.change is None:
        return ""
    start = validation.loss - validation.change
    share = (
        f"{validation.change / start:+.1%}".replace("-", "−") if start > 0 else number(validation.change, signed=True)
    )
    if validation.interval is None or not start > 0:
        return share
    return f"{share} ± {validation.interval / start:.1%}"


def option_title(name: str) -> str:
    """A setting's name in words."""
    return name.replace("lr_", "learning rate ").replace("_", " ").capitalize()


def option_value(value: Any) -> str:
    """A setting's value in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return "; ".join(map(str, value)) or "none"
    if value is None:
        return "auto"
    if isinstance(value, Path):  # the page may be shown to others
        return value.name
    return f"{value:g}" if isinstance(value, float) else (str(value) or "none")


def duration(seconds: float) -> str:
    """A time that a person would say: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def best_step(facts: RunFacts) -> int | None:
    """The step that the page points out: what the run calls best, or the one with the lowest validation loss."""
    if facts.best:
        return facts.best[0]
    return facts.best_validation.step if facts.best_validation else None
