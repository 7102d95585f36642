"""Prompts as rows of tokens, some of which stand for learned vectors.

Nothing is added to the vocabulary. A word is found where its own tokens stand in the prompt, the longest first, as the
WebUIs find it; there as many places are left as it has vectors. Its text features take the vectors there
(`text.PromptEncoder`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

PLAIN = -1  # the row of a token that is no learned vector
END = 49407  # the token that ends a prompt; the last word of CLIP's vocabulary


@dataclass(frozen=True)
class Word:
    """A learned word: its name, and the rows of the table of vectors that it takes up."""

    name: str
    first: int
    count: int


@dataclass(frozen=True)
class Prompt:
    """One encoded prompt. `ids`: token numbers; `rows`: for each the row of a learned vector, or `PLAIN`."""

    ids: tuple[int, ...]
    rows: tuple[int, ...]
    truncated: bool = False

    @property
    def empty(self) -> bool:
        """Whether it says nothing: its end follows its start."""
        return len(self.ids) < 2 or self.ids[1] == END

    def holds(self, word: Word) -> bool:
        return word.first + word.count - 1 in self.rows


class Vocabulary:
    """CLIP's tokenizer, from the files that ship with the package."""

    folder = Path(__file__).parent / "tokenizer"

    def __init__(self, length: int = 77) -> None:
        """`length`: tokens of a prompt, its start and end included."""
        self.length = length

    @cached_property
    def _tokenizer(self) -> Any:
        return CLIPTokenizer.from_pretrained(str(self.folder))

    @property
    def room(self) -> int:
        """Tokens that a prompt's own words may take."""
        return self.length - 2

    def tokens(self, text: str) -> list[int]:
        """The numbers of a text's tokens, without start and end; where a text spells those out they are left out too."""
        tokenizer = self._tokenizer
        ids: list[int] = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
        return [i for i in ids if i not in (tokenizer.bos_token_id, tokenizer.eos_token_id)]

    def text(self, token: int) -> str:
        """A token as people would write it; a word's part keeps a hyphen where it goes on."""
        word: str = self._tokenizer.convert_ids_to_tokens(token)
        readable: str = self._tokenizer.convert_tokens_to_string([word])
        return readable.strip() if word.endswith("</w>") else readable + "-"

    def encode(self, text: str, words: Sequence[Word] = (), must_hold: Word | None = None) -> Prompt:
        """The prompt for `text`, cut to the room there is.

        `must_hold` is put in front if the text does not mention it within that room.
        """
        prompt = self._assemble(self._with_places(self.tokens(text), words))
        if must_hold is None or prompt.holds(must_hold):
            return prompt
        return self._assemble(_places(must_hold) + self._with_places(self.tokens(f", {text}"), words))

    def mentions(self, text: str, word: Word) -> bool:
        return bool(word.count) and any(row != PLAIN for _, row in self._with_places(self.tokens(text), [word]))

    def _with_places(self, ids: list[int], words: Sequence[Word]) -> list[tuple[int, int]]:
        """(token, row) pairs, each mention of a word exchanged for its places."""
        names = sorted(((self.tokens(word.name), word) for word in words), key=lambda pair: -len(pair[0]))
        result: list[tuple[int, int]] = []
        at = 0
        while at < len(ids):
            for name, word in names:
                if name and ids[at : at + len(name)] == name:
                    result += _places(word)
                    at += len(name)
                    break
            else:
                result.append((ids[at], PLAIN))
                at += 1
        return result

    def _assemble(self, places: list[tuple[int, int]]) -> Prompt:
        tokenizer = self._tokenizer
        kept = places[: self.room]
        end = (tokenizer.eos_token_id, PLAIN)
        whole = [(tokenizer.bos_token_id, PLAIN), *kept, *[end] * (self.length - 1 - len(kept))]
        ids, rows = zip(*whole, strict=True)
        return Prompt(ids, rows, truncated=len(places) > self.room)


def _places(word: Word) -> list[tuple[int, int]]:
    return [(0, row) for row in range(word.first, word.first + word.count)]
