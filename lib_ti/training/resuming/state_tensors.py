"""The tensors in a saved state: read, and checked against the vectors of the training that is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lib_ti.errors import UnusableFile
from lib_ti.formats.safetensors_tensors import read_tensors
from lib_ti.training.resuming.state_record import read_state_record

VALIDATION_LOSSES = "validation.losses"


def read_state(path: Path, vectors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the record of a saved state that fits `vectors` (n, width), by text encoder. Raises UnusableFile."""
    record = read_state_record(path)
    tensors = read_tensors(path)
    points: list[Mapping[str, Any]] = record.get("recovery", {}).get("points", [])
    prefixes = [("", record), *((f"point{i}.", point) for i, point in enumerate(points))]
    for name, value in vectors.items():
        reason = _tensor_problem(tensors, f"start.{name}", value, required=True)
        for prefix, point in prefixes:
            reason = reason or _point_problem(tensors, prefix, point, name, value)
        if reason:
            raise UnusableFile(path, f"the saved state is damaged: {reason}")
    return tensors, record


def _point_problem(
    tensors: Mapping[str, torch.Tensor], prefix: str, record: Mapping[str, Any], name: str, vectors: torch.Tensor
) -> str:
    """What is impossible in the tensors of one point; empty if nothing is."""
    keys = [(f"{prefix}vectors.{name}", True), (f"{prefix}average.{name}", False), (f"{prefix}best.{name}", False)]
    keys += [(key, False) for key in tensors if key.startswith(f"{prefix}adam.{name}.")]
    for key, required in keys:
        if reason := _tensor_problem(tensors, key, vectors, required):
            return reason
    if "validated" in record:
        losses = tensors.get(f"{prefix}{VALIDATION_LOSSES}")
        if losses is None or losses.ndim != 2 or len(losses) != len(record["validated"]) or losses.isinf().any():
            return "its validation losses do not fit its validated steps"
    return ""


def _tensor_problem(tensors: Mapping[str, torch.Tensor], key: str, vectors: torch.Tensor, required: bool) -> str:
    """What is wrong with a tensor that is as large as the vectors, or a single number of the optimizer."""
    value = tensors.get(key)
    if value is None:
        return f"it has no {key}" if required else ""
    is_number = value.ndim == 0 and ".adam." in f".{key}"
    if value.shape != vectors.shape and not is_number:
        return f"{key} is {tuple(value.shape)}, but {tuple(vectors.shape)} was expected"
    if not value.is_floating_point() or not bool(value.isfinite().all()):
        return f"{key} holds what is not a number"
    return f"{key} is negative" if key.endswith((".exp_avg_sq", ".step")) and bool((value < 0).any()) else ""
