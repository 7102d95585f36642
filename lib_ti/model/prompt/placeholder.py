"""Prompts as rows of tokens, some of which stand for learned vectors.

Nothing is added to the vocabulary. A word is found where its own tokens stand in the prompt, the longest first, as the
WebUIs find it; there as many places are left as it has vectors. Its text features take the vectors there
(`text.PromptEncoder`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lib_ti.model.prompt.tokenizer import CLIP, END, START, Dialect, tokenizer

PLAIN = -1  # the row of a token that is no learned vector


@dataclass(frozen=True)
class Placeholder:
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

    def holds(self, word: Placeholder) -> bool:
        return word.first + word.count - 1 in self.rows


class PlaceholderMatcher:
    """Words, found by the tokens of their names."""

    def __init__(self, words: Iterable[Placeholder], dialect: Dialect = CLIP) -> None:
        """Of two words of one name the latter counts; a name without tokens can call none."""
        latest: dict[str, Placeholder] = {}
        for word in words:
            latest.pop(word.name, None)
            latest[word.name] = word
        named = ((tokenizer().encode(name, dialect), word) for name, word in latest.items())
        self._named = sorted((pair for pair in named if pair[0]), key=lambda pair: -len(pair[0]))

    def at(self, ids: Sequence[int], place: int) -> tuple[Placeholder, int] | None:
        """The word that is named at a place among tokens, and how many of them its name takes up; the longest there is."""
        for name, word in self._named:
            if ids[place : place + len(name)] == name:
                return word, len(name)
        return None


class Vocabulary:
    """Plain prompts of one length, such as those that are learned from: nothing in them is syntax."""

    def __init__(self, length: int = 77) -> None:
        """`length`: tokens of a prompt, its start and end included."""
        self.length = length

    @property
    def room(self) -> int:
        """Tokens that a prompt's own words may take."""
        return self.length - 2

    def tokens(self, text: str) -> list[int]:
        """The numbers of a text's tokens, without start and end; where a text spells those out they are left out too."""
        return [i for i in tokenizer().encode(text) if i not in (START, END)]

    def text(self, token: int) -> str:
        """A token as people would write it; a word's part keeps a hyphen where it goes on."""
        return tokenizer().text(token)

    def encode(self, text: str, words: Sequence[Placeholder] = (), must_hold: Placeholder | None = None) -> Prompt:
        """The prompt for `text`, cut to the room there is.

        `must_hold` is put in front if the text does not mention it within that room.
        """
        prompt = self._assemble(self._with_places(self.tokens(text), words))
        if must_hold is None or prompt.holds(must_hold):
            return prompt
        return self._assemble(_places(must_hold) + self._with_places(self.tokens(f", {text}"), words))

    def mentions(self, text: str, word: Placeholder) -> bool:
        return bool(word.count) and any(row != PLAIN for _, row in self._with_places(self.tokens(text), [word]))

    def _with_places(self, ids: list[int], words: Sequence[Placeholder]) -> list[tuple[int, int]]:
        """(token, row) pairs, each mention of a word exchanged for its places."""
        named = PlaceholderMatcher(words)
        result: list[tuple[int, int]] = []
        at = 0
        while at < len(ids):
            if found := named.at(ids, at):
                word, length = found
                result += _places(word)
                at += length
            else:
                result.append((ids[at], PLAIN))
                at += 1
        return result

    def _assemble(self, places: list[tuple[int, int]]) -> Prompt:
        kept = places[: self.room]
        whole = [(START, PLAIN), *kept, *[(END, PLAIN)] * (self.length - 1 - len(kept))]
        ids, rows = zip(*whole, strict=True)
        return Prompt(ids, rows, truncated=len(places) > self.room)


def _places(word: Placeholder) -> list[tuple[int, int]]:
    return [(0, row) for row in range(word.first, word.first + word.count)]
