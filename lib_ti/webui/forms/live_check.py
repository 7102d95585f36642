"""What can be said of a form while it is filled in: quickly, in the host's own process, without loading anything."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from lib_ti.errors import Problem
from lib_ti.settings import names
from lib_ti.settings.train_settings import CAPTION_SLOT, NAME_SLOT, TrainSettings, parse
from lib_ti.webui.embedding_index import files_named, free_name
from lib_ti.webui.forms import form_to_settings, memory
from lib_ti.webui.forms.selected_checkpoint import Selected
from lib_ti.webui.forms.speed import FIRST_WORTH, Speed
from lib_ti.webui.hosts.host import Host
from lib_ti.webui.images.drafts import Drafts

log = logging.getLogger("lib_ti")
LONGEST_SHOWN = 40  # tokens of the sequence
UNMEASURED = f"Time appears after {FIRST_WORTH} steps"


class LiveCheck:
    """Looks at forms for one host."""

    def __init__(
        self, host: Host, drafts: Drafts, speed: Speed, named: form_to_settings.EmbeddingLookup, running: Any
    ) -> None:
        """`named`: the file of an embedding by its name; `running`: gives the names that are being trained, or wait for it."""
        self._host, self._drafts, self._speed, self._named, self._running = host, drafts, speed, named, running
        self._selected = Selected(host)
        self._tokenizers: dict[int, Any] = {}

    def checkpoint(self) -> dict[str, Any] | None:
        """The selected checkpoint for the page: title, family, resolution, and why it cannot be trained on, if so."""
        return self._selected.told()

    def resolution(self) -> int:
        """What pictures should have at least."""
        checkpoint = self.checkpoint()
        return int(checkpoint["resolution"]) if checkpoint and checkpoint["resolution"] else 512

    def presets(self) -> dict[str, dict[str, str]]:
        checkpoint = self.checkpoint()
        return form_to_settings.presets_for(checkpoint["learning_rate"] if checkpoint else 0.005)

    def check(self, form: Mapping[str, Any], draft: str) -> dict[str, Any]:
        """Everything the page shows beside the fields."""
        checkpoint, presets = self.checkpoint(), self.presets()
        raw, refused = form_to_settings.raw_settings(form, self._host, self._drafts.folder(draft), self._named)
        settings, found = parse(raw)
        unfit, start = self._selected.start(settings, self._tokens)
        found += [unfit] if unfit else []
        problems = [
            form_to_settings.in_form_words(p) for p in (*refused, *found) if p.option not in ("images", "model")
        ]
        pictures = len(self._drafts.images(draft))
        return {
            "checkpoint": checkpoint,
            "name": self._name(str(raw["name"])),
            "problems": [{"option": p.option, "message": p.message} for p in problems if p.option != "name"],
            "estimate": self._estimate(settings, pictures, bool(form.get("keep_generating"))),
            "presets": {name: self._cost(settings, values, pictures) for name, values in presets.items()},
            "preset_values": presets,
            "auto": self._selected.auto(settings),
            "start": start,
            "preset": form_to_settings.preset_of(form, presets),
            "sequence": self._sequence(settings),
        }

    def name_problems(self, name: str) -> list[Problem]:
        """Why this word cannot be trained now, beside what its file's place says."""
        if name.casefold() in self._running():
            return [Problem("name", "this word is being trained already; wait for it, or choose another name")]
        return []

    def _name(self, name: str) -> dict[str, Any]:
        def state(kind: str, message: str, suggestion: str = "") -> dict[str, Any]:
            return {"state": kind, "message": message, "suggestion": suggestion, "tokens": len(tokens)}

        tokens = self._tokens(name)
        if not name.strip():
            return state("empty", "")
        if problem := names.name_problem(name):
            return state("bad", problem)
        if self.name_problems(name):
            return state("running", "Being trained right now", free_name(f"{name}-2", self._host.embeddings_dir))
        if files_named(name, self._host.embeddings_dir):
            suggestion = free_name(name, self._host.embeddings_dir)
            return state("taken", f"Already exists: replace, or save as {suggestion}", suggestion)
        if len(tokens) == 1:
            return state("word", f"'{name}' is already an English word; try my-{name}", f"my-{name}")
        return state("free", "Free to use")

    def _tokens(self, text: str) -> list[int]:
        tokenizer = self._tokenizer()
        return tokenizer.token_ids(text) if tokenizer else []

    def _tokenizer(self, length: int = 77) -> Any:
        """None where this process cannot read it; the training's own process will say why."""
        if length not in self._tokenizers:
            try:
                from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer

                self._tokenizers[length] = PromptTokenizer(length)
                self._tokenizers[length].token_ids("a")
            except Exception:
                log.exception("the tokenizer does not work in this process")
                self._tokenizers[length] = None
        return self._tokenizers[length]

    def _estimate(self, settings: TrainSettings, pictures: int, sharing: bool = False) -> dict[str, Any]:
        checkpoint = self.checkpoint()
        passes = settings.steps * settings.effective_batch_size / pictures if pictures else 0.0
        shown: dict[str, Any] = {
            "text": UNMEASURED, "seconds": None, "preview_s": None, "memory_mb": None, "total_mb": None, "memory_mode": None,
            "measured": False, "memory_kind": "VRAM" if self._host.device().startswith("cuda") else "RAM", "passes": passes,
        }  # fmt: skip
        if not checkpoint or not checkpoint["family"]:
            return shown
        device, resolution = self._host.device(), settings.resolution or checkpoint["resolution"]
        room = memory.needed(settings, checkpoint, resolution, device, sharing)
        estimate = self._speed.estimate(settings, checkpoint["family"], resolution, device, room.mode)
        if estimate and estimate.memory_mb:
            room = room.measured(estimate.memory_mb)
        parts = [UNMEASURED]
        if estimate:
            previews = f", {duration(estimate.preview_s)} of it for previews" if estimate.preview_s >= 30 else ""
            parts = [f"About {duration(estimate.seconds)}{previews}"]
            shown |= {"seconds": estimate.seconds, "preview_s": estimate.preview_s}
        return {**shown, **room.shown(), "text": " · ".join([*parts, *room.words()])}

    def _cost(self, settings: TrainSettings, values: Mapping[str, str], pictures: int) -> str:
        """What a preset takes, in words."""
        numbers = {k: int(v) for k, v in values.items() if k != "learning_rate"}
        estimate = self._estimate(dataclasses.replace(settings, **numbers), pictures)  # type: ignore[arg-type]
        told = [f"{values['steps']} steps"]
        if estimate["seconds"] is not None:
            told.append(f"about {duration(estimate['seconds'])}")
        if estimate["passes"]:
            passes = estimate["passes"]
            told.append(f"{passes:.0f} passes over the pictures" if passes >= 1.5 else "one pass over the pictures")
        return ", ".join(told)

    def _sequence(self, settings: TrainSettings) -> list[dict[str, Any]]:
        """The tokens of the first prompt that the word is trained in, its own ones marked."""
        from lib_ti.data.captions import default_templates

        tokenizer = self._tokenizer()
        if tokenizer is None or not self._tokens(settings.name):
            return []
        before, _, behind = (
            default_templates(settings.kind, captions=False)[0].replace(CAPTION_SLOT, "").partition(NAME_SLOT)
        )
        shown = [{"text": tokenizer.decode(t), "ours": False} for t in tokenizer.token_ids(before)]
        shown += [
            {"text": f"{settings.name} {i + 1}/{settings.vectors}", "ours": True} for i in range(settings.vectors)
        ]
        shown += [{"text": tokenizer.decode(t), "ours": False} for t in tokenizer.token_ids(behind)]
        return shown[:LONGEST_SHOWN]


def duration(seconds: float) -> str:
    """As people say it: 40 s, 6 min, 1 h 20 min."""
    if seconds < 55:
        return f"{max(5, round(seconds / 5) * 5)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
