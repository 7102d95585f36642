"""What a person sees of a training in a terminal."""

from __future__ import annotations

from typing import Any

from lib_ti.runs.events import Event
from lib_ti.settings.train_settings import MEMORY_MODES


class Progress:
    """A bar with loss and time left; every other event is a line above it."""

    def __init__(self) -> None:
        self._bar: Any = None

    def watch(self, event: Event) -> None:
        data = event.data
        if event.kind == "step":
            self._step(data)
        elif event.kind == "loading":
            self._say(f"Loading {data['checkpoint']}")
        elif event.kind == "memory":
            self._memory(data)
        elif event.kind == "encoding":
            self._advance(data["done"], data["images"], "picture")
            if data["done"] == data["images"]:
                self.close()
        elif event.kind == "preview":
            self._say(f"Preview at step {data['step']}: {data['file']}")
        elif event.kind == "warning":
            self._say(f"Note: {data['message']}")
        elif event.kind == "finished":
            self.close()
            self._say(f"Finished. The embedding is {data['file']}")
        elif event.kind == "stopped":
            self.close()
            self._say(f"Stopped at step {data['step']}. Nothing is lost: the run can be resumed.")

    def _step(self, data: dict[str, Any]) -> None:
        self._advance(data["step"], data["steps"], "step")
        self._bar.set_postfix_str(
            f"loss {data['smoothed_loss']:.4f}, rate {data['learning_rate']:.2g}, norm {data['norm']:.2f}",
            refresh=False,
        )

    def _memory(self, data: dict[str, Any]) -> None:
        if "needed_mb" in data:
            needed, free = (f"{data[name] / 1024:.1f}" for name in ("needed_mb", "free_mb"))
            self._say(f"Memory mode: {data['mode']}, which needs about {needed} of {free} GB that are free")
        elif data["mode"] != MEMORY_MODES[0]:
            self._say(f"Memory mode: {data['mode']}")

    def _advance(self, done: int, total: int, unit: str) -> None:
        from tqdm import tqdm  # here, so that `doctor` can say that it is missing

        if self._bar is None:
            self._bar = tqdm(total=total, initial=done - 1, unit=unit, dynamic_ncols=True)
        self._bar.update(done - self._bar.n)

    def _say(self, line: str) -> None:
        from tqdm import tqdm

        tqdm.write(line)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
