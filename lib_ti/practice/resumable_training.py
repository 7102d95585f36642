"""A training loop that can be interrupted, for making the practice model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch


class ResumableTraining:
    """Iterate for (step, numpy generator) and call `step(loss)` in each iteration; the state is saved every 100 steps.

    AdamW, 100 warmup steps, linear decay to zero, gradients clipped to norm 1, exponential moving average of the weights.
    """

    def __init__(
        self,
        path: Path,
        models: dict[str, torch.nn.Module],
        steps: int,
        learning_rate: float,
        ema_decay: float,
        device: torch.device,
    ) -> None:
        """`path`: the state file, which is resumed from if it exists. `models`: trained together, by name, on `device`."""
        self.path, self.models, self.steps, self.ema_decay = path, models, steps, ema_decay
        for model in models.values():
            model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.names = [(m, n) for m, model in models.items() for n, p in model.named_parameters() if p.requires_grad]
        self.parameters = [models[m].get_parameter(n) for m, n in self.names]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, weight_decay=0.01, fused=True)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min((step + 1) / 100, max(0.0, 1 - step / steps))
        )
        self.ema = [p.detach().clone() for p in self.parameters]
        self.done, self._losses = 0, [torch.zeros(())]
        if path.exists():
            self._load()

    def __iter__(self) -> Iterator[tuple[int, np.random.Generator]]:
        start_time, start_step = time.monotonic(), self.done
        while self.done < self.steps:
            torch.manual_seed(self.done)
            yield self.done, np.random.default_rng(self.done)
            if self.done % 100 == 0 or self.done == self.steps:
                self._save()
                step_s = (time.monotonic() - start_time) / (self.done - start_step)
                recent_loss = float(torch.stack([loss.cpu() for loss in self._losses[-100:]]).mean())
                print(
                    f"{self.path.stem} {self.done}/{self.steps} loss {recent_loss:.4f} {step_s:.2f} s/step", flush=True
                )

    def step(self, loss: torch.Tensor) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        decay = min(self.ema_decay, (1 + self.done) / (10 + self.done))
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)
        self._losses.append(loss.detach())
        self.done += 1

    def _save(self) -> None:
        averages: dict[str, dict[str, torch.Tensor]] = {m: {} for m in self.models}
        for (m, n), value in zip(self.names, self.ema, strict=True):
            averages[m][n] = value.cpu()
        state = {
            "done": self.done,
            "averages": averages,
            "models": {m: dict(model.named_parameters()) for m, model in self.models.items()},
            "optimizer": self.optimizer.state_dict(),
            "schedule": {"last_epoch": self.scheduler.last_epoch},
        }
        save(self.path, lambda path: torch.save(state, path))

    def _load(self) -> None:
        state = torch.load(self.path, weights_only=True, map_location=self.ema[0].device)
        self.done = state["done"]
        for m, model in self.models.items():
            model.load_state_dict(state["models"][m], strict=False)
        self.ema = [value for m in self.models for value in state["averages"][m].values()]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.last_epoch = state["schedule"]["last_epoch"]


def ema_weights(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The averaged weights of a finished training, by model."""
    averages: dict[str, dict[str, torch.Tensor]] = torch.load(path, weights_only=True)["averages"]
    return averages


def save(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path that then replaces `path`. Its suffix is kept, for writers such as `np.save`."""
    temporary = path.with_name(f"part-{path.name}")
    write(temporary)
    temporary.replace(path)
