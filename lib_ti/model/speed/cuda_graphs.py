"""Run a network on a GPU as CUDA graphs: one launch for all kernels instead of one for each.

With one image at a time a large GPU waits for the CPU, which launches some thousand kernels per step. A graph contains them
all, forward and backward. Its tensors have fixed addresses, so there is one graph per input shape; graphs share a memory pool,
as only one runs at a time.
"""

from __future__ import annotations

import gc
import inspect
import logging
from collections.abc import Callable
from typing import Any, cast

import torch

log = logging.getLogger("lib_ti")

MAX_GRAPHS = 8  # further input shapes run without one
TOLERANCE = 0.02  # relative difference of predictions and gradients that bf16 rounding explains

Function = Callable[..., torch.Tensor]
Tensors = tuple[torch.Tensor, ...]
Capture = Callable[[Function, Tensors], Function]
Key = tuple[Any, ...]


class GraphedCallable:
    """`function`, run as CUDA graphs where gradients are required. `new_capture` starts a set of graphs that share memory.

    The first call with a new shape runs without a graph, so that a training's first step does not wait for one; the second
    captures the graph and compares its results. If the capture fails or the results differ, all calls run without graphs from
    then on, and `failure` gives the reason.
    """

    def __init__(self, function: Function, new_capture: Callable[[], Capture] | None = None) -> None:
        self._function, self._new_capture = function, new_capture or _TorchCapture
        self._capture = self._new_capture()
        self._graphs: dict[Key, Function] = {}
        self._seen: set[Key] = set()
        self._verified: set[Key] = set()
        self.failure = ""

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        if self.failure or not torch.is_grad_enabled() or not any(x.requires_grad for x in inputs):
            return self._function(*inputs)
        key = tuple((x.shape, x.dtype, x.requires_grad) for x in inputs)
        if key in self._seen and key not in self._graphs and len(self._graphs) < MAX_GRAPHS:
            self._add_graph(key, inputs)
        self._seen.add(key)
        return self._graphs.get(key, self._function)(*inputs)

    def release(self) -> bool:
        """Free the graphs' memory, which nothing else can use; they are captured again when needed. Whether there were any."""
        if not self._graphs:
            return False
        self._graphs.clear()
        self._capture = self._new_capture()
        gc.collect()  # make_graphed_callables keeps a graph in a class, and classes are reference cycles
        return True

    def _add_graph(self, key: Key, inputs: Tensors) -> None:
        samples = _detached_copies(inputs)  # the capture must not run into the graph that produced the inputs
        try:
            # before the capture, so that this run's memory is free when the graph allocates its own
            expected = None if key in self._verified else _output_and_gradients(self._function, inputs)
            graph = self._capture(self._function, samples)
            difference = _max_difference(_output_and_gradients(graph, inputs), expected) if expected else 0.0
        except torch.cuda.OutOfMemoryError:
            self._disable("there is no memory for them")
            raise
        except RuntimeError as error:
            log.warning("CUDA graphs cannot be used here", exc_info=error)
            self._disable(str(error).splitlines()[0] if str(error) else "they cannot be made")
        else:
            if difference < TOLERANCE:
                self._graphs[key] = graph
                self._verified.add(key)
            else:
                self._disable(f"their numbers differ by {difference:.2g}")

    def _disable(self, reason: str) -> None:
        self.failure = reason
        self._graphs.clear()


class _TorchCapture:
    """torch's own capture; the graphs of one instance share a memory pool where this torch supports that."""

    def __init__(self) -> None:
        self._pool: dict[str, Any] = {}

    def __call__(self, function: Function, samples: Tensors) -> Function:
        make = torch.cuda.make_graphed_callables
        if not self._pool and "pool" in inspect.signature(make).parameters:
            self._pool = {"pool": torch.cuda.graph_pool_handle()}
        torch.cuda.empty_cache()  # the warm-up runs on another stream, which cannot use this stream's cached blocks
        stream = torch.cuda.current_stream()  # a failed capture does not restore it
        with torch.cuda.stream(stream):
            graph: Any = make(function, samples, num_warmup_iters=1, allow_unused_input=True, **self._pool)
        return cast(Function, graph)


def _detached_copies(inputs: Tensors) -> Tensors:
    return tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in inputs)


def _output_and_gradients(function: Function, inputs: Tensors) -> list[torch.Tensor]:
    """The output, and the gradients of its sum in those inputs that require them."""
    copies = _detached_copies(inputs)
    output = function(*copies)
    differentiable = [x for x in copies if x.requires_grad]
    gradients = torch.autograd.grad(output, differentiable, torch.ones_like(output), allow_unused=True)
    # cloned, because a graph's next launch overwrites its results
    return [output.detach().clone(), *(g.clone() for g in gradients if g is not None)]


def _max_difference(results: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest relative difference (in the 2-norm) between corresponding tensors."""
    return max(
        float((a.float() - b.float()).norm() / b.float().norm().clamp(min=1e-12))
        for a, b in zip(results, expected, strict=True)
    )
