"""The words that a search for a good start tries: common ones, each a single token of CLIP's vocabulary; see words.txt."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_WORDS = Path(__file__).with_name("words.txt")


@cache
def _sections() -> dict[str, tuple[list[str], list[str]]]:
    """By kind of embedding: the common words, and more of them."""
    lines = [line for line in _WORDS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    sections = {}
    for section in "\n".join(lines).split("[")[1:]:
        kind, _, words = section.partition("]")
        common, _, more = words.partition("---")
        sections[kind] = common.split(), more.split()
    return sections


def common_words(kind: str) -> list[str]:
    """What "auto" chooses from before a training of that kind of embedding."""
    return _sections()[kind][0]


def many_words(kind: str) -> list[str]:
    """What a search tries that the user asks for."""
    common, more = _sections()[kind]
    return common + more


def user_phrases(text: str) -> list[str]:
    """The phrases of a comma-separated text; none of "auto"."""
    return [phrase.strip() for phrase in text.split(",") if phrase.strip() and phrase.strip().casefold() != "auto"]
