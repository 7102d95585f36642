"""What is syntax in a prompt, and what is text: weights and BREAK, as AUTOMATIC1111 reads them.

`(a)` weighs 1.1, `[a]` 1/1.1, `(a:1.3)` 1.3; brackets multiply. A backslash makes a bracket or backslash text. A bracket that
is left open reaches to the end; one that closes nothing is text. BREAK begins a new chunk.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ROUND, SQUARE = 1.1, 1 / 1.1
_TOKENS = re.compile(r"\\[()\[\]\\]?|[()\[\]]|:\s*([+-]?[.\d]+)\s*\)|[^\\()\[\]:]+|:")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


@dataclass(frozen=True)
class Piece:
    """Text of one weight, or with `breaks` what begins a new chunk."""

    text: str
    weight: float = 1.0

    @property
    def breaks(self) -> bool:
        """A BREAK is marked by a weight that a bracket around it would multiply, and so make it text."""
        return (self.text, self.weight) == ("BREAK", -1.0)


def pieces(text: str) -> list[Piece]:
    """A prompt's pieces; neighbours of one weight are one piece, so that words are found across them.

    >>> [(piece.text, piece.weight) for piece in pieces("a (red:1.5) mug")]
    [('a ', 1.0), ('red', 1.5), (' mug', 1.0)]
    """
    found: list[Piece] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # where brackets began, among the pieces

    def close(bracket: str, factor: float) -> None:
        since = opened[bracket].pop()
        found[since:] = [Piece(piece.text, piece.weight * factor) for piece in found[since:]]

    for match in _TOKENS.finditer(text):
        token, weight = match[0], _number(match[1])
        if token.startswith("\\"):
            found.append(Piece(token[1:]))
        elif token in opened:
            opened[token].append(len(found))
        elif token.endswith(")") and opened["("]:
            if weight is None and token != ")":  # no number after all
                found += _broken(token[:-1])
            close("(", ROUND if weight is None else weight)
        elif token == "]" and opened["["]:
            close("[", SQUARE)
        else:
            found += _broken(token)
    for bracket, factor in (("(", ROUND), ("[", SQUARE)):
        while opened[bracket]:
            close(bracket, factor)
    return _merged(found)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:  # several points
        return None


def _broken(text: str) -> list[Piece]:
    first, *others = _BREAK.split(text)
    return [Piece(first), *(piece for other in others for piece in (Piece("BREAK", -1.0), Piece(other)))]


def _merged(found: list[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    for piece in found:
        if merged and merged[-1].weight == piece.weight:
            piece = Piece(merged.pop().text + piece.text, piece.weight)
        merged.append(piece)
    return merged
