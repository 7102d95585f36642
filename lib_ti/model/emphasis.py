"""Strengths in prompts, written as in the WebUIs: `(word:1.2)`, `(word)` for 1.1, `[word]` for 1/1.1.

As with A1111's "No norm", a token's text features are multiplied by its strength. A backslash makes a bracket plain text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.prompts import PLAIN, Prompt, Vocabulary, Word
from lib_ti.model.text import Context, PromptEncoder

_PARTS = re.compile(r"\\[()\[\]\\]|[()\[\]]|:\s*([+-]?[.\d]+)\s*(?=\))|[^\\()\[\]:]+|.", re.DOTALL)
_ROUND, _SQUARE = 1.1, 1 / 1.1


@dataclass(frozen=True)
class Weighted(Prompt):
    """A prompt with a strength for each of its tokens."""

    strengths: tuple[float, ...] = ()


def split(text: str) -> list[tuple[str, float]]:
    """A prompt's pieces with their strengths, the syntax taken out.

    >>> split("a (red:1.5) mug")
    [('a ', 1.0), ('red', 1.5), (' mug', 1.0)]
    """
    pieces: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # where brackets began, among the pieces
    given: float | None = None

    def close(bracket: str, factor: float) -> None:
        since = opened[bracket].pop()
        pieces[since:] = [(piece, strength * factor) for piece, strength in pieces[since:]]

    for match in _PARTS.finditer(text):
        part, strength = match[0], _number(match[1])
        if part in opened:
            opened[part].append(len(pieces))
        elif part == ")" and opened["("]:
            close("(", _ROUND if given is None else given)
        elif part == "]" and opened["["]:
            close("[", _SQUARE)
        elif strength is None or not opened["("]:
            pieces.append((part[1:] if len(part) == 2 and part[0] == "\\" else part, 1.0))
            strength = None
        given = strength
    for bracket, factor in (("(", _ROUND), ("[", _SQUARE)):  # left open: they reach to the end
        while opened[bracket]:
            close(bracket, factor)
    return _merged(pieces)


def plain(text: str) -> str:
    """A prompt without the syntax of strengths."""
    return "".join(piece for piece, _ in split(text))


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _merged(pieces: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Neighbours of one strength in one piece, so that words are found across them."""
    merged: list[tuple[str, float]] = []
    for piece, strength in pieces:
        if merged and merged[-1][1] == strength:
            piece = merged.pop()[0] + piece
        merged.append((piece, strength))
    return merged


def encode(vocabulary: Vocabulary, text: str, words: Sequence[Word]) -> Weighted:
    """The prompt for `text`, cut to the room there is; a word is found within a piece of one strength."""
    whole = vocabulary.encode("")
    start, end = whole.ids[0], whole.ids[-1]
    places: list[tuple[int, int, float]] = []
    truncated = False
    for piece, strength in split(text):
        part = vocabulary.encode(piece, words)
        inner = [pair for pair in zip(part.ids[1:], part.rows[1:], strict=True) if pair != (end, PLAIN)]
        places += [(token, row, strength) for token, row in inner]
        truncated = truncated or part.truncated
    kept = places[: vocabulary.room]
    padded = [(start, PLAIN, 1.0), *kept, *[(end, PLAIN, 1.0)] * (vocabulary.length - 1 - len(kept))]
    ids, rows, strengths = zip(*padded, strict=True)
    return Weighted(ids, rows, truncated or len(places) > len(kept), strengths)


class _Emphasising(PromptEncoder):
    def __init__(self, inner: PromptEncoder) -> None:
        super().__init__(inner.encoders)

    def encode(self, prompts: Sequence[Prompt], vectors: Mapping[str, torch.Tensor]) -> Context:
        context = super().encode(prompts, vectors)
        features = context.features
        strengths = [p.strengths if isinstance(p, Weighted) else (1.0,) * len(p.ids) for p in prompts]
        factors = torch.tensor(strengths, dtype=features.dtype, device=features.device)
        return replace(context, features=features * factors.unsqueeze(-1))


def with_emphasis(model: StableDiffusion) -> StableDiffusion:
    """The same model, which heeds the strengths in `Weighted` prompts."""
    return replace(model, text=_Emphasising(model.text))
