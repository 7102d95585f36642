"""The interface to the WebUI that the extension runs in: what is asked of it, and what it is given back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class CheckpointChoice:
    """A checkpoint in the host's list; `title` is its label in the host's dropdown."""

    title: str
    path: Path


class TryLock(Protocol):
    """A lock that can be acquired without waiting."""

    def acquire(self, blocking: bool = ...) -> bool: ...
    def release(self) -> None: ...


class Host(Protocol):
    """A WebUI. Called from several threads; every method returns quickly unless it says otherwise."""

    title: str
    """Its name for users: "AUTOMATIC1111", "Forge", "standalone"."""

    lock: TryLock
    """Held by whoever generates or trains."""

    @property
    def hides_paths(self) -> bool:
        """Whether the browser must not see or name folders of the server (`--hide-ui-dir-config`)."""
        ...

    @property
    def embeddings_dir(self) -> Path: ...
    @property
    def runs_dir(self) -> Path:
        """The folder that holds all runs: `<data path>/textual_inversion`, unless the host's settings name another."""
        ...

    @property
    def keep_snapshots(self) -> bool:
        """Whether a finished run keeps its snapshots."""
        ...

    @property
    def keep_images(self) -> bool:
        """Whether a finished run keeps its copies of the user's images."""
        ...

    def selected_checkpoint(self) -> CheckpointChoice | None:
        """The checkpoint selected for generating, without loading it. None if there is none."""
        ...

    def selected_vae(self) -> Path | None:
        """The VAE that replaces the checkpoint's own when generating."""
        ...

    def device(self) -> str:
        """The device the host computes on, as the setting `device` has it: "auto", "cpu", "cuda:0"."""
        ...

    def precision(self) -> str:
        """The host's precision: "auto", or "fp32" if it was started without half precision."""
        ...

    def clip_skip(self) -> int:
        """The text encoder's layer that the host generates with, counted from the last, which is 1."""
        ...

    def captioners(self) -> Mapping[str, str]:
        """The host's models that describe pictures: titles by name."""
        ...

    def captioner(self, name: str) -> AbstractContextManager[Callable[[Any], str]]:
        """A context with one of them loaded, whose value describes a PIL image; entered with `lock` held."""
        ...

    def gpu_lent(self, name: str) -> AbstractContextManager[Callable[[], bool]]:
        """A context in which the host's model is off the GPU; entered with `lock` held. `name` is the placeholder in training.

        The context's value is a function that says whether the user has pressed the host's Interrupt since. The model returns
        to the GPU however the context ends.
        """
        ...

    def reload_embeddings(self, names: Sequence[str]) -> None:
        """Make the host read its embeddings again and drop its cached encodings of `names`; called with `lock` held."""
        ...


@contextmanager
def acquired(lock: TryLock, cancelled: Callable[[], bool], poll_interval_s: float = 0.2) -> Iterator[bool]:
    """Acquire the lock by polling, so that waiting can be cancelled; the context's value is False if it was."""
    timer = threading.Event()
    is_acquired = lock.acquire(blocking=False)
    while not is_acquired and not cancelled():
        timer.wait(poll_interval_s)
        is_acquired = lock.acquire(blocking=False)
    try:
        yield is_acquired
    finally:
        if is_acquired:
            lock.release()
