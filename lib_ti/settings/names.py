"""What an embedding may be called. Its name is a file's stem, a word in prompts and a folder of runs at once."""

from __future__ import annotations

import re
import unicodedata

FORBIDDEN = '/\\:<>|()[]{},#"*?'
"""Characters that file systems or the WebUIs' prompt syntax take for themselves."""

LONGEST = 100  # bytes: with a folder, a date and a suffix it must stay below 255

_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    "conin$",
    "conout$",
    *(f"{d}{n}" for d in ("com", "lpt") for n in "0123456789¹²³"),
}
_KEYWORDS = re.compile(r"\b(AND|BREAK)\b")
FILE_SUFFIXES = (".safetensors", ".pt", ".bin")
"""Of embedding files, pictures that hold one left aside."""

_SUFFIXES = (*FILE_SUFFIXES, ".png", ".webp")


def problem_with(name: str) -> str | None:
    """A sentence that says why `name` cannot be used, or None if it can.

    >>> problem_with("my-mug")
    >>> problem_with("a/b")
    "the name cannot contain '/'"
    """
    if not name.strip():
        return "the name is empty; choose a word such as my-mug"
    if bad := sorted({c for c in name if c in FORBIDDEN}):
        return f"the name cannot contain {' '.join(map(repr, bad))}"
    if any(unicodedata.category(c)[0] == "C" or (c.isspace() and c != " ") for c in name):
        return "the name contains a control character or an invisible one"
    if name.startswith((".", " ")) or name.endswith((".", " ")):
        return "the name cannot start or end with a dot or a space"
    if name.split(".")[0].rstrip().casefold() in _DEVICES:
        return f"{name} is the name of a device on Windows; choose another name"
    if name == "__metadata__":  # what safetensors files call their own notes
        return "this name is taken by the file format; choose another name"
    if keyword := _KEYWORDS.search(name):
        return f"{keyword[0]} is a keyword in prompts; choose another name"
    if name.casefold().endswith(_SUFFIXES):
        return "give the name without a file extension"
    if len(name.encode()) > LONGEST:
        return f"the name is longer than {LONGEST} bytes"
    return None
