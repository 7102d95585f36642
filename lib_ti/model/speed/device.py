"""Which device to train on, and in what numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lib_ti.model.speed.prepacked_conv import can_arrange, gain
from lib_ti.model.speed.timing import speedup
from lib_ti.settings.train_settings import MEMORY_MODES
from lib_ti.settings.validation import validate_device

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WORTH_ROUNDING = 1.15  # times faster, of one convolution, while others may be at work as well
WORTH_ARRANGING = 1.3  # times faster, of one convolution; a whole step gains less than half of it
LARGE = 100_000_000  # parameters; below, a CPU spends its time elsewhere and fp32 is the more exact


def choose_device(asked: str) -> torch.device:
    """The device that `asked` (auto, cpu, cuda, cuda:N) names. Raises ValueError with a sentence where it is not there."""
    validate_device(asked)
    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("there is no CUDA device that torch can use; use --device cpu, or install torch for your card")
    index = int(asked.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise ValueError(
            f"{asked} is not there; this machine has {torch.cuda.device_count()} CUDA device(s), from cuda:0 on"
        )
    return torch.device("cuda", index)


def choose_precision(asked: str, device: torch.device, parameters: int) -> str:
    """The precision for a UNet of so many parameters; what "auto" means is chosen by what the device does well.

    Raises ValueError with a sentence where the device cannot do what is asked.
    """
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device)[0] >= 8 or bool(torch.version.hip)
        if asked == "auto":
            return "bf16" if native else "fp16"
        if asked == "bf16" and not native:
            raise ValueError("this card does not do bf16; use fp16 or fp32")
        return asked
    if asked == "auto":
        return "bf16" if parameters >= LARGE and _gain_by_bf16() > WORTH_ROUNDING else "fp32"
    if asked == "fp16" and not _works(torch.float16):
        raise ValueError("this torch does not do fp16 on a CPU; use bf16 or fp32")
    return asked


def choose_acceleration(asked: str, device: torch.device, precision: str, parameters: int) -> str:
    """How the steps of a UNet of so many parameters are computed sooner; what "auto" means is what the device gains by.

    Raises ValueError with a sentence where the device cannot do what is asked.
    """
    if device.type == "cuda":
        if asked == "arranged":
            raise ValueError("arranged is for a CPU; use graphs or none on a card")
        return "graphs" if asked == "auto" else asked
    if asked == "graphs":
        raise ValueError("graphs are for a card; use arranged or none on a CPU")
    dtype = DTYPES[precision]
    if asked == "arranged" and not can_arrange(dtype):
        raise ValueError(f"this torch does not do it in {precision} on this processor; use none")
    if asked != "auto":
        return asked
    return "arranged" if parameters >= LARGE and can_arrange(dtype) and gain(dtype) > WORTH_ARRANGING else "none"


def possible_acceleration(wanted: str, device: torch.device, precision: str, mode: str) -> str:
    """`wanted` where it can be had, else "none": a run may go on on another device, with another torch, in a leaner mode."""
    if wanted == "graphs" and device.type == "cuda":
        return wanted
    if wanted == "arranged" and device.type == "cpu" and mode == MEMORY_MODES[0] and can_arrange(DTYPES[precision]):
        return wanted
    return "none"


def mend_attention(device: torch.device, precision: str) -> None:
    """Do without fused attention where its gradient is broken: in bf16 on a CPU, torch 2.1 writes beyond its own memory.

    What it writes over ends the process some moments later. torch 2.3 is right; 2.2 is not known.
    """
    release = tuple(int(number) for number in torch.__version__.split(".")[:2])
    if device.type == "cpu" and precision == "bf16" and release < (2, 3):
        torch.backends.cuda.enable_flash_sdp(False)  # it is the CPU's switch too, whatever its name


def _works(dtype: torch.dtype) -> bool:
    try:
        _normed_convolution(dtype)()
    except RuntimeError:
        return False
    return True


def _gain_by_bf16() -> float:
    """How many times as fast a CPU is in bf16 as in fp32."""
    return speedup(_normed_convolution(torch.float32), _normed_convolution(torch.bfloat16))


def _normed_convolution(dtype: torch.dtype) -> Callable[[], object]:
    """Work of the UNet's kind."""
    x = torch.ones(1, 320, 32, 32, dtype=dtype)
    w = torch.ones(320, 320, 3, 3, dtype=dtype)
    return lambda: torch.nn.functional.group_norm(torch.nn.functional.conv2d(x, w, padding=1), 32)
