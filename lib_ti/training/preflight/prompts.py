"""The training prompts: whether the name, the templates and the captions make prompts that contain the placeholder."""

from __future__ import annotations

from collections.abc import Sequence

from lib_ti.data.captions import default_templates, load_templates
from lib_ti.errors import UnusableFile
from lib_ti.formats.text_file import read_text
from lib_ti.model.prompt.placeholder import Placeholder
from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer
from lib_ti.settings.train_settings import CAPTION_SLOT, NAME_SLOT, TrainSettings
from lib_ti.training.preflight.findings import Findings


def check_prompts(
    settings: TrainSettings, captions: Sequence[str], prompt_length: int, findings: Findings
) -> Sequence[str]:
    """The templates that leave room for the vectors; the others, an unusable name and unsuitable captions are findings.

    `prompt_length`: tokens of a prompt, start and end included.
    """
    s = settings
    if findings.has_problem("template_file"):
        return ()
    try:
        templates = load_templates(s.template_file) if s.template_file else default_templates(s.kind, any(captions))
        if s.template_file and read_text(s.template_file).guessed:
            findings.warn(f"{s.template_file.name} is in no encoding that can be told, and was read as Latin-1")
    except UnusableFile as error:
        findings.add_problem("template_file", error)
        return ()
    if findings.has_problem("name"):
        return ()
    tokenizer = PromptTokenizer(prompt_length)
    name_ids = tokenizer.token_ids(s.name)
    if not name_ids:
        findings.add_problem("name", "the name has no letters or digits that a prompt could hold")
        return ()
    if len(name_ids) == 1:
        findings.warn(
            f"{s.name!r} is an ordinary word of the vocabulary: wherever prompts use it, they will mean the embedding"
        )
    needs_init_text = not (s.init_random or s.init_embedding or findings.has_problem("init_text", "init_embedding"))
    if needs_init_text and not tokenizer.token_ids(s.init_text):
        findings.add_problem("init_text", f"{s.init_text!r} holds no word")
    if s.kind == "negative" and any(NAME_SLOT in prompt for prompt in s.preview_prompt):
        findings.warn(
            f"a word to avoid goes into the previews' negative prompt, so {NAME_SLOT} is left out of the prompt"
        )
    usable = _fitting_templates(templates, s.vectors, tokenizer, findings)
    _check_mentions(tokenizer, Placeholder(s.name, 0, s.vectors), usable, captions, findings)
    return usable


def _fitting_templates(
    templates: Sequence[str], num_vectors: int, tokenizer: PromptTokenizer, findings: Findings
) -> list[str]:
    """The templates that leave room for so many vectors."""
    lengths = {t: len(tokenizer.token_ids(t.replace(NAME_SLOT, " ").replace(CAPTION_SLOT, " "))) for t in templates}
    fitting = [t for t in templates if lengths[t] + num_vectors <= tokenizer.max_tokens]
    if not fitting:
        room = tokenizer.max_tokens - min(lengths.values())
        reason = f"{num_vectors} vectors do not fit; the shortest template leaves room for {room}"
        findings.add_problem("vectors", reason)
    elif len(fitting) < len(templates):
        skipped = len(templates) - len(fitting)
        findings.warn(f"{skipped} templates leave no room for {num_vectors} vectors and are not used")
    return fitting


def _check_mentions(
    tokenizer: PromptTokenizer,
    placeholder: Placeholder,
    templates: Sequence[str],
    captions: Sequence[str],
    findings: Findings,
) -> None:
    """Warn of prompts without the placeholder. They would have no gradient, so it is put in front of them."""
    mentions = [tokenizer.mentions(caption, placeholder) for caption in captions if caption]
    every_caption_mentions_it = bool(captions) and len(mentions) == len(captions) and all(mentions)
    if any(NAME_SLOT not in t for t in templates) and not every_caption_mentions_it:
        findings.warn(f"some templates lack {NAME_SLOT}; the word is put in front of them")
    if mentions and not all(mentions):
        count = mentions.count(False)
        findings.warn(f"{count} captions do not mention {placeholder.name!r}; a template adds it to them")
    room = tokenizer.max_tokens - placeholder.num_vectors
    if any(len(tokenizer.token_ids(caption)) > room for caption in captions):
        findings.warn("some captions are longer than a prompt; their ends are cut off")
