"""Show a training's events in a terminal: a progress bar, and lines above it."""

from __future__ import annotations

from typing import Any

from lib_ti.runs.events import Event
from lib_ti.settings.train_settings import MEMORY_MODES


class Progress:
    """A bar with loss and remaining time for steps; every other event is printed as a line."""

    def __init__(self) -> None:
        self._bar: Any = None

    def handle(self, event: Event) -> None:
        data = event.data
        if event.kind == "step":
            self._show_step(data)
        elif event.kind == "loading":
            self._print(f"Loading {data['checkpoint']}")
        elif event.kind == "memory":
            self._print_memory(data)
        elif event.kind == "encoding":
            self._update_bar(data["done"], data["images"], "picture")
            if data["done"] == data["images"]:
                self.close()
        elif event.kind == "searching":
            self._update_bar(data["done"], data["total"], "word")
            if data["done"] == data["total"]:
                self.close()
        elif event.kind == "start":
            self._print(f"Starts from: {data['words']}")
        elif event.kind == "preview":
            self._print(f"Preview at step {data['step']}: {data['file']}")
        elif event.kind == "test":
            self._print(f"Test picture, {data['label']}: {data['file']}")
        elif event.kind == "report":
            self._print(f"Report: {data['file']}")
        elif event.kind == "warning":
            self._print(f"Note: {data['message']}")
        elif event.kind == "validation" and data["step"]:
            self._print(f"Validation at step {data['step']}: loss {data['loss']:.4f} ({data['change']:+.4f})")
        elif event.kind == "best":
            self.close()
            self._print(f"The best step is {data['step']}: {data['reason']}.")
        elif event.kind == "finished":
            self.close()
            if data.get("reason"):
                self._print(f"{data['reason'][:1].upper()}{data['reason'][1:]}.")
            self._print(f"Finished. The embedding is {data['file']}")
        elif event.kind == "stopped":
            self.close()
            self._print(f"Stopped at step {data['step']}. Nothing is lost: the run can be resumed.")

    def _show_step(self, data: dict[str, Any]) -> None:
        self._update_bar(data["step"], data["steps"], "step")
        self._bar.set_postfix_str(
            f"loss {data['smoothed_loss']:.4f}, rate {data['learning_rate']:.2g}, norm {data['norm']:.2f}",
            refresh=False,
        )

    def _print_memory(self, data: dict[str, Any]) -> None:
        if "needed_mb" in data:
            needed, free = (f"{data[name] / 1024:.1f}" for name in ("needed_mb", "free_mb"))
            self._print(f"Memory mode: {data['mode']}, which needs about {needed} of {free} GB that are free")
        elif data["mode"] != MEMORY_MODES[0]:
            self._print(f"Memory mode: {data['mode']}")

    def _update_bar(self, done: int, total: int, unit: str) -> None:
        from tqdm import tqdm  # imported late, so that `doctor` works without it

        if self._bar is None:
            self._bar = tqdm(total=total, initial=done - 1, unit=unit, dynamic_ncols=True)
        self._bar.update(done - self._bar.n)

    def _print(self, line: str) -> None:
        from tqdm import tqdm

        tqdm.write(line)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
