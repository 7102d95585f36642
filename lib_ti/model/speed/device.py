"""Choose the device, the precision and the acceleration of a training."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lib_ti.model.speed.prepacked_conv import can_prepack, prepacked_speedup
from lib_ti.model.speed.timing import speedup
from lib_ti.settings.validation import validate_device

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MIN_BF16_SPEEDUP = 1.15  # of one convolution; not 1, as timings vary with other load on the machine
MIN_PREPACKED_RESOLUTION = 256
"""Pixels; of smaller images the deepest feature maps are below 4×4, where prepacked convolutions can take 50 times as long."""
MIN_PREPACKED_SPEEDUP = 1.3  # of one convolution; a whole step gains less than half of it
LARGE_UNET = 100_000_000  # parameters; with fewer, convolutions are not what takes a CPU's time, and fp32 is more exact


def choose_device(requested: str) -> torch.device:
    """The device that `requested` (auto, cpu, cuda, cuda:N) names. Raises ValueError with a sentence if there is none."""
    validate_device(requested)
    if requested == "cpu" or (requested == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("there is no CUDA device that torch can use; use --device cpu, or install torch for your card")
    index = int(requested.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise ValueError(
            f"{requested} is not there; this machine has {torch.cuda.device_count()} CUDA device(s), from cuda:0 on"
        )
    return torch.device("cuda", index)


def unused_gpu() -> str:
    """The kind of GPU, other than CUDA's, that this machine has and that "auto" does not use; empty if there is none."""
    if torch.cuda.is_available():
        return ""
    if torch.backends.mps.is_available():
        return "this Mac's GPU (MPS)"
    xpu = getattr(torch, "xpu", None)  # torch 2.3 and later have it
    return "this Intel GPU (XPU)" if xpu is not None and xpu.is_available() else ""


def choose_precision(requested: str, device: torch.device, unet_parameters: int) -> str:
    """The precision (fp32, bf16, fp16) for a UNet of that size; "auto" depends on what the device is fast at.

    Raises ValueError with a sentence if the device does not support the requested one.
    """
    if device.type == "cuda":
        native_bf16 = torch.cuda.get_device_capability(device)[0] >= 8 or bool(torch.version.hip)
        if requested == "auto":
            return "bf16" if native_bf16 else "fp16"
        if requested == "bf16" and not native_bf16:
            raise ValueError("this card does not do bf16; use fp16 or fp32")
        return requested
    if requested == "auto":
        return "bf16" if unet_parameters >= LARGE_UNET and _bf16_speedup() > MIN_BF16_SPEEDUP else "fp32"
    if requested == "fp16" and not _supports(torch.float16):
        raise ValueError("this torch does not do fp16 on a CPU; use bf16 or fp32")
    return requested


def choose_acceleration(
    requested: str, device: torch.device, precision: str, unet_parameters: int, resolution: int = 512
) -> str:
    """The acceleration (graphs, arranged, none) for a UNet of that size; "auto" depends on what the device gains by.

    Raises ValueError with a sentence if the device does not support the requested one.
    """
    if device.type == "cuda":
        if requested == "arranged":
            raise ValueError("arranged is for a CPU; use graphs or none on a card")
        return "graphs" if requested == "auto" else requested
    if requested == "graphs":
        raise ValueError("graphs are for a card; use arranged or none on a CPU")
    dtype = DTYPES[precision]
    if requested == "arranged" and not can_prepack(dtype):
        raise ValueError(f"this torch does not do it in {precision} on this processor; use none")
    if requested != "auto":
        return requested
    if unet_parameters < LARGE_UNET or resolution < MIN_PREPACKED_RESOLUTION:
        return "none"
    worthwhile = can_prepack(dtype) and prepacked_speedup(dtype) > MIN_PREPACKED_SPEEDUP
    return "arranged" if worthwhile else "none"


def disable_broken_flash_attention(device: torch.device, precision: str) -> None:
    """Disable fused attention where its backward pass is broken: in bf16 on a CPU, torch 2.1 writes out of bounds.

    The process crashes some moments later. torch 2.3 is fixed; 2.2 has not been tested.
    """
    release = tuple(int(number) for number in torch.__version__.split(".")[:2])
    if device.type == "cpu" and precision == "bf16" and release < (2, 3):
        torch.backends.cuda.enable_flash_sdp(False)  # despite its name, it governs the CPU's kernel, too


def _supports(dtype: torch.dtype) -> bool:
    """Whether a CPU computes convolutions and group norms in `dtype`."""
    try:
        _conv_and_norm(dtype)()
    except RuntimeError:
        return False
    return True


def _bf16_speedup() -> float:
    """How many times as fast a CPU is in bf16 as in fp32."""
    return speedup(_conv_and_norm(torch.float32), _conv_and_norm(torch.bfloat16))


def _conv_and_norm(dtype: torch.dtype) -> Callable[[], object]:
    """A small computation that is typical of a UNet."""
    x = torch.ones(1, 320, 32, 32, dtype=dtype)
    w = torch.ones(320, 320, 3, 3, dtype=dtype)
    return lambda: torch.nn.functional.group_norm(torch.nn.functional.conv2d(x, w, padding=1), 32)
