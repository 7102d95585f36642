"""How much memory a training has needed."""

from __future__ import annotations

import sys

import torch


def peak_mb(device: torch.device) -> float | None:
    """The most memory held so far: on a card what torch reserved, else of the process. None where no one can tell."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_reserved(device) / 2**20, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)
