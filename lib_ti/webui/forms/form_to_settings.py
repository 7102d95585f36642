"""Converts the form's values to settings and back, and messages to the form's labels."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from lib_ti.errors import Problem, UnusableFile
from lib_ti.runs.folder import RunFolder
from lib_ti.settings.option import RawValue
from lib_ti.settings.train_settings import DEFAULTS, OPTIONS, TYPES, TrainSettings
from lib_ti.text import option_flag
from lib_ti.training.preflight.resolve_auto import probably_auto
from lib_ti.webui.forms.own_prompts import prompts_file
from lib_ti.webui.hosts.host import Host
from lib_ti.webui.ui import form as fields

PRESETS: dict[str, dict[str, str | bool]] = {
    "quick": {"steps": "200", "learning_rate": "auto", "vectors": "3", "batch_size": "1", "early_stop": True},
    "balanced": {"steps": "500", "learning_rate": "auto", "vectors": "3", "batch_size": "1", "early_stop": True},
    "thorough": {"steps": "1500", "learning_rate": "auto", "vectors": "4", "batch_size": "2"},
}
"""The options that each preset sets."""

EmbeddingLookup = Callable[[str], Path | None]
"""Returns the file of the embedding in the WebUI's folder that has a name."""

_FLAG = re.compile(r"--[a-z][a-z0-9-]+")


def preset_of(form: Mapping[str, Any], presets: Mapping[str, Mapping[str, str | bool]]) -> str:
    """The name of the preset whose values the form has, or "custom"."""
    for name, values in presets.items():
        if all(_equals_preset(form.get(option), value, option) for option, value in values.items()):
            return name
    return "custom"


def raw_settings(
    form: Mapping[str, Any], host: Host, images: Path, find_embedding: EmbeddingLookup
) -> tuple[dict[str, RawValue], list[Problem]]:
    """Raw values for `train_settings.parse`, with those the server decides; and problems with options a browser may not set."""
    raw: dict[str, RawValue] = {}
    problems = []
    allowed = {*fields.field_names(host.hides_paths), *fields.IMPLIED_OPTIONS}
    for name, value in form.items():
        if name not in TYPES or name in fields.SERVER_OPTIONS:
            continue
        if name not in allowed:
            if value:
                problems.append(Problem(name, "this WebUI does not let the browser name its files"))
            continue
        if (raw_value := _raw_value(name, value)) is not None:
            raw[name] = raw_value
    raw |= {
        "images": str(images),
        "out": str(host.embeddings_dir),
        "runs_dir": str(host.runs_dir),
        "device": host.device(),
    }
    raw.setdefault("name", "")
    if raw.get("precision", "auto") == "auto":
        raw["precision"] = host.precision()
    if "template_file" in raw:
        raw["template_file"] = prompts_file(str(raw["template_file"]), images)
    if "init_embedding" in raw:
        raw["init_embedding"] = str(_embedding_path(str(raw["init_embedding"]), host.embeddings_dir, find_embedding))
    if checkpoint := host.selected_checkpoint():
        raw["model"] = str(checkpoint.path)
    if vae := host.selected_vae():
        raw["vae"] = str(vae)
    return raw, problems


def form_values(
    settings: TrainSettings, hides_paths: bool, auto: Collection[str] = frozenset()
) -> dict[str, str | bool]:
    """The form's values for the settings of a run. `auto`: the options that were left to the training, and are again."""
    values = {
        name: fields.field_value(_auto_value(name) if name in auto else getattr(settings, name))
        for name in fields.field_names(hides_paths)
        if name in TYPES
    }
    memory = {"memory": settings.memory_modes[0]} if settings.gradient_checkpointing else {}
    return {**values, **memory, "overwrite": False}


def form_values_of_run(folder: RunFolder, hides_paths: bool) -> dict[str, str | bool]:
    """The form's values for another training like a run."""
    return form_values(folder.settings, hides_paths, auto_options(folder))


def auto_options(folder: RunFolder) -> Collection[str]:
    """The options that were left to a run's training, as far as they can be known."""
    stored = folder.auto_options
    if stored is not None:
        return stored
    from lib_ti.model.checkpoint.inspect import inspect_checkpoint

    try:
        return probably_auto(folder.settings, inspect_checkpoint(folder.settings.model))
    except UnusableFile:  # the checkpoint has been moved: the values stay as they are
        return ()


def _auto_value(name: str) -> str | None:
    return None if DEFAULTS.get(name, "auto") is None else "auto"


def problem_with_labels(problem: Problem) -> Problem:
    """The problem, its message with the form's labels instead of command-line flags."""
    return Problem(problem.option, flags_to_labels(problem.message))


def flags_to_labels(text: str) -> str:
    """The text with the form's labels instead of command-line flags."""
    names = {option_flag(name): name for name in OPTIONS}
    return _FLAG.sub(lambda m: f"“{fields.label(names[m[0]])}”" if m[0] in names else m[0], text)


def _raw_value(name: str, value: Any) -> RawValue | None:
    """A field's value as its option takes it; None if the field is empty and the option has a default."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (list, tuple)):
        texts = [str(item).strip() for item in value]
    elif isinstance(DEFAULTS.get(name), tuple):
        texts = str(value or "").splitlines()
    else:
        text = "" if value is None else str(value).strip()
        return text if text or name in ("init_text", "preview_negative_prompt") else None
    if TYPES[name] == tuple[int, ...]:
        texts = [number for text in texts for number in re.split(r"[\s,;]+", text)]
    return [text.strip() for text in texts if text.strip()] or None


def _embedding_path(text: str, folder: Path, find_embedding: EmbeddingLookup) -> Path:
    """The path of an embedding: `text` is a path, a file in the WebUI's folder or a name there."""
    if re.search(r"[\\/]", text):
        return Path(text)
    if os.path.isfile(folder / text):  # noqa: PTH113 - Path's own raises for names that are too long
        return folder / text
    return find_embedding(text) or Path(text)


def _equals_preset(value: Any, preset: str | bool, option: str) -> bool:
    if isinstance(preset, bool):
        return value is preset
    text = str(value if value is not None else "").strip().casefold() or fields.field_value(DEFAULTS.get(option, ""))
    try:
        return float(text) == float(preset)
    except (TypeError, ValueError):
        return text == preset
