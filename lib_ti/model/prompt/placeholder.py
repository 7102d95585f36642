"""Placeholders for learned vectors in tokenized prompts.

Nothing is added to the vocabulary. A placeholder is found by the tokens of its name, the longest name first, as the WebUIs
find embeddings; it takes up one position per vector. The text encoder puts the vectors there (`text_encoder.TextEncoder`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lib_ti.model.prompt.tokenizer import CLIP_TOKENIZER, Tokenizer

NO_VECTOR = -1  # the vector row of an ordinary token


@dataclass(frozen=True)
class Placeholder:
    """A learned token: its name, and `num_vectors` rows of the table of learned vectors, from `first_row` on."""

    name: str
    first_row: int
    num_vectors: int

    @property
    def rows(self) -> range:
        return range(self.first_row, self.first_row + self.num_vectors)


@dataclass(frozen=True)
class TokenizedPrompt:
    """`vector_rows`: for each of the `input_ids` the row of a learned vector that replaces its own, or `NO_VECTOR`."""

    input_ids: tuple[int, ...]
    vector_rows: tuple[int, ...]

    def contains(self, placeholder: Placeholder) -> bool:
        """Whether the last vector of a placeholder is in the prompt, and with it all of them."""
        return placeholder.first_row + placeholder.num_vectors - 1 in self.vector_rows


class PlaceholderMatcher:
    """Finds placeholders among token ids, by the tokens of their names."""

    def __init__(self, placeholders: Iterable[Placeholder], tokenizer: Tokenizer = CLIP_TOKENIZER) -> None:
        """Of two placeholders with one name the last counts; a name without tokens matches nothing."""
        by_name: dict[str, Placeholder] = {}
        for placeholder in placeholders:
            by_name.pop(placeholder.name, None)  # so that the last one also comes last
            by_name[placeholder.name] = placeholder
        tokenized = ((tokenizer.encode(name), placeholder) for name, placeholder in by_name.items())
        self._longest_first = sorted((pair for pair in tokenized if pair[0]), key=lambda pair: -len(pair[0]))

    def match_at(self, token_ids: Sequence[int], position: int) -> tuple[Placeholder, int] | None:
        """The placeholder whose name begins at a position, and the number of tokens in that name; the longest match."""
        for name, placeholder in self._longest_first:
            if token_ids[position : position + len(name)] == name:
                return placeholder, len(name)
        return None
