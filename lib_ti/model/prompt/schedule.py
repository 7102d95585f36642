"""Comments, AND and prompt editing, which AUTOMATIC1111 resolves before the rest of a prompt is encoded.

`a AND b :0.7` composes two prompts, the second with weight 0.7. `[a:b:0.5]` is a for the first half of the steps, then b;
`[a:5]` begins after step 5, `[a::5]` ends there, `[a|b]` alternates at each step. `#` comments out the rest of a line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"[-+]?(?:\d+\.?|\d*\.\d+)")
_LEXEMES = re.compile(r"(?:[^\\\[\]():|]|\\.)+|[\[\]():|]")
_NUMBER = re.compile(r"\s*([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")
_CLOSING = {"(": ")", "[": "]"}
MAX_CHARACTERS = 20_000_000  # that all brackets make of all steps together; a prompt that makes more is literal

ScheduledText = str | Sequence[str]
"""Text that is the same at all steps, or the text of each step."""


def strip_comments(prompt: str) -> str:
    """A prompt without its comments; of a line that is nothing but a comment not even the line break stays.

    As AUTOMATIC1111's `processing_scripts.comments.strip_comments`.
    """
    return re.sub(r"#[^\n]*(\n|$)", "\n", re.sub(r"(^|\n)#[^\n]*(\n|$)", "\n", prompt))


def split_by_and(prompt: str) -> list[tuple[str, float]]:
    """The prompts that AND joins, each with its weight in the guidance.

    >>> split_by_and("a cat AND a dog :0.5")
    [('a cat', 1.0), ('a dog', 0.5)]
    """
    return [_split_weight(part) for part in _AND.split(prompt)]


def _split_weight(part: str) -> tuple[str, float]:
    text, colon, weight = part.rpartition(":")
    if colon and _WEIGHT.fullmatch(weight.strip()):
        return text.rstrip(), float(weight)
    return part.rstrip(), 1.0


def prompt_schedule(prompt: str, steps: int) -> list[tuple[int, str]]:
    """Pairs of an end step and the prompt up to it, the last end being `steps`. A prompt with invalid syntax is literal.

    >>> prompt_schedule("a [red:blue:0.3] cat", 10)
    [(3, 'a red cat'), (10, 'a blue cat')]
    """
    try:
        return _Parser(steps).parse(prompt)
    except _InvalidSyntax:
        return [(steps, prompt)]


class _InvalidSyntax(Exception):
    """The whole prompt is literal."""


@dataclass
class _Bracket:
    """An open bracket's content so far: segments, with a separator between each two."""

    bracket: str = ""
    segments: list[list[ScheduledText]] = field(default_factory=lambda: [[]])
    separators: list[str] = field(default_factory=list)

    @property
    def literal(self) -> list[ScheduledText]:
        """The bracket and its content as they were written."""
        first, *rest = self.segments
        pairs = zip(self.separators, rest, strict=True)
        return [self.bracket, *first, *(item for separator, segment in pairs for item in (separator, *segment))]


class _Parser:
    """Parses one prompt. What changes with the steps becomes the texts of all steps as soon as its bracket closes."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._end_steps = {steps}
        self._characters = 0  # made so far
        self._stack = [_Bracket()]  # the text outside of brackets, then each open bracket

    def parse(self, prompt: str) -> list[tuple[int, str]]:
        lexemes = _LEXEMES.findall(prompt)
        if sum(map(len, lexemes)) != len(prompt):  # a backslash at the very end
            raise _InvalidSyntax
        for lexeme in lexemes:
            if lexeme in _CLOSING:
                self._stack.append(_Bracket(lexeme))
            elif lexeme in (")", "]"):
                self._close(lexeme)
            elif lexeme in (":", "|") and len(self._stack) > 1:
                self._stack[-1].separators.append(lexeme)
                self._stack[-1].segments.append([])
            elif lexeme == "|":
                raise _InvalidSyntax
            else:
                self._stack[-1].segments[-1].append(lexeme)
        self._make_open_brackets_literal()
        texts = self._texts_by_step(self._stack[0].literal)
        return [(end, texts[end - 1]) for end in sorted(self._end_steps)]

    def _close(self, bracket: str) -> None:
        items = self._evaluate() if _CLOSING.get(self._stack[-1].bracket) == bracket else None
        if items is None:
            self._make_open_brackets_literal()
            items = [bracket]
        else:
            self._stack.pop()
        self._stack[-1].segments[-1] += items

    def _make_open_brackets_literal(self) -> None:
        """Once one of them is invalid, all that enclose it are literal, too; what has been closed in them stays."""
        for bracket in self._stack[1:]:
            if "|" in bracket.separators:
                raise _InvalidSyntax
            self._stack[0].segments[-1] += bracket.literal
        del self._stack[1:]

    def _evaluate(self) -> list[ScheduledText] | None:
        """The value of the innermost bracket, which ends here; None if its syntax is invalid."""
        bracket = self._stack[-1]
        separators = "".join(bracket.separators)
        if not separators or (separators == ":" and bracket.bracket == "("):
            return [*bracket.literal, _CLOSING[bracket.bracket]]  # an attention weight: see `attention`
        if bracket.bracket == "(":
            return None
        if set(separators) == {"|"}:
            return [self._alternate(bracket)]
        switch = _NUMBER.fullmatch("".join(text if isinstance(text, str) else "?" for text in bracket.segments[-1]))
        if separators not in (":", "::") or switch is None:
            return None
        return [self._switch(bracket, self._step_number(switch[1]))]

    def _alternate(self, bracket: _Bracket) -> list[str]:
        """`[a|b|...]`: one after the other, a step each."""
        self._end_steps.update(range(1, self._steps + 1))
        options = [self._texts_by_step(segment) for segment in bracket.segments]
        return [options[step % len(options)][step] for step in range(self._steps)]

    def _switch(self, bracket: _Bracket, last_step: int) -> list[str]:
        """`[before:after:step]` or `[after:step]`; `last_step`: the last one with `before`."""
        if last_step >= 1:
            self._end_steps.add(last_step)
        before, after = ([], *bracket.segments[:-1])[-2:]
        early, late = self._texts_by_step(before), self._texts_by_step(after)
        return [(early if step < last_step else late)[step] for step in range(self._steps)]

    def _step_number(self, number: str) -> int:
        """A step as it is written: itself, or with a decimal point a fraction of all steps."""
        value = float(number) * (self._steps if "." in number else 1)
        return int(min(max(value, 0), self._steps))

    def _texts_by_step(self, items: Sequence[ScheduledText]) -> list[str]:
        if all(isinstance(item, str) for item in items):
            texts = ["".join(map(str, items))] * self._steps
        else:
            texts = ["".join(i if isinstance(i, str) else i[step] for i in items) for step in range(self._steps)]
        self._characters += len(texts[0]) * self._steps
        if self._characters > MAX_CHARACTERS:
            raise _InvalidSyntax
        return texts
