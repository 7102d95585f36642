"""Prompts of any length, in chunks that a text encoder takes one at a time, divided as AUTOMATIC1111 does.

A full chunk ends behind its last comma if that is near, and a word that does not fit begins the next one. What stands
behind the comma goes on without its vectors then: they keep their places in the chunk before, behind its end, as there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from lib_ti.model.prompt.attention import pieces
from lib_ti.model.prompt.placeholder import PLAIN, Placeholder, PlaceholderMatcher, Prompt
from lib_ti.model.prompt.tokenizer import CLIP, END, START, Dialect, tokenizer

BACKTRACK = 20  # tokens from a comma to the end of its chunk that may go on in the next one; A1111's default
COMMA = 267  # the token


@dataclass(frozen=True)
class Chunk(Prompt):
    """A part of a prompt, with a weight for each of its tokens."""

    weights: tuple[float, ...] = ()


def chunks(text: str, named: PlaceholderMatcher, dialect: Dialect = CLIP, room: int = 75) -> list[Chunk]:
    """The chunks of a prompt, at least one. `room`: tokens of a chunk beside its start and end; longer words are cut."""
    done: list[Chunk] = []
    chunk = _Open(room)

    def begin(new: _Open) -> None:
        nonlocal chunk
        done.append(chunk.closed())
        chunk = new

    for piece in pieces(text):
        if piece.breaks:
            begin(_Open(room))
            continue
        ids, place = tokenizer().encode(piece.text, dialect), 0
        while place < len(ids):
            if ids[place] == COMMA:
                chunk.comma = len(chunk.ids)
            elif chunk.full and chunk.comma is not None and room - chunk.comma <= BACKTRACK:
                begin(chunk.cut_behind(chunk.comma))
            if chunk.full:
                begin(_Open(room))
            if found := named.at(ids, place):
                word, length = found
                if len(chunk.ids) + word.count > room:
                    begin(_Open(room))
                chunk.add_word(word, piece.weight)
                place += length
            else:
                chunk.add(ids[place], piece.weight)
                place += 1
    if chunk.ids or not done:
        done.append(chunk.closed())
    return done


def empty_chunk(room: int = 75) -> Chunk:
    """What shorter prompts are filled up with."""
    return _Open(room).closed()


def mentioned(texts: Iterable[str], names: Iterable[str], dialect: Dialect = CLIP) -> set[str]:
    """Those among names of words that prompts may call, the shorter ones also where a longer one would be called."""
    spelt = [tokenizer().encode(piece.text, dialect) for text in texts for piece in pieces(text)]

    def occurs(named: PlaceholderMatcher) -> bool:
        return any(named.at(ids, place) for ids in spelt for place in range(len(ids)))

    return {name for name in names if occurs(PlaceholderMatcher([Placeholder(name, 0, 1)], dialect))}


@dataclass
class _Open:
    """A chunk that is being filled. `rows`: of learned vectors, by place; `comma`: the place of the last one."""

    room: int
    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    rows: dict[int, int] = field(default_factory=dict)
    comma: int | None = None

    @property
    def full(self) -> bool:
        return len(self.ids) == self.room

    def add(self, token: int, weight: float) -> None:
        self.ids.append(token)
        self.weights.append(weight)

    def add_word(self, word: Placeholder, weight: float) -> None:
        for row in range(word.first, word.first + min(word.count, self.room)):
            self.rows[len(self.ids)] = row
            self.add(0, weight)

    def cut_behind(self, place: int) -> _Open:
        """Take away all that stands behind a place; returned as the beginning of another chunk."""
        behind = _Open(self.room, self.ids[place + 1 :], self.weights[place + 1 :])
        del self.ids[place + 1 :], self.weights[place + 1 :]
        return behind

    def closed(self) -> Chunk:
        missing = self.room - len(self.ids)
        return Chunk(
            ids=(START, *self.ids, *[END] * (missing + 1)),
            rows=(PLAIN, *(self.rows.get(place, PLAIN) for place in range(self.room)), PLAIN),
            weights=(1.0, *self.weights, *[1.0] * (missing + 1)),
        )
