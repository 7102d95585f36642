"""Measure which of two implementations is faster on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable

ROUNDS = 5


def speedup(baseline: Callable[[], object], candidate: Callable[[], object]) -> float:
    """How many times as fast `candidate` is as `baseline`, each at its fastest.

    They take turns, so that load on the machine affects both. The first round is a warm-up and does not count.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS + 1):
        for work, timings in zip((baseline, candidate), seconds, strict=True):
            start = time.perf_counter()
            work()
            timings.append(time.perf_counter() - start)
    return min(seconds[0][1:]) / min(seconds[1][1:])
