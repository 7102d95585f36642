"""CLIP's tokens: text to their numbers and back.

Byte-pair encoding (Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016) of UTF-8, from the
files that ship with the package. CLIP's two implementations share its vocabulary, but not how a text is cleaned beforehand.
"""

from __future__ import annotations

import html
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import ftfy
import regex

FOLDER = Path(__file__).parent / "clip_vocab"
START, END = 49406, 49407  # the tokens around a prompt; the last words of CLIP's vocabulary
_LAST = "</w>"  # at the end of a word's last part


@dataclass(frozen=True)
class Dialect:
    """How an implementation reads text.

    `start`, `end`: what stands for those tokens where a text spells them out. `unescapes`: HTML's entities are resolved
    whatever stands around them, twice.
    """

    start: str
    end: str
    unescapes: bool = False

    def parts(self, text: str) -> list[str]:
        """What is cleaned by itself: for OpenAI's CLIP as transformers has it, all between those tokens."""
        return [text] if self.unescapes else regex.split(f"({regex.escape(self.start)}|{regex.escape(self.end)})", text)

    def clean(self, text: str) -> str:
        """Without mojibake, typographic quotes and ligatures, in lower case, one space for each gap."""
        fixed = ftfy.fix_text(text)
        if self.unescapes:
            fixed = html.unescape(html.unescape(fixed))
        return " ".join(fixed.split()).lower()

    @property
    def words(self) -> regex.Pattern[str]:
        """A word as it is encoded: letters, one digit, or what is neither; an English ending is one of its own."""
        special = f"{regex.escape(self.start)}|{regex.escape(self.end)}"
        ending = "'s|'t|'re|'ve|'m|'ll|'d"
        return regex.compile(rf"{special}|{ending}|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE)


CLIP = Dialect("<|startoftext|>", "<|endoftext|>")
OPENCLIP = Dialect("<start_of_text>", "<end_of_text>", unescapes=True)


class Tokenizer:
    """CLIP's vocabulary, and the order in which parts of words are joined. It takes a moment to read: see `tokenizer`."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._numbers: dict[str, int] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        self._words = {number: word for word, number in self._numbers.items()}
        merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        self._ranks = {tuple(line.split()): rank for rank, line in enumerate(merges) if len(line.split()) == 2}
        self._letters = dict(_letters())
        self._bytes = {letter: byte for byte, letter in self._letters.items()}
        self._patterns = {dialect: dialect.words for dialect in (CLIP, OPENCLIP)}
        self._numbers_of = lru_cache(maxsize=1 << 15)(self._join)

    def encode(self, text: str, dialect: Dialect = CLIP) -> list[int]:
        """The numbers of a text's tokens. Start and end are among them only where the text spells them out."""
        special = {dialect.start: START, dialect.end: END}
        return [
            number
            for part in dialect.parts(text)
            for word in self._patterns[dialect].findall(dialect.clean(part))
            for number in ([special[word]] if word in special else self._numbers_of(word))
        ]

    def text(self, token: int) -> str:
        """A token as people would write it; a word's part keeps a hyphen where it goes on."""
        word = self._words[token]
        raw = bytes(self._bytes[letter] for letter in word.removesuffix(_LAST))
        return raw.decode(errors="replace") + ("" if word.endswith(_LAST) else "-")

    def _join(self, word: str) -> list[int]:
        """The tokens of one word: neighbours are joined, those first that come first in the list of merges."""
        *front, last = (self._letters[byte] for byte in word.encode(errors="replace"))
        parts = [*front, last + _LAST]
        while len(parts) > 1:
            pairs = itertools.pairwise(parts)
            rank, pair = min((self._ranks.get(pair, len(self._ranks)), pair) for pair in pairs)
            if rank == len(self._ranks):
                break
            parts = list(_joined(parts, pair))
        return [self._numbers[part] for part in parts]


@lru_cache(maxsize=1)
def tokenizer() -> Tokenizer:
    """The one that all share."""
    return Tokenizer()


def _joined(parts: list[str], pair: tuple[str, str]) -> Iterator[str]:
    """The parts with each occurrence of a pair made one, from left to right."""
    at = 0
    while at < len(parts):
        found = (parts[at], parts[at + 1] if at + 1 < len(parts) else "") == pair
        yield parts[at] + parts[at + 1] if found else parts[at]
        at += 1 + found


def _letters() -> Iterator[tuple[int, str]]:
    """For each byte the letter that stands for it in the vocabulary: its own in Latin-1 where that can be seen."""
    hidden = 256
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174:
            yield byte, chr(byte)
        else:
            yield byte, chr(hidden)
            hidden += 1
