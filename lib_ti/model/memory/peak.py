"""The peak memory of this process or of its GPU."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def reset_peak_memory() -> None:
    """Reset the process's peak on Linux (proc(5), clear_refs); elsewhere do nothing.

    After a checkpoint was read its mapped pages would count in the peak and could not be told from the rest.
    """
    with suppress(OSError):
        _CLEAR_REFS.write_text("5")


def peak_mb(device: torch.device) -> float | None:
    """Peak memory in MiB: on a GPU what torch reserved, else of the process. None where the system does not tell.

    On Linux pages mapped from files do not count: the kernel drops a checkpoint's pages whenever memory is needed.
    """
    if device.type == "cuda":
        return round(torch.cuda.max_memory_reserved(device) / 2**20, 1)
    try:
        return round(_peak_without_files(_STATUS.read_text()) / 1024, 1)
    except (OSError, KeyError, ValueError):  # not Linux
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def _peak_without_files(status: str) -> int:
    """KiB at the peak, from /proc/self/status. File pages have no peak there: as many are assumed then as now."""
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(fields["VmHWM"].split()[0]) - int(fields["RssFile"].split()[0])
