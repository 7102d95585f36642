"""Plain prompts of a fixed length, as the training uses them: without weights, prompt editing or further chunks."""

from __future__ import annotations

from collections.abc import Sequence

from lib_ti.model.prompt.placeholder import NO_VECTOR, Placeholder, PlaceholderMatcher, TokenizedPrompt
from lib_ti.model.prompt.tokenizer import BOS, CLIP_TOKENIZER, EOS

_Position = tuple[int, int]
"""A token id and its vector row."""


class PromptTokenizer:
    """Tokenizes prompts, truncated and padded to one length."""

    def __init__(self, length: int = 77) -> None:
        """`length`: tokens of a prompt, `BOS` and `EOS` included."""
        self.length = length

    @property
    def max_tokens(self) -> int:
        """Tokens of a prompt between `BOS` and `EOS`."""
        return self.length - 2

    def token_ids(self, text: str) -> list[int]:
        """The token ids of a text without `BOS` and `EOS`, which are left out also where the text spells them out."""
        return [token_id for token_id in CLIP_TOKENIZER.encode(text) if token_id not in (BOS, EOS)]

    def decode(self, token_id: int) -> str:
        """A token as text; one that does not end a word ends in a hyphen."""
        return CLIP_TOKENIZER.decode(token_id)

    def encode(
        self, text: str, placeholders: Sequence[Placeholder] = (), required: Placeholder | None = None
    ) -> TokenizedPrompt:
        """Tokenize a prompt. `required` is put in front where the truncated prompt does not contain it."""
        prompt = self._pad(self._substitute(self.token_ids(text), placeholders))
        if required is None or prompt.contains(required):
            return prompt
        return self._pad(_positions(required) + self._substitute(self.token_ids(f", {text}"), placeholders))

    def mentions(self, text: str, placeholder: Placeholder) -> bool:
        """Whether the placeholder's name occurs in a text of any length."""
        positions = self._substitute(self.token_ids(text), [placeholder])
        return bool(placeholder.num_vectors) and any(row != NO_VECTOR for _, row in positions)

    def _substitute(self, token_ids: list[int], placeholders: Sequence[Placeholder]) -> list[_Position]:
        """Each occurrence of a placeholder's name replaced by as many positions as it has vectors."""
        matcher = PlaceholderMatcher(placeholders)
        positions: list[_Position] = []
        i = 0
        while i < len(token_ids):
            if match := matcher.match_at(token_ids, i):
                placeholder, length = match
                positions += _positions(placeholder)
                i += length
            else:
                positions.append((token_ids[i], NO_VECTOR))
                i += 1
        return positions

    def _pad(self, positions: list[_Position]) -> TokenizedPrompt:
        """`BOS`, the positions that fit, and `EOS` up to the length."""
        truncated = positions[: self.max_tokens]
        padding = [(EOS, NO_VECTOR)] * (self.length - 1 - len(truncated))
        input_ids, vector_rows = zip((BOS, NO_VECTOR), *truncated, *padding, strict=True)
        return TokenizedPrompt(input_ids, vector_rows)


def _positions(placeholder: Placeholder) -> list[_Position]:
    return [(0, row) for row in placeholder.rows]
