"""Threads for actions, apart by what they wait for, so that slow ones delay no poll.

Requests beyond what a pool takes are refused at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from lib_ti.errors import TextualInversionError

_T = TypeVar("_T")


class Busy(TextualInversionError):
    """Too many requests of a kind wait already."""


class Pool:
    """Threads for one kind of actions. At most `limit` requests run or wait."""

    def __init__(self, name: str, threads: int, limit: int, refusal: str) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"textual-inversion-{name}")
        self._limit, self._refusal = limit, refusal
        self._count = 0
        self._lock = threading.Lock()

    async def run(self, function: Callable[[], _T]) -> _T:
        """The result of a function, called in a thread of the pool. Raises Busy at once if too many wait."""
        with self._lock:
            if self._count >= self._limit:
                raise Busy(self._refusal)
            self._count += 1
        future = self._executor.submit(function)
        future.add_done_callback(self._leave)  # also of one that nobody waits for any more
        return await asyncio.wrap_future(future)

    def _leave(self, future: Future[_T]) -> None:
        with self._lock:
            self._count -= 1


STARTS = Pool("start", 4, 4, "Other trainings are being started; try again in a moment.")
"""Each starts a process that imports torch, one after another."""
PICTURES = Pool("pictures", 4, 200, "Too many pictures are being added; try again in a moment.")
"""Wait for the decoder."""
OTHERS = Pool("actions", 16, 400, "Too many requests are waiting; try again in a moment.")

_SLOW = {
    **dict.fromkeys(("train", "resume", "sweep"), STARTS),
    **dict.fromkeys(("add", "folder", "example", "reuse", "crops", "thumb"), PICTURES),
}


def pool_of(action: str) -> Pool:
    """The pool that an action runs in."""
    return _SLOW.get(action, OTHERS)
