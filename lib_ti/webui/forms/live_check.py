"""Checks the form while it is filled in: quickly, in the host's process, without loading a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from lib_ti.errors import Problem
from lib_ti.settings import names
from lib_ti.settings.parsing import parse
from lib_ti.settings.person import person_word
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.webui.embedding_index import files_named, free_name
from lib_ti.webui.forms import form_to_settings
from lib_ti.webui.forms.cost import CostEstimator
from lib_ti.webui.forms.selected_checkpoint import SelectedCheckpoint
from lib_ti.webui.hosts.host import Host
from lib_ti.webui.images.drafts import Drafts
from lib_ti.webui.images.training_prompts import TrainingPrompt, training_prompts

log = logging.getLogger("lib_ti")

NO_IMAGES = "add pictures first; four are enough to start"
NO_CHECKPOINT = "choose a checkpoint at the top of the page"
NAME_IN_TRAINING = "this word is in training; wait for it, or choose another name"
NAME_TAKEN = "this word exists already; choose another name, or replace it"


class LiveCheck:
    """Checks the forms of one host."""

    def __init__(
        self,
        host: Host,
        drafts: Drafts,
        costs: CostEstimator,
        find_embedding: form_to_settings.EmbeddingLookup,
        training_names: Callable[[], Collection[str]],
    ) -> None:
        """`training_names`: the case-folded names that are being trained or are in the queue."""
        self._host, self._drafts, self._costs = host, drafts, costs
        self._find_embedding, self._training_names = find_embedding, training_names
        self._selected = SelectedCheckpoint(host)
        self._tokenizers: dict[int, Any] = {}

    def checkpoint(self) -> dict[str, Any] | None:
        """The selected checkpoint for the page, see `SelectedCheckpoint.summary`."""
        return self._selected.summary()

    def resolution(self) -> int:
        """The resolution of the selected checkpoint; images should have at least as many pixels each side."""
        checkpoint = self.checkpoint()
        return int(checkpoint["resolution"]) if checkpoint and checkpoint["resolution"] else 512

    def check(self, form: Mapping[str, Any], draft: str) -> dict[str, Any]:
        """Everything the page shows beside the fields, as JSON."""
        checkpoint, presets = self.checkpoint(), form_to_settings.PRESETS
        folder = self._drafts.folder(draft)
        raw, problems = form_to_settings.raw_settings(form, self._host, folder, self._find_embedding)
        settings, option_problems = parse(raw)
        problems += option_problems
        init_problem, init_remark = self._selected.check_initial_embedding(settings, self._token_ids)
        problems += [init_problem] if init_problem else []
        shown_problems = [
            form_to_settings.problem_with_labels(p) for p in problems if p.option not in ("images", "model", "name")
        ]
        image_count = len(self._drafts.images(draft))
        name = self._check_name(str(raw["name"]))
        missing = [*self._missing(name, bool(raw.get("overwrite")), image_count, checkpoint), *shown_problems]
        return {
            "checkpoint": checkpoint,
            "name": name,
            "problems": [{"option": p.option, "message": p.message} for p in shown_problems],
            "missing": [{"option": p.option, "message": p.message} for p in missing],
            "estimate": self._costs.cost(settings, checkpoint, image_count, bool(form.get("keep_generating"))),
            "presets": {
                name: self._costs.preset_note(settings, checkpoint, values, image_count)
                for name, values in presets.items()
            },
            "preset_values": presets,
            "auto": self._selected.auto_texts(settings),
            "clip_skip": self._selected.clip_skip_offer(settings),
            "start": init_remark,
            "person": person_word(settings),
            "preset": form_to_settings.preset_of(form, presets),
            "sequence": self._prompt_tokens(settings, draft),
        }

    @staticmethod
    def _missing(
        name: Mapping[str, Any], overwrite: bool, image_count: int, checkpoint: Mapping[str, Any] | None
    ) -> list[Problem]:
        """What stands in the way of a training beside the options' own problems, so that Train can say it at once."""
        problems = []
        if not image_count:
            problems.append(Problem("images", NO_IMAGES))
        if name["state"] == "running":
            problems.append(Problem("name", NAME_IN_TRAINING))
        elif name["state"] == "taken" and not overwrite:
            problems.append(Problem("name", NAME_TAKEN))
        elif name["state"] in ("empty", "bad"):
            problems.append(Problem("name", name["message"]))
        if checkpoint is None:
            problems.append(Problem("model", NO_CHECKPOINT))
        elif checkpoint["problem"]:
            problems.append(Problem("model", f"{checkpoint['title']}: {checkpoint['problem']}"))
        return problems

    def name_problems(self, name: str) -> list[Problem]:
        """Why this name cannot be trained now, apart from files that exist."""
        if name.casefold() in self._training_names():
            return [Problem("name", NAME_IN_TRAINING)]
        return []

    def _check_name(self, name: str) -> dict[str, Any]:
        def reply(state: str, message: str, suggestion: str = "") -> dict[str, Any]:
            return {"state": state, "message": message, "suggestion": suggestion, "tokens": len(token_ids)}

        token_ids = self._token_ids(name)
        if not name.strip():
            return reply("empty", names.name_problem("") or "")
        if problem := names.name_problem(name):
            return reply("bad", problem)
        if self.name_problems(name):
            return reply("running", "This word is in training", free_name(f"{name}-2", self._host.embeddings_dir))
        if files_named(name, self._host.embeddings_dir):
            suggestion = free_name(name, self._host.embeddings_dir)
            return reply("taken", f"This word exists. Replace it, or use {suggestion}", suggestion)
        if len(token_ids) == 1:
            return reply("word", f"“{name}” is already an English word", f"my-{name}")
        return reply("free", "Free to use")

    def _token_ids(self, text: str) -> list[int]:
        tokenizer = self._tokenizer()
        return tokenizer.token_ids(text) if tokenizer else []

    def _tokenizer(self, length: int = 77) -> Any:
        """The tokenizer; None if this process cannot load it. The training process will say why."""
        if length not in self._tokenizers:
            try:
                from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer

                self._tokenizers[length] = PromptTokenizer(length)
                self._tokenizers[length].token_ids("a")
            except Exception:
                log.exception("the tokenizer cannot be loaded in this process")
                self._tokenizers[length] = None
        return self._tokenizers[length]

    def training_prompts(self, form: Mapping[str, Any], draft: str) -> tuple[dict[str, TrainingPrompt], int]:
        """For each image of the draft one of its training prompts, and how many templates there are."""
        folder = self._drafts.folder(draft)
        raw, _ = form_to_settings.raw_settings(form, self._host, folder, self._find_embedding)
        settings, problems = parse(raw)
        if self._tokenizer() is None or any(p.option in ("name", "vectors", "captions") for p in problems):
            return {}, 0
        return training_prompts(settings, self._drafts.captions(draft, settings.captions))

    def _prompt_tokens(self, settings: TrainSettings, draft: str) -> list[dict[str, Any]]:
        """The tokens of a training prompt of the first picture, or of one without a caption; the placeholder's are marked."""
        if self._tokenizer() is None:
            return []
        captions = self._drafts.captions(draft, settings.captions) or {"": ""}
        first = next(iter(captions))
        captioned = next((caption for caption in captions.values() if caption), "")
        # templates depend on whether any picture has a caption
        prompts, _ = training_prompts(settings, {first: captions[first], **({" ": captioned} if captioned else {})})
        return prompts[first].tokens if prompts else []
