"""The prompts that the images of a draft will be trained with, before a training: captions, dropout and templates applied."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib_ti.data.captions import Captioner, plain_caption
from lib_ti.randomness import derive_seed
from lib_ti.settings.train_settings import TrainSettings

MAX_SHOWN_TOKENS = 80


@dataclass(frozen=True)
class TrainingPrompt:
    """A prompt as text, and its tokens as the model reads them: {"text", "ours": whether it is one of the vectors}."""

    text: str
    tokens: list[dict[str, Any]]


def training_prompts(settings: TrainSettings, captions: Mapping[str, str]) -> tuple[dict[str, TrainingPrompt], int]:
    """For each image by its id one of its prompts, and how many templates there are to draw from.

    `captions`: by image, "" where there is none. Empty where the settings give no prompt, for want of a name or of templates.
    """
    from lib_ti.model.prompt.placeholder import NO_VECTOR, Placeholder
    from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer
    from lib_ti.model.prompt.tokenizer import BOS, EOS
    from lib_ti.training.preflight.findings import Findings
    from lib_ti.training.preflight.preflight import DEFAULT_PROMPT_LENGTH
    from lib_ti.training.preflight.prompts import check_prompts

    s = settings
    captions = {image_id: plain_caption(caption, s.name).text for image_id, caption in captions.items()}
    tokenizer, placeholder = PromptTokenizer(DEFAULT_PROMPT_LENGTH), Placeholder(s.name, 0, s.vectors)
    templates = check_prompts(s, [*captions.values()], DEFAULT_PROMPT_LENGTH, Findings([])) if s.name.strip() else ()
    if not templates:
        return {}, 0
    captioner = Captioner(s.name, templates, s.shuffle_tags, s.tag_dropout, s.caption_dropout)

    def prompt_of(position: int, caption: str) -> TrainingPrompt:
        rng = random.Random(derive_seed(s.seed, "sample", position, 0))
        text = captioner.prompt(caption, bool(caption) and tokenizer.mentions(caption, placeholder), rng)
        if not tokenizer.encode(text, [placeholder]).contains(placeholder):
            text = f"{s.name}, {text}"
        prompt = tokenizer.encode(text, [placeholder], required=placeholder)
        tokens = []
        for token_id, row in zip(prompt.input_ids, prompt.vector_rows, strict=True):
            if row != NO_VECTOR:
                tokens.append({"text": f"{s.name} {row + 1}/{s.vectors}", "ours": True})
            elif token_id not in (BOS, EOS):
                tokens.append({"text": tokenizer.decode(token_id), "ours": False})
        return TrainingPrompt(text, tokens[:MAX_SHOWN_TOKENS])

    prompts = {image_id: prompt_of(i, caption) for i, (image_id, caption) in enumerate(captions.items())}
    return prompts, len(templates)
