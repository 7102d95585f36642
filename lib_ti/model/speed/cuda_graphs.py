"""A network's work on a card as CUDA graphs: launched once for all, instead of kernel by kernel.

With one picture at a time a large card waits for the processor, which launches some thousand kernels for each step. A graph
holds them all, forward and backward, and is launched at once. Its tensors have their places for good, so there is one for each
shape of picture; they share their memory, as only one is at work at a time.
"""

from __future__ import annotations

import gc
import inspect
import logging
from collections.abc import Callable
from typing import Any, cast

import torch

log = logging.getLogger("lib_ti")

MOST = 8  # shapes; further ones go kernel by kernel
ALIKE = 0.02  # relative difference of predictions and gradients, which bf16's rounding explains

Compute = Callable[..., torch.Tensor]
Tensors = tuple[torch.Tensor, ...]
Capture = Callable[[Compute, Tensors], Compute]
Key = tuple[Any, ...]


class Graphed:
    """`compute`, by graphs where gradients are wanted. `capturing` begins a set of graphs that may share their memory.

    The first time a shape goes kernel by kernel, so that a training's first step does not wait for a graph; the second time
    one is made and tried out. If it cannot be made or gives other numbers, everything goes kernel by kernel from then on, and
    `failure` says why.
    """

    def __init__(self, compute: Compute, capturing: Callable[[], Capture] | None = None) -> None:
        self._compute, self._capturing = compute, capturing or _Capture
        self._capture = self._capturing()
        self._known: dict[Key, Compute] = {}
        self._met: set[Key] = set()
        self._proven: set[Key] = set()
        self.failure = ""

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        if self.failure or not torch.is_grad_enabled() or not any(x.requires_grad for x in inputs):
            return self._compute(*inputs)
        key = tuple((x.shape, x.dtype, x.requires_grad) for x in inputs)
        if key in self._met and key not in self._known and len(self._known) < MOST:
            self._add(key, inputs)
        self._met.add(key)
        return self._known.get(key, self._compute)(*inputs)

    def rest(self) -> bool:
        """Let go of the graphs' memory, which serves nothing else; they are made again when they are wanted. Whether any were."""
        if not self._known:
            return False
        self._known.clear()
        self._capture = self._capturing()
        gc.collect()  # a graph is held by a class, and classes hold themselves
        return True

    def _add(self, key: Key, inputs: Tensors) -> None:
        samples = _apart(inputs)  # a graph's capture must not reach what lies before them
        try:
            # first, so that what it held is free when the graph takes its own
            wanted = None if key in self._proven else _results(self._compute, inputs)
            graph = self._capture(self._compute, samples)
            difference = _difference(_results(graph, inputs), wanted) if wanted else 0.0
        except torch.cuda.OutOfMemoryError:
            self._give_up("there is no memory for them")
            raise
        except RuntimeError as error:
            log.warning("CUDA graphs cannot be used here", exc_info=error)
            self._give_up(str(error).splitlines()[0] if str(error) else "they cannot be made")
        else:
            if difference < ALIKE:
                self._known[key] = graph
                self._proven.add(key)
            else:
                self._give_up(f"their numbers differ by {difference:.2g}")

    def _give_up(self, why: str) -> None:
        self.failure = why
        self._known.clear()


class _Capture:
    """torch's own capture, for functions that share the memory of their graphs where this torch can."""

    def __init__(self) -> None:
        self._shared: dict[str, Any] = {}

    def __call__(self, compute: Compute, samples: Tensors) -> Compute:
        make = torch.cuda.make_graphed_callables
        if not self._shared and "pool" in inspect.signature(make).parameters:
            self._shared = {"pool": torch.cuda.graph_pool_handle()}
        torch.cuda.empty_cache()  # the trial before a capture cannot use what another stream has reserved
        stream = torch.cuda.current_stream()  # to which a capture that fails does not come back by itself
        with torch.cuda.stream(stream):
            graph: Any = make(compute, samples, num_warmup_iters=1, allow_unused_input=True, **self._shared)
        return cast(Compute, graph)


def _apart(inputs: Tensors) -> Tensors:
    """Copies that know nothing of how the inputs came about."""
    return tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in inputs)


def _results(compute: Compute, inputs: Tensors) -> list[torch.Tensor]:
    """A prediction, and its sum's gradients in those inputs that ask for them."""
    own = _apart(inputs)
    found = compute(*own)
    asking = [x for x in own if x.requires_grad]
    gradients = torch.autograd.grad(found, asking, torch.ones_like(found), allow_unused=True)
    # a graph's results are overwritten by its next launch
    return [found.detach().clone(), *(g.clone() for g in gradients if g is not None)]


def _difference(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    """The largest relative difference between two ways' results."""
    return max(
        float((a.float() - b.float()).norm() / b.float().norm().clamp(min=1e-12))
        for a, b in zip(found, wanted, strict=True)
    )
