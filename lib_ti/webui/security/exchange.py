"""What a guard and the handler behind it tell each other about a request.

The handler of the page's calls is an event of gradio's, which has more addresses than the one the guard knows. So it answers only
a request that a guard has let through.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Exchange:
    """A request that was checked, and the status of its reply where the handler chooses one."""

    status: int | None = None


_current: ContextVar[Exchange | None] = ContextVar("tinv_exchange", default=None)


def begin() -> Exchange:
    """Mark the request that the current task handles as checked."""
    exchange = Exchange()
    _current.set(exchange)
    return exchange


def current() -> Exchange | None:
    """The exchange of the request that the current task handles; None if no guard has checked it."""
    return _current.get()
