"""The state of a training: vectors, optimizer, loss scale, step and settings. One file, so that saving it is one rename."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from lib_ti.formats.safetensors_tensors import safetensors_bytes
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.optimization.averaging import VectorAverage
from lib_ti.training.optimization.loss_scaler import LossScaler
from lib_ti.training.optimization.optimizer import create_optimizer
from lib_ti.training.resuming.state_record import DIGEST, RECORD, UNSIGNED, sign
from lib_ti.training.resuming.state_tensors import VALIDATION_LOSSES, read_state
from lib_ti.training.validation.history import ValidationHistory

SMOOTHING = 0.98  # of the displayed loss: an average over about the last fifty steps


@dataclass(frozen=True)
class StatePoint:
    """Everything in a state that a step changes: tensors by the key, and a JSON record, that the state file has them under."""

    tensors: Mapping[str, torch.Tensor]
    record: Mapping[str, Any]

    @property
    def step(self) -> int:
        return int(self.record["step"])


@dataclass
class Recovery:
    """What `health.rollback` has done about numbers that were not finite, and what it needs to do it.

    `points`: earlier states, the oldest first. `rate_factor`: all learning rates are multiplied by it. `failures`: in a row, the
    last of them in the step `failed_step`.
    """

    points: list[StatePoint] = field(default_factory=list)
    rate_factor: float = 1.0
    failures: int = 0
    failed_step: int = 0

    def to_json(self) -> dict[str, Any]:
        """All but the tensors of the points."""
        return {
            "points": [point.record for point in self.points],
            "rate_factor": self.rate_factor,
            "failures": self.failures,
            "failed_step": self.failed_step,
        }


@dataclass
class TrainState:
    """`vectors`: by text encoder, the parameters (n, width) fp32; `initial_vectors`: their values before training.

    `settings`: the run's settings as they are now; recovery from a lack of memory replaces them. `step`: updates made.
    `last_output_step`: the last step whose previews and snapshot are made, or were not due. The vectors of a text encoder
    that is not trained require no gradient. `validations`: the losses on the validation set, and `best_vectors` those of its best
    step, none before the first validation. `warned`: the warnings that are given once. `early_end`: why the training has ended
    before its last planned step; empty if it has not.
    """

    settings: TrainSettings
    vectors: dict[str, torch.nn.Parameter]
    initial_vectors: dict[str, torch.Tensor]
    optimizer: torch.optim.Optimizer
    scaler: LossScaler
    average: VectorAverage
    step: int = 0
    loss_average: float = 0.0  # exponential moving average from zero; `smoothed_loss` corrects its bias
    last_output_step: int = 0
    validations: ValidationHistory = field(default_factory=ValidationHistory)
    best_vectors: dict[str, torch.Tensor] = field(default_factory=dict)
    recovery: Recovery = field(default_factory=Recovery)
    warned: list[str] = field(default_factory=list)
    early_end: str = ""

    @classmethod
    def create(cls, settings: TrainSettings, initial_vectors: Mapping[str, torch.Tensor]) -> TrainState:
        """The state before the first step, with the optimizer over the vectors of `settings.train_encoders`."""
        single = len(initial_vectors) == 1 or settings.train_encoders == "both"
        trained = initial_vectors.keys() if single else {settings.train_encoders}
        vectors = {name: torch.nn.Parameter(value.clone(), name in trained) for name, value in initial_vectors.items()}
        groups = [{"params": [vectors[name]], "encoder": name} for name in vectors if name in trained]
        return cls(
            settings=settings,
            vectors=vectors,
            initial_vectors=dict(initial_vectors),
            optimizer=create_optimizer(groups, settings),
            scaler=LossScaler(settings.precision == "fp16"),
            average=VectorAverage(settings.ema_decay or 0.0),
        )

    @property
    def trainable(self) -> list[torch.nn.Parameter]:
        return [vectors for vectors in self.vectors.values() if vectors.requires_grad]

    @property
    def averaged_vectors(self) -> dict[str, torch.Tensor]:
        """The embedding as it is now: the vectors' moving average, or the vectors themselves without one; by text encoder."""
        return self.average.of(self.vectors)

    @property
    def smoothed_loss(self) -> float:
        return self.loss_average / (1 - SMOOTHING**self.step) if self.step else 0.0

    def record_step(self, loss: float) -> None:
        """Count one step and its loss, after the vectors were updated."""
        self.average.update(self.vectors)
        self.step += 1
        self.loss_average = SMOOTHING * self.loss_average + (1 - SMOOTHING) * loss

    def first_time(self, warning: str) -> bool:
        """Whether a warning of that key has not been given in this run; it counts as given from now on."""
        if warning in self.warned:
            return False
        self.warned.append(warning)
        return True

    @property
    def norm(self) -> float:
        """The vectors' mean L2 norm."""
        return float(torch.cat([v.detach().norm(dim=1) for v in self.vectors.values()]).mean())

    @property
    def similarity(self) -> float:
        """Mean cosine similarity of the trained vectors to their initial values."""
        cosines = [
            torch.cosine_similarity(v.detach(), self.initial_vectors[k], dim=1)
            for k, v in self.vectors.items()
            if v.requires_grad
        ]
        return float(torch.cat(cosines).mean())

    def capture(self) -> StatePoint:
        """A copy of everything that a step changes. Its keys are older than some of the attributes' names."""
        tensors: dict[str, torch.Tensor] = {}
        for name, vectors in self.vectors.items():
            tensors[f"vectors.{name}"] = vectors.detach().clone()
            for key, value in self.optimizer.state.get(vectors, {}).items():
                tensors[f"adam.{name}.{key}"] = value.clone()
        tensors |= {f"average.{name}": total.clone() for name, total in self.average.sums.items()}
        record: dict[str, Any] = {
            "step": self.step,
            "smoothed": self.loss_average,
            "shown": self.last_output_step,
            "scaler": self.scaler.state_dict(),
        }
        if self.average.count:
            record["averaged"] = self.average.count
        if self.validations.losses:
            record["validated"] = sorted(self.validations.losses)
            tensors[VALIDATION_LOSSES] = self.validations.to_tensor()
            tensors |= {f"best.{name}": vectors for name, vectors in self.best_vectors.items()}
        return StatePoint(tensors, record)

    def restore(self, point: StatePoint) -> None:
        """Become what the state was when the point was captured, or stored."""
        tensors, record = point.tensors, point.record
        for name, vectors in self.vectors.items():
            device = vectors.device
            vectors.data.copy_(tensors[f"vectors.{name}"])
            adam = {k.rpartition(".")[2]: v for k, v in tensors.items() if k.startswith(f"adam.{name}.")}
            self.optimizer.state.pop(vectors, None)
            if adam:
                moved = {key: value.to(device if value.ndim else "cpu").clone() for key, value in adam.items()}
                self.optimizer.state[vectors] = moved
        self.optimizer.zero_grad(set_to_none=True)
        self.step, self.loss_average = record["step"], record["smoothed"]
        self.last_output_step = record["shown"]
        self.scaler.load_state_dict(record["scaler"])
        self.average.count = record.get("averaged", 0)
        self.average.sums = {
            name: tensors[key].to(vectors.device).clone()
            for name, vectors in self.vectors.items()
            if (key := f"average.{name}") in tensors
        }
        self.validations, self.best_vectors = replace(self.validations, losses={}), {}
        if validated := record.get("validated"):
            self.validations = self.validations.replaced(validated, tensors[VALIDATION_LOSSES])
            self.best_vectors = {
                name: tensors[key].to(vectors.device)
                for name, vectors in self.vectors.items()
                if (key := f"best.{name}") in tensors
            }

    def to_bytes(self) -> bytes:
        """A safetensors file, with a checksum."""
        now = self.capture()
        tensors = {**now.tensors, **{f"start.{name}": vectors for name, vectors in self.initial_vectors.items()}}
        record: dict[str, Any] = dict(now.record)
        for i, point in enumerate(self.recovery.points):
            tensors |= {f"point{i}.{key}": value for key, value in point.tensors.items()}
        if self.recovery != Recovery():
            record["recovery"] = self.recovery.to_json()
        if self.warned:
            record["warned"] = self.warned
        if self.early_end:
            record["early_end"] = self.early_end
        return sign(safetensors_bytes(tensors, {RECORD: json.dumps(record, allow_nan=False), DIGEST: UNSIGNED}))

    def load(self, path: Path) -> None:
        """Replace everything but the settings by a saved state, in place. Raises UnusableFile, and is unchanged then."""
        tensors, record = read_state(path, self.vectors)
        self.restore(StatePoint(tensors, record))
        for name, vectors in self.vectors.items():
            self.initial_vectors[name] = tensors[f"start.{name}"].to(vectors.device)
        recovery = dict(record.get("recovery", {}))
        points = [
            StatePoint(
                {k.removeprefix(f"point{i}."): v for k, v in tensors.items() if k.startswith(f"point{i}.")}, stored
            )
            for i, stored in enumerate(recovery.pop("points", []))
        ]
        self.recovery = Recovery(points, **recovery)
        self.warned, self.early_end = list(record.get("warned", [])), record.get("early_end", "")
