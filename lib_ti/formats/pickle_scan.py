"""Looks through a pickle's opcodes before anything is unpickled, and refuses what would fill the memory or never end.

Python's unpickler allocates what an opcode asks for: a memo index of 2³¹ takes gigabytes, in a file of nine bytes. Tuples that
hold each other twice over many levels are small, but hashing one as a dictionary's key would take forever.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import Any, BinaryIO

MAX_OPCODES = 3_000_000  # a checkpoint's pickle has a hundred thousand
MAX_STRING_BYTES = 1 << 26
MAX_DIGITS = 1000  # of a decimal number
MAX_ITEMS = 2_000_000  # in an object, counted as often as they occur in it
MAX_DEPTH = 200
MAX_WORK = 50_000_000  # items that are put into objects, all together

_MEMO_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_MEMO_GETS = {"GET", "BINGET", "LONG_BINGET"}
_EXTENDING = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}


class UnreasonablePickle(ValueError):
    """Unpickling would take far too much memory or time; the message says why."""


@dataclass
class _Item:
    """An object on the stack: how many others a walk through it visits, and how deep that goes."""

    items: int = 1
    depth: int = 0


@dataclass
class PickleScanner:
    """Scans the pickles of one file, whose limits they share."""

    opcodes: int = field(default=0, init=False)
    work: int = field(default=0, init=False)

    def scan(self, file: BinaryIO, size: int) -> None:
        """Read one pickle from the file's position, to behind its end. `size`: of the file, in bytes.

        Raises UnreasonablePickle, and ValueError and other errors of `pickletools` for a damaged pickle.
        """
        stack: list[_Item | None] = []  # None: a mark
        memo: dict[int, _Item] = {}
        reader: Any = _BoundedReader(file, size)
        argument: Any
        for opcode, argument, _ in pickletools.genops(reader):
            self.opcodes += 1
            if self.opcodes > MAX_OPCODES:
                raise UnreasonablePickle("it has millions of instructions")
            name = opcode.name
            if name in _MEMO_PUTS:
                if not 0 <= int(argument) <= self.opcodes:  # picklers count what they have stored
                    raise UnreasonablePickle(f"it asks for room for {argument} objects")
                memo[int(argument)] = _top(stack)
            elif name == "MEMOIZE":
                memo[len(memo)] = _top(stack)
            elif name in _MEMO_GETS:
                stack.append(memo.get(int(argument)) or _Item())
            elif name == "FRAME":
                if argument > size:
                    raise UnreasonablePickle(f"it claims a part of {argument} bytes")
            elif name == "MARK":
                stack.append(None)
            elif name == "DUP":
                stack.append(_top(stack))
            else:
                self._apply(opcode, stack)

    def _apply(self, opcode: Any, stack: list[_Item | None]) -> None:
        """What any other opcode does to the stack: it takes objects, and makes one of them or extends the lowest one."""
        before, taken = opcode.stack_before, []
        lowest = len(before)
        if pickletools.markobject in before:
            taken, lowest = _pop_to_mark(stack), before.index(pickletools.markobject)
        for _ in range(min(lowest, len(stack))):
            taken.append(stack.pop() or _Item())
        if not opcode.stack_after:
            return
        result = taken.pop() if opcode.name in _EXTENDING and taken else _Item()
        if taken:
            added = sum(item.items for item in taken)
            self.work += added
            result.items += added
            result.depth = max(result.depth, 1 + max(item.depth for item in taken))
            if result.items > MAX_ITEMS or result.depth > MAX_DEPTH or self.work > MAX_WORK:
                raise UnreasonablePickle("it nests objects without end")
        stack.extend([result] * len(opcode.stack_after))


def _top(stack: list[_Item | None]) -> _Item:
    return (stack[-1] if stack else None) or _Item()


def _pop_to_mark(stack: list[_Item | None]) -> list[_Item]:
    taken: list[_Item] = []
    while stack and (item := stack.pop()) is not None:
        taken.append(item)
    return taken


class _BoundedReader:
    """The file as `pickletools` reads it: no string is longer than the file, and no number than a number is."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size, self._opcode = file, size, b""

    def tell(self) -> int:
        return self._file.tell()

    def read(self, count: int) -> bytes:
        if count > min(max(self._size, 8), MAX_STRING_BYTES):
            raise UnreasonablePickle(f"it claims a text of {count} bytes")
        data = self._file.read(count)
        if count == 1:  # an opcode, if a line follows
            self._opcode = data
        return data

    def readline(self) -> bytes:
        longest = MAX_DIGITS if self._opcode in (b"I", b"L", b"F", b"g", b"p") else MAX_STRING_BYTES
        line = self._file.readline(longest + 1)
        if len(line) > longest:
            raise UnreasonablePickle("it holds an endless line")
        return line
