"""Slows down who guesses passwords."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

FREE_FAILURES = 10
"""Of one client in a row, before it has to wait."""
FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 300.0
"""The wait doubles with each failure."""
FORGET_S = 3600.0
MAX_PER_MINUTE = 60
"""Failures of all clients together: an attacker with many addresses is slowed down too."""
MAX_CLIENTS = 10_000


class Throttle:
    """Failed logins by client address. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = (
            OrderedDict()
        )  # by client: how many, and the time of the last
        self._recent: list[float] = []
        self._lock = threading.Lock()

    def begin(self, client: str) -> float:
        """Count an attempt, as a failure until `succeed` says otherwise; the seconds to wait if it is refused, else 0."""
        now, key = self._clock(), _network(client)
        with self._lock:
            self._recent = [moment for moment in self._recent if now - moment < 60]
            count, last = self._failures.get(key, (0, 0.0))
            if now - last > FORGET_S:
                count = 0
            if count >= FREE_FAILURES:
                wait = last + min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(20, count - FREE_FAILURES)) - now
                if wait > 0:
                    return wait
            if len(self._recent) >= MAX_PER_MINUTE:
                return self._recent[0] + 60 - now
            self._recent.append(now)
            self._failures[key] = (count + 1, now)
            self._failures.move_to_end(key)
            while len(self._failures) > MAX_CLIENTS:
                self._failures.popitem(last=False)
            return 0.0

    def succeed(self, client: str) -> None:
        """The last attempt was right."""
        with self._lock:
            self._failures.pop(_network(client), None)
            if self._recent:
                self._recent.pop()


def _network(client: str) -> str:
    """Who an address stands for: with IPv6, whoever has one has its whole /64."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)
