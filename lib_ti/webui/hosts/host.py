"""What the trainer needs from the WebUI that it lives in, and what it has to hand back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class CheckpointChoice:
    """A checkpoint as the host lists it: `title` is what its dropdown shows."""

    title: str
    path: Path


class TryLock(Protocol):
    """The host's queue lock: whoever holds it generates."""

    def acquire(self, blocking: bool = ...) -> bool: ...
    def release(self) -> None: ...


class Host(Protocol):
    """One WebUI. Called from several threads; every method is quick unless it says otherwise."""

    title: str
    """Its name for users: "AUTOMATIC1111", "Forge", "standalone"."""

    lock: TryLock

    @property
    def hides_paths(self) -> bool:
        """Whether the server's folders are none of the browser's business (`--hide-ui-dir-config`)."""
        ...

    @property
    def embeddings(self) -> Path: ...
    @property
    def runs(self) -> Path:
        """The folder that holds all runs: `<data path>/textual_inversion`, or what the settings say."""
        ...

    @property
    def keeps_snapshots(self) -> bool: ...
    @property
    def keeps_pictures(self) -> bool:
        """Whether a finished run keeps its copies of the user's pictures."""
        ...

    def selected(self) -> CheckpointChoice | None:
        """The checkpoint chosen for generating, without loading it. None where there is none."""
        ...

    def vae(self) -> Path | None:
        """The VAE that replaces the checkpoint's own when generating."""
        ...

    def device(self) -> str:
        """Where the host computes, in the trainer's terms: "auto", "cpu", "cuda:0"."""
        ...

    def precision(self) -> str:
        """What the host computes in: "auto", or "fp32" where it was told not to use half precision."""
        ...

    def lent(self, name: str) -> AbstractContextManager[Callable[[], bool]]:
        """The device without the host's model on it, for as long as the context lasts; called with `lock` held.

        Gives a function that says whether the user pressed the host's Interrupt since. `name`: the word in training.
        Whatever happens in it, the model comes back.
        """
        ...

    def embeddings_changed(self, names: Sequence[str]) -> None:
        """Make the host read its embeddings again and forget what it encoded with `names`; called with `lock` held."""
        ...


@contextmanager
def holding(lock: TryLock, cancelled: Callable[[], bool], pause_s: float = 0.2) -> Iterator[bool]:
    """The lock, taken by trying, so that waiting can be cancelled; gives False if it was."""
    wait = threading.Event()
    held = lock.acquire(blocking=False)
    while not held and not cancelled():
        wait.wait(pause_s)
        held = lock.acquire(blocking=False)
    try:
        yield held
    finally:
        if held:
            lock.release()
