"""How the timestep of a training sample is drawn."""

from __future__ import annotations

import torch


def sample_timestep(sampling: str, num_timesteps: int, generator: torch.Generator) -> int:
    """A timestep in 0 .. num_timesteps - 1.

    "uniform", or "logit-normal": the sigmoid of a normal variable (Esser et al., "Scaling Rectified Flow Transformers", 2024,
    section 3.1), which favours the middle, where most is decided that a prompt can say.
    """
    if sampling == "uniform":
        return int(torch.randint(0, num_timesteps, (), generator=generator))
    fraction = torch.sigmoid(torch.randn((), generator=generator))
    return min(num_timesteps - 1, int(fraction * num_timesteps))
