"""All that a training needs to go on: vectors, optimizer, step. One file, so that saving it is one rename."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lib_ti.formats.safetensors_header import read_safetensors_header
from lib_ti.formats.safetensors_tensors import read_tensors, safetensors_bytes

SMOOTHING = 0.98  # of the loss that people look at: about the last fifty steps


@dataclass
class TrainState:
    """`vectors`: by text encoder, the parameters (n, width) fp32; `start`: what they were. `step`: updates made.

    The vectors of a text encoder that is not trained ask for no gradient.
    """

    vectors: dict[str, torch.nn.Parameter]
    start: dict[str, torch.Tensor]
    optimizer: torch.optim.Optimizer
    scaler: LossScaler
    step: int = 0
    smoothed: float = 0.0  # a running sum; `smoothed_loss` corrects its start
    shown: int = 0  # the last step whose previews and snapshot are made, or were not due

    @classmethod
    def begin(
        cls,
        start: Mapping[str, torch.Tensor],
        weight_decay: float,
        scaler: LossScaler,
        trained: Collection[str] | None = None,
    ) -> TrainState:
        """`trained`: the text encoders whose vectors are; None: all."""
        chosen = start.keys() if trained is None else trained
        vectors = {name: torch.nn.Parameter(value.clone(), name in chosen) for name, value in start.items()}
        groups = [{"params": [vectors[name]], "encoder": name} for name in vectors if name in chosen]
        optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, foreach=False)
        return cls(vectors, dict(start), optimizer, scaler)

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        return [vectors for vectors in self.vectors.values() if vectors.requires_grad]

    @property
    def smoothed_loss(self) -> float:
        return self.smoothed / (1 - SMOOTHING**self.step) if self.step else 0.0

    def observe(self, loss: float) -> None:
        """Count one step and its loss."""
        self.step += 1
        self.smoothed = SMOOTHING * self.smoothed + (1 - SMOOTHING) * loss

    @property
    def norm(self) -> float:
        """The vectors' mean length."""
        return float(torch.cat([v.detach().norm(dim=1) for v in self.vectors.values()]).mean())

    @property
    def similarity(self) -> float:
        """Mean cosine to where the vectors started, of those that are trained."""
        cosines = [
            torch.cosine_similarity(v.detach(), self.start[k], dim=1)
            for k, v in self.vectors.items()
            if v.requires_grad
        ]
        return float(torch.cat(cosines).mean())

    def to_bytes(self) -> bytes:
        tensors: dict[str, torch.Tensor] = {}
        for name, vectors in self.vectors.items():
            tensors[f"vectors.{name}"] = vectors
            tensors[f"start.{name}"] = self.start[name]
            for key, value in self.optimizer.state.get(vectors, {}).items():
                tensors[f"adam.{name}.{key}"] = value
        record = {"step": self.step, "smoothed": self.smoothed, "shown": self.shown, "scaler": self.scaler.to_json()}
        return safetensors_bytes(tensors, {"state": json.dumps(record)})

    def restore(self, path: Path) -> None:
        """Take over a saved state in place."""
        tensors = read_tensors(path)
        record: dict[str, Any] = json.loads(read_safetensors_header(path).metadata["state"])
        for name, vectors in self.vectors.items():
            device = vectors.device
            vectors.data.copy_(tensors[f"vectors.{name}"])
            self.start[name] = tensors[f"start.{name}"].to(device)
            moments = {k.rpartition(".")[2]: v for k, v in tensors.items() if k.startswith(f"adam.{name}.")}
            if moments:
                self.optimizer.state[vectors] = {k: v if k == "step" else v.to(device) for k, v in moments.items()}
        self.step, self.smoothed, self.shown = record["step"], record["smoothed"], record["shown"]
        self.scaler.restore(record["scaler"])


@dataclass
class LossScaler:
    """Keeps fp16 gradients in range: the loss is multiplied by `scale`, halved on overflow, doubled after a quiet while.

    With bf16 and fp32 it does nothing (`active` false, scale 1).
    """

    active: bool
    scale: float = field(default=1.0)
    quiet: int = 0  # updates since the last overflow
    overflows: int = 0  # one after another

    GROW_AFTER = 500
    GIVE_UP_AFTER = 30

    def __post_init__(self) -> None:
        if self.active and self.scale == 1.0:
            self.scale = 2.0**14

    def accept(self, parameters: list[torch.nn.Parameter]) -> bool:
        """Unscale the gradients; False if they overflowed and the update must be left out."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not self.active:
            return True
        for gradient in gradients:
            gradient.div_(self.scale)
        if all(bool(torch.isfinite(g).all()) for g in gradients):
            self.quiet, self.overflows = self.quiet + 1, 0
            if self.quiet >= self.GROW_AFTER:
                self.scale, self.quiet = self.scale * 2, 0
            return True
        self.scale, self.quiet, self.overflows = max(1.0, self.scale / 2), 0, self.overflows + 1
        return False

    def to_json(self) -> dict[str, float]:
        return {"scale": self.scale, "quiet": self.quiet, "overflows": self.overflows}

    def restore(self, record: Mapping[str, Any]) -> None:
        self.scale, self.quiet, self.overflows = float(record["scale"]), int(record["quiet"]), int(record["overflows"])
