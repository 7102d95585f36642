"""The embedding that a training starts from."""

from __future__ import annotations

from lib_ti.embedding.compatibility import check_init_embedding
from lib_ti.embedding.read import SECOND_FILE_NOTE, read_for_encoders
from lib_ti.embedding.value import Embedding
from lib_ti.errors import UnusableFile
from lib_ti.model.checkpoint.checkpoint import Checkpoint
from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.preflight.findings import Findings


def read_initial_embedding(
    settings: TrainSettings, checkpoint: Checkpoint | None, findings: Findings
) -> Embedding | None:
    """Read the initial embedding, if the settings name one, and check it against the checkpoint, if that is known."""
    path = settings.init_embedding
    if path is None or findings.has_problem("init_embedding"):
        return None
    try:
        embedding, second_file = read_for_encoders(path, len(checkpoint.widths_by_encoder) if checkpoint else 1)
    except UnusableFile as error:
        findings.add_problem("init_embedding", error)
        return None
    has_init_text = findings.has_problem("init_text") or bool(PromptTokenizer().token_ids(settings.init_text))
    problem, warnings = check_init_embedding(embedding, settings, checkpoint, has_init_text)
    findings.problems += [problem] if problem else []
    findings.warnings += warnings
    if second_file:
        findings.warn(f"{path.name} is taken together with {second_file.name}, {SECOND_FILE_NOTE}")
    if embedding.has_zero_vectors:
        findings.warn(f"{embedding.name!r} has vectors of nothing but zeros, which no training leaves")
    return embedding
