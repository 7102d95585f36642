"""How much memory a training has needed."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_PEAK = Path("/proc/self/clear_refs")


def reset_peak_memory() -> None:
    """Let the process's peak be counted from now on, where the system can (proc(5), clear_refs).

    For after a checkpoint was read: its pages are in the peak until then, and no longer there to be told from the rest.
    """
    with suppress(OSError):
        _PEAK.write_text("5")


def peak_mb(device: torch.device) -> float | None:
    """The most memory held so far: on a card what torch reserved, else of the process. None where no one can tell.

    Where the system tells them apart, what is mapped from files does not count: a checkpoint's pages are given up whenever
    somebody wants them.
    """
    if device.type == "cuda":
        return round(torch.cuda.max_memory_reserved(device) / 2**20, 1)
    try:
        return round(_without_files(_STATUS.read_text()) / 1024, 1)
    except (OSError, KeyError, ValueError):  # not Linux
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def _without_files(status: str) -> int:
    """KB at the peak, by proc(5)'s table of a process. Files' pages are taken for as many then as now."""
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(fields["VmHWM"].split()[0]) - int(fields["RssFile"].split()[0])
