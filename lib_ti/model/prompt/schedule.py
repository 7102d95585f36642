"""What AUTOMATIC1111 reads out of a prompt before the rest of it is encoded: comments, AND, and what changes on the way.

`a AND b :0.7` are two prompts that guide together, the second one 0.7 times as much. `[a:b:0.5]` is a in the first half of the
steps and b then, `[a:5]` begins at the fifth, `[a::5]` ends there, `[a|b]` takes turns. `#` hides the rest of a line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"^(.*?)(?:\s*:\s*([-+]?(?:\d+\.?|\d*\.\d+)))?\s*$", re.DOTALL)
_LEXEMES = re.compile(r"(?:[^\\\[\]():|]|\\.)+|[\[\]():|]")
_NUMBER = re.compile(r"\s*([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")
_CLOSED_BY = {"(": ")", "[": "]"}

Item = str | Sequence[str]
"""Text: the same at all steps, or that of each step."""


def without_comments(text: str) -> str:
    """A prompt without what `#` hides; nothing is left of a line that is a comment from its start."""
    return re.sub(r"#[^\n]*(\n|$)", "\n", re.sub(r"(^|\n)#[^\n]*(\n|$)", "\n", text))


def parts(text: str) -> list[tuple[str, float]]:
    """The prompts that AND joins, and the weight of each in the guidance.

    >>> parts("a cat AND a dog :0.5")
    [('a cat', 1.0), ('a dog', 0.5)]
    """
    found = [_WEIGHT.fullmatch(part) for part in _AND.split(text)]
    return [(match[1], float(match[2] or 1)) for match in found if match]


def stages(text: str, steps: int) -> list[tuple[int, str]]:
    """What a prompt says up to which step, the last one being `steps`. One that cannot be read as syntax is one text.

    >>> stages("a [red:blue:0.3] cat", 10)
    [(3, 'a red cat'), (10, 'a blue cat')]
    """
    try:
        return _Reading(steps).read(text)
    except _NoSyntax:
        return [(steps, text)]


class _NoSyntax(Exception):
    """The prompt is text from end to end."""


@dataclass
class _Frame:
    """What stands in a bracket, up to where it has been read: segments with a separator between each two."""

    bracket: str = ""
    segments: list[list[Item]] = field(default_factory=lambda: [[]])
    separators: list[str] = field(default_factory=list)

    @property
    def items(self) -> list[Item]:
        """As it was written."""
        first, *others = self.segments
        pairs = zip(self.separators, others, strict=True)
        return [self.bracket, *first, *(item for mark, segment in pairs for item in (mark, *segment))]


class _Reading:
    """One prompt's. What changes becomes the texts of all steps as soon as its bracket closes."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._ends = {steps}
        self._open = [_Frame()]  # the text around all brackets, then each bracket in the one before

    def read(self, text: str) -> list[tuple[int, str]]:
        lexemes = _LEXEMES.findall(text)
        if sum(map(len, lexemes)) != len(text):  # a backslash before nothing
            raise _NoSyntax
        for lexeme in lexemes:
            if lexeme in _CLOSED_BY:
                self._open.append(_Frame(lexeme))
            elif lexeme in (")", "]"):
                self._close(lexeme)
            elif lexeme in (":", "|") and len(self._open) > 1:
                self._open[-1].separators.append(lexeme)
                self._open[-1].segments.append([])
            elif lexeme == "|":
                raise _NoSyntax
            else:
                self._open[-1].segments[-1].append(lexeme)
        self._give_up()
        whole = self._texts(self._open[0].items)
        return [(end, whole[end - 1]) for end in sorted(self._ends)]

    def _close(self, bracket: str) -> None:
        meant = self._meaning() if _CLOSED_BY.get(self._open[-1].bracket) == bracket else None
        if meant is None:
            self._give_up()
            meant = [bracket]
        else:
            self._open.pop()
        self._open[-1].segments[-1] += meant

    def _give_up(self) -> None:
        """All open brackets are text, as they stand around something that has no meaning; what is closed in them stays."""
        for frame in self._open[1:]:
            if "|" in frame.separators:
                raise _NoSyntax
            self._open[0].segments[-1] += frame.items
        del self._open[1:]

    def _meaning(self) -> list[Item] | None:
        """Of the innermost bracket, which ends here; None if it has none."""
        frame = self._open[-1]
        marks = "".join(frame.separators)
        if not marks or (marks == ":" and frame.bracket == "("):
            return [*frame.items, _CLOSED_BY[frame.bracket]]  # a weight: not our business
        if frame.bracket == "(":
            return None
        if set(marks) == {"|"}:
            self._ends.update(range(1, self._steps + 1))
            taken = [self._texts(segment) for segment in frame.segments]
            return [[taken[step % len(taken)][step] for step in range(self._steps)]]
        number = _NUMBER.fullmatch("".join(item if isinstance(item, str) else "?" for item in frame.segments[-1]))
        if marks not in (":", "::") or number is None:
            return None
        last = self._step(number[1])
        if last >= 1:
            self._ends.add(last)
        before, after = ([], *frame.segments[:-1])[-2:]
        early, late = self._texts(before), self._texts(after)
        return [[(early if step < last else late)[step] for step in range(self._steps)]]

    def _step(self, number: str) -> int:
        """The step that is meant: itself, or with a point a share of all."""
        value = float(number) * (self._steps if "." in number else 1)
        return int(min(max(value, 0), self._steps))

    def _texts(self, items: Sequence[Item]) -> list[str]:
        """Of each step."""
        if all(isinstance(item, str) for item in items):
            return ["".join(map(str, items))] * self._steps
        return ["".join(i if isinstance(i, str) else i[step] for i in items) for step in range(self._steps)]
