"""Attention weights and BREAK in a prompt, parsed as AUTOMATIC1111 does (`prompt_parser.parse_prompt_attention`).

`(a)` has weight 1.1, `[a]` 1/1.1, `(a:1.3)` 1.3; nested brackets multiply. A backslash makes a bracket or a backslash literal.
An unclosed bracket extends to the end; one that closes nothing is literal. BREAK begins a new chunk.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ROUND_BRACKET_WEIGHT, SQUARE_BRACKET_WEIGHT = 1.1, 1 / 1.1
_LEXEMES = re.compile(r"\\[()\[\]\\]?|[()\[\]]|:\s*([+-]?[.\d]+)\s*\)|[^\\()\[\]:]+|:")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


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
    pieces: list[WeightedText] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # for each open bracket the index of the piece that follows it

    def close(bracket: str, factor: float) -> None:
        start = opened[bracket].pop()
        pieces[start:] = [WeightedText(piece.text, piece.weight * factor) for piece in pieces[start:]]

    for match in _LEXEMES.finditer(prompt):
        lexeme, weight = match[0], _parse_float(match[1])
        if lexeme.startswith("\\"):
            pieces.append(WeightedText(lexeme[1:]))
        elif lexeme in opened:
            opened[lexeme].append(len(pieces))
        elif lexeme.endswith(")") and opened["("]:
            if weight is None and lexeme != ")":  # ":1.2.3)" has no valid weight
                pieces += _split_breaks(lexeme[:-1])
            close("(", ROUND_BRACKET_WEIGHT if weight is None else weight)
        elif lexeme == "]" and opened["["]:
            close("[", SQUARE_BRACKET_WEIGHT)
        else:
            pieces += _split_breaks(lexeme)
    for bracket, factor in (("(", ROUND_BRACKET_WEIGHT), ("[", SQUARE_BRACKET_WEIGHT)):
        while opened[bracket]:
            close(bracket, factor)
    return _merge_equal_weights(pieces)


def _parse_float(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:  # such as 1.2.3
        return None


def _split_breaks(text: str) -> list[WeightedText]:
    first, *rest = _BREAK.split(text)
    return [
        WeightedText(first),
        *(piece for part in rest for piece in (WeightedText("BREAK", -1.0), WeightedText(part))),
    ]


def _merge_equal_weights(pieces: list[WeightedText]) -> list[WeightedText]:
    merged: list[WeightedText] = []
    for piece in pieces:
        if merged and merged[-1].weight == piece.weight:
            piece = WeightedText(merged.pop().text + piece.text, piece.weight)
        merged.append(piece)
    return merged
