"""Attention weights and BREAK in a prompt, parsed as AUTOMATIC1111 does (`prompt_parser.parse_prompt_attention`).

`(a)` has weight 1.1, `[a]` 1/1.1, `(a:1.3)` 1.3; nested brackets multiply. A backslash makes a bracket or a backslash literal.
An unclosed bracket extends to the end; one that closes nothing is literal. BREAK begins a new chunk.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ROUND_BRACKET_WEIGHT, SQUARE_BRACKET_WEIGHT = 1.1, 1 / 1.1
_LEXEMES = re.compile(r"\\[()\[\]\\]?|[()\[\]]|:\s*([+-]?[.\d]+)\s*\)|[^\\()\[\]:]+|:")
_BREAK = re.compile(r"\bBREAK\b")
MAX_DEPTH = 50  # open brackets; further ones are literal, so that no prompt takes forever


@dataclass(frozen=True)
class WeightedText:
    """A piece of a prompt with one attention weight, or the mark of a new chunk."""

    text: str
    weight: float = 1.0

    @property
    def is_break(self) -> bool:
        """As in AUTOMATIC1111, BREAK has the weight -1: brackets around it multiply that, which makes it literal text."""
        return (self.text, self.weight) == ("BREAK", -1.0)


def parse_attention(prompt: str) -> list[WeightedText]:
    """The pieces of a prompt; neighbours of one weight are merged, so that placeholders match across them.

    >>> [(piece.text, piece.weight) for piece in parse_attention("a (red:1.5) mug")]
    [('a ', 1.0), ('red', 1.5), (' mug', 1.0)]
    """
    texts: list[str] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # for each open bracket the index of the piece that follows it

    def add(text: str) -> None:
        for piece, weight in _split_breaks(text):
            texts.append(piece)
            weights.append(weight)

    def close(bracket: str, factor: float) -> None:
        start = opened[bracket].pop()
        weights[start:] = [weight * factor for weight in weights[start:]]

    for match in _LEXEMES.finditer(prompt):
        lexeme, weight = match[0], _parse_float(match[1])
        if lexeme.startswith("\\"):
            texts.append(lexeme[1:])
            weights.append(1.0)
        elif lexeme in opened and len(opened["("]) + len(opened["["]) < MAX_DEPTH:
            opened[lexeme].append(len(texts))
        elif lexeme.endswith(")") and opened["("]:
            if weight is None and lexeme != ")":  # ":1.2.3)" has no valid weight
                add(lexeme[:-1])
            close("(", ROUND_BRACKET_WEIGHT if weight is None else weight)
        elif lexeme == "]" and opened["["]:
            close("[", SQUARE_BRACKET_WEIGHT)
        else:
            add(lexeme)
    for bracket, factor in (("(", ROUND_BRACKET_WEIGHT), ("[", SQUARE_BRACKET_WEIGHT)):
        while opened[bracket]:
            close(bracket, factor)
    return _merge_equal_weights(texts, weights)


def _parse_float(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:  # such as 1.2.3
        return None


def _split_breaks(text: str) -> Iterator[tuple[str, float]]:
    """Texts and weights: the text, or what is before, between and after each BREAK, without the spaces around that."""
    parts = _BREAK.split(text)
    for i, part in enumerate(parts):
        if i:
            yield "BREAK", -1.0
            part = part.lstrip()
        yield part.rstrip() if i < len(parts) - 1 else part, 1.0


def _merge_equal_weights(texts: Sequence[str], weights: Sequence[float]) -> list[WeightedText]:
    groups = itertools.groupby(zip(texts, weights, strict=True), key=lambda pair: pair[1])
    return [WeightedText("".join(text for text, _ in pairs), weight) for weight, pairs in groups]
