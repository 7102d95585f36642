"""The pictures that a run has sampled: previews over steps, and the test pictures of its finished embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lib_ti.runs.events import Event, RunHistory
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.report.markup import Html, element
from lib_ti.runs.report.parts import PICTURE_SIDE, PREVIEW_SIDE, picture, section

Index = tuple[int, int]
"""Of a row of previews: of its prompt, and of its seed."""
MAX_ROWS, MAX_COLUMNS = 6, 8  # of previews


def test_pictures(folder: RunFolder, history: RunHistory) -> Html:
    """The pictures of the finished embedding, each with its prompt; those with and without the word side by side."""
    cells = {
        index: picture(folder.test(index), PICTURE_SIDE, _text(event, "label").capitalize(), prompt_text(event))
        for index, event in sorted(history.tests.items())
    }
    note = "Prompts of different kinds, made with the finished embedding and the same seed."
    if not cells:
        return Html("")
    prompts = [_text(event, "prompt") for _, event in sorted(history.tests.items())]
    if len(set(prompts)) == len(prompts):
        return section("Test pictures", element("div", *cells.values(), class_="pictures large"), note=note)
    pairs = [
        element(
            "div", *(cell for cell, text in zip(cells.values(), prompts, strict=True) if text == prompt), class_="pair"
        )
        for prompt in dict.fromkeys(prompts)
    ]
    return section("Test pictures", element("div", *pairs, class_="pairs"), note=note)


def previews(folder: RunFolder, history: RunHistory, best: int | None) -> Html:
    """The previews over steps, a row for each prompt and seed; the one that is nearest to the `best` step is framed."""
    rows = preview_rows(history)
    partners = _rows_without_the_word(rows)
    shown = []
    for index, events in rows.items():
        if index in partners.values():
            continue
        steps = selection(sorted(events), best, MAX_COLUMNS)
        nearest = min(steps, key=lambda step: abs(step - best)) if best is not None and len(steps) > 1 else None
        cells = [picture(folder.preview(s, *index), PREVIEW_SIDE, f"step {s}", chosen=s == nearest) for s in steps]
        if partner := partners.get(index):
            cells.insert(0, picture(folder.preview(0, *partner), PREVIEW_SIDE, "without the word"))
        first = events[steps[0]]
        title = element("p", prompt_text(first), element("span", f" · seed {first.data.get('seed')}"))
        shown.append(element("div", title, element("div", *cells, class_="strip"), class_="row"))
    note = "The same prompt and seed at every step; the frame marks what is nearest to the best step." if best else ""
    return section("Previews", *shown[:MAX_ROWS], note=note)


def preview_rows(history: RunHistory) -> dict[Index, dict[int, Event]]:
    """The previews by (prompt index, seed index), and in it by step."""
    rows: dict[Index, dict[int, Event]] = {}
    for (step, prompt_index, seed_index), event in sorted(history.previews.items()):
        rows.setdefault((prompt_index, seed_index), {})[step] = event
    return rows


def prompt_text(event: Event) -> str:
    """The prompt of a preview or test picture, with its negative prompt."""
    negative = _text(event, "negative_prompt")
    return _text(event, "prompt") + (f" — negative: {negative}" if negative else "")


def selection(steps: Sequence[int], chosen: int | None, count: int) -> list[int]:
    """At most `count` of the steps, evenly spaced, with the first, the last and the one nearest to `chosen`."""
    if len(steps) <= count:
        return list(steps)
    picked = [steps[i * (len(steps) - 1) // (count - 1)] for i in range(count)]
    if chosen is not None:
        nearest = min(steps, key=lambda step: abs(step - chosen))
        replaced = min(picked[1:-1], key=lambda step: abs(step - nearest)) if nearest not in picked else nearest
        picked[picked.index(replaced)] = nearest
    return picked


def _rows_without_the_word(rows: Mapping[Index, Mapping[int, Event]]) -> dict[Index, Index]:
    """For each row of a negative embedding the other one of its pair, which is the same at every step and so made once."""
    pairs: dict[tuple[str, object], list[Index]] = {}
    for index, events in rows.items():
        first = events[min(events)]
        pairs.setdefault((_text(first, "prompt"), first.data.get("seed")), []).append(index)
    return {pair[0]: pair[1] for pair in pairs.values() if len(pair) == 2 and rows[pair[1]].keys() == {0}}


def _text(event: Event, name: str) -> str:
    return str(event.data.get(name) or "")
