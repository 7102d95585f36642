"""The form of a training: one gradio component for each option a browser may set, derived from `TrainSettings`.

Python attaches no handlers to them. The page's JavaScript reads and writes all of them at once, in the order of `Form.fields`,
and sends their values as text, which `settings.parse` checks. So numbers are plain text inputs here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from lib_ti.model.checkpoint.families import family_titles
from lib_ti.settings.option import Option
from lib_ti.settings.train_settings import CAPTION_SLOT, DEFAULTS, NAME_SLOT, OPTIONS, TYPES
from lib_ti.webui.ui.keywords import KEYWORDS

SERVER_OPTIONS = frozenset({"images", "model", "vae", "out", "runs_dir", "device"})
"""Options without a field, which the server sets: the page's images, and what follows from the host."""

SERVER_PATH_OPTIONS = frozenset({"template_file", "init_embedding", "contrast_images"})
"""Options that name files of the server; without a field if the host hides its paths."""

IMPLIED_OPTIONS = frozenset({"gradient_checkpointing"})
"""Options without a field because another option implies them; a request may still set them."""

KEEP_GENERATING = "keep_generating"
"""A field that is no training option: it says how the GPU is shared with the host."""

PRESETS = {"quick": "Quick", "balanced": "Balanced", "thorough": "Thorough", "custom": "Custom"}

LABELS = {
    "name": "New word",
    "kind": "It is a",
    "init_text": "Looks most like",
    "consent": "I have permission",
    "init_random": "Start from random vectors",
    "init_embedding": "Start from an embedding",
    "lr_schedule": "Learning rate schedule",
    "learning_rate_2": "Learning rate, second text encoder",
    "train_encoders": "Text encoders trained",
    "zero_terminal_snr": "Zero terminal SNR",
    "clip_skip": "CLIP skip",
    "adam_beta1": "Adam beta 1",
    "ema_decay": "EMA decay",
    "min_snr_gamma": "Min-SNR gamma",
    "clip": "Gradient limit",
    "clip_at": "Gradient limit at",
    "acceleration": "Speed-up",
    "memory": "Memory mode",
    "latent_cache_mb": "Cache for encoded pictures",
    "buckets": "Keep shapes",
    "flip": "Mirror",
    "template_file": "Your own training prompts",
    "contrast_images": "Good pictures to keep",
    "preview_prompt": "Preview prompts",
    "test_prompt": "Test prompts",
    "preview_seed": "Preview seeds",
    "early_stop": "Stop early",
    "validate_every": "Validate every",
    "keep": "Step to keep",
    "overwrite": "Replace an existing word",
    KEEP_GENERATING: "Keep generating while training",
}
"""The labels that are not derived from the option's name."""

HELP = {
    "name": "you'll type this in prompts. It is also the file name",
    "kind": "what are you teaching?",
    "init_text": "the closest ordinary word, e.g. coin; auto: found from your pictures",
    "acceleration": "auto picks the fastest safe method",
    "overwrite": "the file of the old word is overwritten",
    "template_file": f"one a line; {NAME_SLOT} is the word, {CAPTION_SLOT} the caption. Or the path of a text file with them",
    "test_prompt": "prompts that test the finished word, one a line; empty: three prompts that suit it",
    "init_embedding": "name or file of an embedding to start from",
    KEEP_GENERATING: "keep txt2img usable; the graphics card needs room for both",
}
CHOICE_LABELS = {
    "kind": {"subject": "Thing or person", "style": "Style", "negative": "What to avoid"},
    "keep": {"best": "The best", "last": "The last"},
}
"""The labels of choices. The page translates them back, because gradio 3.41 has no labels apart from values."""

MULTILINE = frozenset({"template_file"})
"""Fields for several lines although they hold one text: the form takes prompts in place of the file that holds them."""

FULL_WIDTH = frozenset({"preview_prompt", "test_prompt", "preview_negative_prompt", "template_file"})
"""Fields that take a whole row."""

ELEMENT_IDS = {"preview_prompt": "tinv_preview_prompts"}
PLACEHOLDER_TEXTS = {
    "test_prompt": f"a drawing of {NAME_SLOT}",
    "template_file": f"a photo of {NAME_SLOT}\na close-up of {NAME_SLOT}, {CAPTION_SLOT}",
    "name": "my-mug",
    "init_text": "mug",
    "preview_prompt": f"a photo of {NAME_SLOT} on a beach",
    "preview_seed": "1",
}


def element_id(name: str) -> str:
    """The DOM id of a field's wrapper element."""
    return ELEMENT_IDS.get(name, f"tinv_{name}")


def field_names(hides_paths: bool) -> tuple[str, ...]:
    """The options that have a field, in their order in `TrainSettings`, then `KEEP_GENERATING`."""
    excluded = SERVER_OPTIONS | IMPLIED_OPTIONS | (SERVER_PATH_OPTIONS if hides_paths else frozenset())
    return (*(name for name in OPTIONS if name not in excluded), KEEP_GENERATING)


def field_value(value: Any) -> str | bool:
    """A setting's value as its field shows it."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return "\n".join(map(str, value))
    return value if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def default_values(hides_paths: bool) -> dict[str, str | bool]:
    """The values of all fields before any is changed."""
    return {
        name: field_value(DEFAULTS.get(name, False if name == KEEP_GENERATING else ""))
        for name in field_names(hides_paths)
    }


def label(name: str) -> str:
    """A field's label."""
    return LABELS.get(name, name.replace("_", " ").capitalize())


def help_text(name: str) -> str:
    """A field's help: purpose, unit and range, default, and the families it is for if not for all."""
    option = OPTIONS.get(name)
    if name in HELP or option is None:
        return _as_sentence(HELP[name])
    purpose = option.help.replace("give it again for more", "one a line")
    is_numeric = option.low is not None
    values = "; ".join(filter(None, (_range_text(option) if is_numeric else "", _default_text(name))))
    families = f"{family_titles(option.families)} only" if option.families else ""
    return " ".join(map(_as_sentence, filter(None, (purpose, values, families))))


def _range_text(option: Option) -> str:
    low, high, unit = option.low or 0, option.high, f" {option.unit}" if option.unit else ""
    if high is None or high >= 1e6:
        return f"above 0{unit}" if 0 < low < 1e-6 else f"{low:.15g} or more{unit}"
    return f"{low:.15g}–{high:.15g}{unit}"


def _default_text(name: str) -> str:
    default = DEFAULTS.get(name, "")
    if isinstance(default, bool) or (name in CHOICE_LABELS):
        return ""
    text = "auto" if default is None and Path not in get_args(TYPES[name]) else field_value(default)
    return f"default {text}" if text and isinstance(text, str) and "\n" not in text else ""


def _as_sentence(text: str) -> str:
    return text and text[0].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")


class Form:
    """The gradio components of the fields, created one by one where the layout places them. To be used within `gr.Blocks`."""

    def __init__(self, hides_paths: bool) -> None:
        self._names = field_names(hides_paths)
        self._defaults = default_values(hides_paths)
        self._components: dict[str, Any] = {}

    def add(self, *names: str) -> None:
        """Create the components of fields here."""
        for name in names:
            component = self._component(name)
            component.do_not_save_to_config = True  # the page remembers values; A1111 would too, in its ui-config.json
            self._components[name] = component

    def section(self, title: str) -> list[str]:
        """The fields of a section of `TrainSettings` that are not placed yet, full-width ones first and switches last."""
        sections = {name: option.section for name, option in OPTIONS.items()} | {KEEP_GENERATING: "Memory"}
        unplaced = [name for name in self._names if sections[name] == title and name not in self._components]
        return sorted(unplaced, key=lambda name: 0 if name in FULL_WIDTH else 2 if _field_type(name) == "switch" else 1)

    def fields(self) -> dict[str, Any]:
        """Every component by field name, in a fixed order. Raises ValueError if the layout lacks one."""
        if missing := [name for name in self._names if name not in self._components]:
            raise ValueError(f"no place in the form for {', '.join(missing)}")
        return {name: self._components[name] for name in self._names}

    def schema(self) -> str:
        """A description of the fields for the page's JavaScript, in the order of `fields`, as JSON."""
        fields = [
            {
                "name": name,
                "id": element_id(name),
                "label": label(name),
                "holds": _field_type(name),
                "words": CHOICE_LABELS.get(name, {}),
                "start": self._defaults[name],
                "keywords": f"{name} {KEYWORDS.get(name, '')}",
                "families": OPTIONS[name].families if name in OPTIONS else (),
            }
            for name in self._names
        ]
        return json.dumps({"fields": fields, "presets": PRESETS}, ensure_ascii=False)

    def _component(self, name: str) -> Any:
        default, field_type = self._defaults[name], _field_type(name)
        classes = ["tinv-field", "tinv-wide" if name in FULL_WIDTH else f"tinv-{field_type}"]
        common = {"label": label(name), "info": help_text(name), "elem_id": element_id(name), "elem_classes": classes}
        if field_type == "switch":
            return gr.Checkbox(value=default, **common)
        if field_type == "choice":
            labels: Mapping[str, str] = CHOICE_LABELS.get(name, {})
            choices = [labels.get(choice, choice) for choice in OPTIONS[name].choices]
            component = gr.Radio if labels else gr.Dropdown
            return component(choices=choices, value=labels.get(str(default), default), **common)
        is_auto = default == "" and type(None) in get_args(TYPES[name])
        placeholder = PLACEHOLDER_TEXTS.get(name, "auto" if is_auto and field_type != "path" else "")
        has_lines = field_type == "lines" or name in MULTILINE
        lines = {"lines": 2, "max_lines": 8} if has_lines else {"lines": 1, "max_lines": 1}
        return gr.Textbox(value=default, placeholder=placeholder, **lines, **common)


def _field_type(name: str) -> str:
    """How the page reads a field: switch, choice, path (omitted if empty), lines (a list), text."""
    value_type = TYPES.get(name, bool)
    if value_type is bool:
        return "switch"
    if OPTIONS[name].choices:
        return "choice"
    if Path in get_args(value_type):
        return "path"
    return "lines" if get_args(value_type)[-1:] == (...,) else "text"
