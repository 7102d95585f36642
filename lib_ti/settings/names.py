"""Validate the name of an embedding, which is a file name, a token in prompts and a folder name at once, on every system."""

from __future__ import annotations

import re
import unicodedata

FORBIDDEN_CHARACTERS = '/\\:<>|()[]{},#"*?'
"""Characters that file systems or the WebUIs' prompt syntax reserve."""

MAX_BYTES = 100
"""With a folder, a date and a suffix, a path component must stay below 255 bytes."""

EMBEDDING_SUFFIXES = (".safetensors", ".pt", ".bin")
"""Of embedding files; images with an embedding inside are not among them."""

_WINDOWS_DEVICES = {
    "con", "prn", "aux", "nul", "conin$", "conout$",
    *(f"{device}{digit}" for device in ("com", "lpt") for digit in "0123456789¹²³"),
}  # fmt: skip
_PROMPT_KEYWORDS = re.compile(r"\b(AND|BREAK)\b")
_FORBIDDEN_SUFFIXES = (*EMBEDDING_SUFFIXES, ".png", ".webp")


def name_problem(name: str) -> str | None:
    """Why `name` cannot be used, as a sentence for the user; None if it can.

    >>> name_problem("my-mug")
    >>> name_problem("a/b")
    "the name cannot contain '/'"
    """
    if not name.strip():
        return "the name is empty; choose a word such as my-mug"
    if characters := sorted({c for c in name if c in FORBIDDEN_CHARACTERS}):
        return f"the name cannot contain {' '.join(map(repr, characters))}"
    if any(unicodedata.category(c)[0] == "C" or (c.isspace() and c != " ") for c in name):
        return "the name contains a control character or an invisible one"
    if name.startswith((".", " ")) or name.endswith((".", " ")):
        return "the name cannot start or end with a dot or a space"
    if name.split(".")[0].rstrip().casefold() in _WINDOWS_DEVICES:
        return f"{name} is the name of a device on Windows; choose another name"
    if name == "__metadata__":  # the key of the metadata in a safetensors header
        return "this name is taken by the file format; choose another name"
    if keyword := _PROMPT_KEYWORDS.search(name):
        return f"{keyword[0]} is a keyword in prompts; choose another name"
    if name.casefold().endswith(_FORBIDDEN_SUFFIXES):
        return "give the name without a file extension"
    if len(name.encode()) > MAX_BYTES:
        return f"the name is longer than {MAX_BYTES} bytes"
    return None
