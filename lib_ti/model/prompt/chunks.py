"""Prompts of any length in chunks of 75 tokens, one text encoder pass each, divided as AUTOMATIC1111 does.

A full chunk ends after its last comma if that is near enough, and a placeholder that does not fit begins the next chunk. As in
AUTOMATIC1111, tokens after the comma move to the next chunk but vectors among them do not: they keep their positions in the
chunk before, after its end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from lib_ti.model.prompt.attention import parse_attention
from lib_ti.model.prompt.placeholder import NO_VECTOR, Placeholder, PlaceholderMatcher, TokenizedPrompt
from lib_ti.model.prompt.tokenizer import BOS, CLIP_TOKENIZER, EOS, Tokenizer

CHUNK_TOKENS = 75  # without BOS and EOS
COMMA_BACKTRACK = 20  # tokens after a comma that may move to the next chunk: A1111's comma_padding_backtrack
COMMA_TOKEN = 267


@dataclass(frozen=True)
class Chunk(TokenizedPrompt):
    """A part of a prompt, with an attention weight for each of its tokens."""

    weights: tuple[float, ...] = ()


def split_into_chunks(
    prompt: str, matcher: PlaceholderMatcher, tokenizer: Tokenizer = CLIP_TOKENIZER, max_tokens: int = CHUNK_TOKENS
) -> list[Chunk]:
    """The chunks of a prompt, at least one, of `max_tokens` beside `BOS` and `EOS`. Placeholders longer than that are cut."""
    chunks: list[Chunk] = []
    current = _ChunkBuilder(max_tokens)

    def begin(chunk: _ChunkBuilder) -> None:
        nonlocal current
        chunks.append(current.build())
        current = chunk

    for piece in parse_attention(prompt):
        if piece.is_break:
            begin(_ChunkBuilder(max_tokens))
            continue
        token_ids, i = tokenizer.encode(piece.text), 0
        while i < len(token_ids):
            if token_ids[i] == COMMA_TOKEN:
                current.last_comma = len(current.input_ids)
            elif (
                current.is_full
                and current.last_comma is not None
                and max_tokens - current.last_comma <= COMMA_BACKTRACK
            ):
                begin(current.split_after(current.last_comma))
            if current.is_full:
                begin(_ChunkBuilder(max_tokens))
            if match := matcher.match_at(token_ids, i):
                placeholder, length = match
                if len(current.input_ids) + placeholder.num_vectors > max_tokens:
                    begin(_ChunkBuilder(max_tokens))
                current.add_placeholder(placeholder, piece.weight)
                i += length
            else:
                current.add_token(token_ids[i], piece.weight)
                i += 1
    if current.input_ids or not chunks:
        chunks.append(current.build())
    return chunks


def empty_chunk(max_tokens: int = CHUNK_TOKENS) -> Chunk:
    """Pads a prompt to the number of chunks of a longer one."""
    return _ChunkBuilder(max_tokens).build()


def mentioned_names(prompts: Iterable[str], names: Iterable[str], tokenizer: Tokenizer = CLIP_TOKENIZER) -> set[str]:
    """The placeholder names that occur in prompts, shorter ones also where a longer one would match."""
    tokenized = [tokenizer.encode(piece.text) for prompt in prompts for piece in parse_attention(prompt)]

    def occurs(name: str) -> bool:
        matcher = PlaceholderMatcher([Placeholder(name, 0, 1)], tokenizer)
        return any(matcher.match_at(token_ids, i) for token_ids in tokenized for i in range(len(token_ids)))

    return {name for name in names if occurs(name)}


@dataclass
class _ChunkBuilder:
    """A chunk being filled. `vector_rows`: by position, of learned vectors; `last_comma`: position of the last comma."""

    max_tokens: int
    input_ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    vector_rows: dict[int, int] = field(default_factory=dict)
    last_comma: int | None = None

    @property
    def is_full(self) -> bool:
        return len(self.input_ids) == self.max_tokens

    def add_token(self, token_id: int, weight: float) -> None:
        self.input_ids.append(token_id)
        self.weights.append(weight)

    def add_placeholder(self, placeholder: Placeholder, weight: float) -> None:
        for row in placeholder.rows[: self.max_tokens]:
            self.vector_rows[len(self.input_ids)] = row
            self.add_token(0, weight)

    def split_after(self, position: int) -> _ChunkBuilder:
        """Remove the tokens after a position; returns a chunk that begins with them."""
        rest = _ChunkBuilder(self.max_tokens, self.input_ids[position + 1 :], self.weights[position + 1 :])
        del self.input_ids[position + 1 :], self.weights[position + 1 :]
        return rest

    def build(self) -> Chunk:
        padding = self.max_tokens - len(self.input_ids)
        rows = (self.vector_rows.get(position, NO_VECTOR) for position in range(self.max_tokens))
        return Chunk(
            input_ids=(BOS, *self.input_ids, *[EOS] * (padding + 1)),
            vector_rows=(NO_VECTOR, *rows, NO_VECTOR),
            weights=(1.0, *self.weights, *[1.0] * (padding + 1)),
        )
