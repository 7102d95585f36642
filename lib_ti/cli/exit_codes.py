"""The exit codes of all commands."""

from __future__ import annotations

OK, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 130
