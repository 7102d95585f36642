"""The user's own training prompts: typed into the form, or a file that the form names."""

from __future__ import annotations

import os
from pathlib import Path

from lib_ti import files
from lib_ti.runs.folder import RunFolder
from lib_ti.settings.train_settings import NAME_SLOT

_FILE_NAME = "prompts.txt"


def prompts_file(text: str, draft: Path) -> str:
    """The path of a file with the prompts: what `text` names, or one in the draft's folder that `text` is written to."""
    are_prompts = "\n" in text or NAME_SLOT in text
    if not are_prompts or os.path.isfile(text):  # noqa: PTH113 - Path's own raises for names that are too long
        return text
    draft.mkdir(parents=True, exist_ok=True)
    files.atomic_write_bytes(draft / _FILE_NAME, text.encode("utf-8", "replace"))
    return str(draft / _FILE_NAME)


def prompts_text(folder: RunFolder) -> str:
    """What the form shows of a run's own prompts: the prompts if they were typed into it, else their file's path."""
    path = folder.settings.template_file
    if path is None:
        return ""
    was_typed = path.name == _FILE_NAME and path.parent.parent.name == ".drafts"
    return folder.templates.read_text(encoding="utf-8") if was_typed and folder.templates.exists() else str(path)
