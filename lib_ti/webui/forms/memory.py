"""What memory a training will need, and what the device has: for the form, without loading anything."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from lib_ti.model.memory import estimate
from lib_ti.settings.train_settings import MEMORY_MODES, TrainSettings

log = logging.getLogger("lib_ti")
ASK_AGAIN_S = 30.0  # nvidia-smi takes a while to answer


@dataclass(frozen=True)
class Card:
    """A graphics card's memory; `free_mb` counts what this process could give back."""

    total_mb: float
    free_mb: float


@dataclass(frozen=True)
class Room:
    """What a training needs in the memory mode that it will run in. `mb` is None where nobody can tell."""

    mode: str
    mb: float | None
    card: Card | None
    known: bool = False  # measured on this machine

    def measured(self, mb: float) -> Room:
        """With the peak of an earlier training in the place of the estimate; on a card without CUDA's own part."""
        return replace(self, mb=mb + (estimate.CONTEXT_MB if self.card else 0), known=True)

    def shown(self) -> dict[str, Any]:
        """For the page."""
        return {
            "memory_mb": self.mb, "memory_mode": self.mode, "measured": self.known,
            "total_mb": self.card.total_mb if self.card else None, "free_mb": self.card.free_mb if self.card else None,
        }  # fmt: skip

    def words(self) -> list[str]:
        """For people, in gigabytes of 1024 MB, as cards are sold by."""
        if self.mb is None:
            return []
        number = f"{self.mb / 1024:.1f}"
        about = number if self.known else f"about {number}"
        if self.card is None:
            return [f"needs {about} GB"]
        said = [f"needs {about} of {self.card.total_mb / 1024:.0f} GB"]
        if self.mode != MEMORY_MODES[0]:
            said[0] += f" in memory mode “{self.mode}”"
        if self.mb > self.card.free_mb:
            said.append(f"only {self.card.free_mb / 1024:.1f} GB are free")
        return said


def needed(settings: TrainSettings, checkpoint: Mapping[str, Any], resolution: int, device: str, sharing: bool) -> Room:
    """The room for a training of a described checkpoint. `sharing`: the WebUI's own model stays where it is."""
    card, modes = card_of(device, sharing), settings.memory_modes
    if not checkpoint["usual"]:
        return Room(modes[0], None, card)
    on_card = card is not None or device.startswith("cuda")
    family, work, precision = checkpoint["family"], estimate.Work.of(settings, resolution), settings.precision
    if precision == "auto":
        precision = "bf16" if on_card or _computes_bf16() else "fp32"
    if card:
        mode, mb = estimate.fitting(modes, family, precision, work, card.free_mb)
        return Room(mode, mb, card)
    return Room(modes[0], estimate.needed_mb(family, modes[0], precision, work, on_card), None)


def card_of(device: str, sharing: bool = False) -> Card | None:
    """The memory of a card; None on a CPU, whose memory others use too, and where the card does not tell."""
    if device == "cpu":
        return None
    torch = sys.modules.get("torch")
    try:
        if torch is not None and torch.cuda.is_initialized():  # the host's: asking it costs nothing
            free, total = torch.cuda.mem_get_info(None if device == "auto" else device)
            own = 0 if sharing else torch.cuda.memory_reserved(None if device == "auto" else device)
            return Card(total / 2**20, (free + own) / 2**20)
        return _by_nvidia_smi(int(device.partition(":")[2] or 0), int(time.monotonic() / ASK_AGAIN_S))
    except Exception:  # the card cannot be reached any more; the training will say so
        log.exception("the card's memory is not known")
        return None


@lru_cache(maxsize=8)
def _by_nvidia_smi(index: int, moment: int) -> Card | None:
    """What NVIDIA's own tool says of the card that programs call by this number. `moment`: when; asked once for each."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible is not None else []
    if visible is not None and index >= len(names):
        return None
    asked = [tool, f"--id={names[index].strip() if names else index}", "--query-gpu=memory.total,memory.free"]
    try:
        said = subprocess.run(
            [*asked, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=5, check=True
        ).stdout
        total, free = (float(number) for number in said.strip().splitlines()[0].split(","))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return Card(total, free)


@cache
def _computes_bf16() -> bool:
    """Whether the processor says that it multiplies bf16, so that large models are trained in it."""
    try:
        said = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in said or "amx_bf16" in said
