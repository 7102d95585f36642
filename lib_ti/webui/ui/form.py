"""The form of a training: one gradio component for each option a browser may set, derived from `TrainSettings`.

Python attaches no handler to them. The page's JavaScript reads and sets them all at once, in the order of `Form.fields`,
and sends what it read as text; `settings.parse` is what judges it. So numbers are plain text inputs here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from lib_ti.model.checkpoint.families import family_titles
from lib_ti.settings.option import Option
from lib_ti.settings.train_settings import DEFAULTS, NAME_SLOT, OPTIONS, TYPES

SERVER_DECIDES = frozenset({"images", "model", "vae", "out", "runs_dir", "device"})
"""Options without a field: the page's pictures, and what follows from the WebUI that the training runs in."""

SERVER_FILES = frozenset({"template_file", "init_embedding"})
"""Options that name files of the server; without a field where the server's folders are not the browser's business."""

ABSORBED = frozenset({"gradient_checkpointing"})
"""Options without a field because another one says the same; a request may still set them."""

KEEP_GENERATING = "keep_generating"
"""Sent with the form, but the WebUI's business and not an option of the training itself."""

PRESETS = {"quick": "Quick", "balanced": "Balanced", "thorough": "Thorough", "custom": "Custom"}

LABELS = {
    "name": "New word",
    "kind": "It is a",
    "init_text": "Looks most like",
    "init_random": "Start from random vectors",
    "init_embedding": "Start from an embedding",
    "lr_schedule": "Learning rate schedule",
    "learning_rate_2": "Learning rate, second text encoder",
    "train_encoders": "Text encoders trained",
    "zero_terminal_snr": "Zero terminal SNR",
    "clip_skip": "CLIP skip",
    "clip": "Gradient limit",
    "clip_at": "Gradient limit at",
    "acceleration": "Acceleration",
    "memory": "Memory mode",
    "latent_cache_mb": "Cache for encoded pictures",
    "buckets": "Keep shapes",
    "flip": "Mirror",
    "template_file": "Own prompts",
    "preview_prompt": "Preview prompts",
    "preview_seed": "Preview seeds",
    "overwrite": "Replace an existing word",
    KEEP_GENERATING: "Keep generating while training",
}
"""What a field is called where its option's name would not say it."""

HELP = {
    "init_embedding": "an embedding's name or file to start from instead",
    KEEP_GENERATING: "leave the WebUI's model in memory and txt2img free; needs room for both",
}
CHOICES = {"kind": {"subject": "Thing or person", "style": "Style", "negative": "What to avoid"}}
"""What choices are called. The page translates them back, since gradio 3.41 knows no labels apart from values."""

WIDE = frozenset({"preview_prompt", "preview_negative_prompt"})
"""Fields that need a whole line."""

IDS = {"preview_prompt": "tinv_preview_prompts"}
PLACEHOLDERS = {
    "name": "my-mug",
    "init_text": "mug",
    "preview_prompt": f"a photo of {NAME_SLOT} on a beach",
    "preview_seed": "1",
}


def element_id(name: str) -> str:
    """The DOM id of a field's wrapper."""
    return IDS.get(name, f"tinv_{name}")


def offered(hides_paths: bool) -> tuple[str, ...]:
    """The options that have a field, in their order in `TrainSettings`, then the one that is not an option of it."""
    left_out = SERVER_DECIDES | ABSORBED | (SERVER_FILES if hides_paths else frozenset())
    return (*(name for name in OPTIONS if name not in left_out), KEEP_GENERATING)


def text_of(value: Any) -> str | bool:
    """A value as its field shows it."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return "\n".join(map(str, value))
    return value if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def values(hides_paths: bool) -> dict[str, str | bool]:
    """What the form holds before anyone touched it."""
    return {
        name: text_of(DEFAULTS.get(name, False if name == KEEP_GENERATING else "")) for name in offered(hides_paths)
    }


def label(name: str) -> str:
    """What a field is called."""
    return LABELS.get(name, name.replace("_", " ").capitalize())


def explain(name: str) -> str:
    """A field's help: what it does, its range with the unit, its default, and the families it is for if not for all."""
    option = OPTIONS.get(name)
    if name in HELP or option is None:
        return _sentence(HELP[name])
    help = option.help.replace("give it again for more", "one a line")
    numeric = option.low is not None
    span = "; ".join(filter(None, (_span(option) if numeric else "", _default(name))))
    whom = f"{family_titles(option.families)} only" if option.families else ""
    return " ".join(map(_sentence, filter(None, (help, span, whom))))


def _span(option: Option) -> str:
    low, high, unit = option.low or 0, option.high, f" {option.unit}" if option.unit else ""
    if high is None or high >= 1e6:
        return f"above 0{unit}" if 0 < low < 1e-6 else f"{low:g} or more{unit}"
    return f"{low:g}–{high:g}{unit}"


def _default(name: str) -> str:
    value = DEFAULTS.get(name, "")
    if isinstance(value, bool) or (name in CHOICES):
        return ""
    shown = "auto" if value is None and Path not in get_args(TYPES[name]) else text_of(value)
    return f"default {shown}" if shown and isinstance(shown, str) and "\n" not in shown else ""


def _sentence(text: str) -> str:
    return text and text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


class Form:
    """The fields, made one by one where the layout wants them. To be used within `gr.Blocks`."""

    def __init__(self, hides_paths: bool) -> None:
        self._names = offered(hides_paths)
        self._start = values(hides_paths)
        self._made: dict[str, Any] = {}

    def add(self, *names: str) -> None:
        """Place fields here."""
        for name in names:
            component = self._component(name)
            component.do_not_save_to_config = True  # the page remembers; A1111 would too, in its ui-config.json
            self._made[name] = component

    def section(self, title: str) -> list[str]:
        """The fields of a section of `TrainSettings` that have no place yet, wide ones first and switches last."""
        sections = {name: option.section for name, option in OPTIONS.items()} | {KEEP_GENERATING: "Memory"}
        left = [name for name in self._names if sections[name] == title and name not in self._made]
        return sorted(left, key=lambda name: 0 if name in WIDE else 2 if _holds(name) == "switch" else 1)

    def fields(self) -> dict[str, Any]:
        """Every field by its name, in a fixed order. Raises ValueError if the layout has forgotten one."""
        if missing := [name for name in self._names if name not in self._made]:
            raise ValueError(f"no place in the form for {', '.join(missing)}")
        return {name: self._made[name] for name in self._names}

    def schema(self) -> str:
        """What the page must know of the fields, in the order of `fields`, as JSON."""
        fields = [
            {
                "name": name,
                "id": element_id(name),
                "label": label(name),
                "holds": _holds(name),
                "words": CHOICES.get(name, {}),
                "start": self._start[name],
                "families": OPTIONS[name].families if name in OPTIONS else (),
            }
            for name in self._names
        ]
        return json.dumps({"fields": fields, "presets": PRESETS}, ensure_ascii=False)

    def _component(self, name: str) -> Any:
        start, holds = self._start[name], _holds(name)
        classes = ["tinv-field", "tinv-wide" if name in WIDE else f"tinv-{holds}"]
        common = {"label": label(name), "info": explain(name), "elem_id": element_id(name), "elem_classes": classes}
        if holds == "switch":
            return gr.Checkbox(value=start, **common)
        if holds == "choice":
            words: Mapping[str, str] = CHOICES.get(name, {})
            shown = [words.get(choice, choice) for choice in OPTIONS[name].choices]
            kind = gr.Radio if words else gr.Dropdown
            return kind(choices=shown, value=words.get(str(start), start), **common)
        hint = PLACEHOLDERS.get(name, "auto" if start == "" and type(None) in get_args(TYPES[name]) else "")
        if holds == "path":
            hint = ""
        lines = {"lines": 2, "max_lines": 8} if holds == "lines" else {"lines": 1, "max_lines": 1}
        return gr.Textbox(value=start, placeholder=hint, **lines, **common)


def _holds(name: str) -> str:
    """How the page reads a field: switch, choice, path (left out when empty), lines (a list), text."""
    kind = TYPES.get(name, bool)
    if kind is bool:
        return "switch"
    if OPTIONS[name].choices:
        return "choice"
    if Path in get_args(kind):
        return "path"
    return "lines" if get_args(kind)[-1:] == (...,) else "text"
