"""The run folder: the only truth about a training.

settings.json                       the settings, with every "auto" resolved; written first, together with the folder
auto.json                           the names of the options that were "auto" when the run was requested
images/0000.png, .txt, .mask.png    the run's own copies of the images, without metadata; complete or absent
images/repeats.json                 how often each is used, where not all alike
contrast/0000.png                   likewise, of `contrast_images`
inputs.json                         sizes and hashes of what is trained on, compared when the run is resumed
templates.txt  start.safetensors    the prompt templates; the embedding that training starts from, if any
events.jsonl                        the event log
previews/STEP-PROMPT-SEED.png  snapshots/STEP.safetensors
tests/PROMPT.png                    pictures of the finished embedding
state.safetensors                   the state that training resumes from
state.previous.safetensors          the state before it, in case that one is damaged
log.txt                             tracebacks, for bug reports
latents.cache                       encoded images that do not fit into memory, while training
embedding.safetensors               the result
report.html                         what came of it, for people
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_ti import __version__, files
from lib_ti.errors import BadInput, UnusableFile
from lib_ti.runs.events import TERMINAL_KINDS, RunHistory, read_events
from lib_ti.runs.lock import RunLock, is_held
from lib_ti.settings.parsing import settings_from_json
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.resuming.state_record import read_state_record

_NO_STATE = "start a new training, from one of this run's snapshots if you like (--init-embedding)"


@dataclass(frozen=True)
class RunFolder:
    """The paths and stored values of one run."""

    path: Path

    @classmethod
    def create(cls, settings: TrainSettings, contents: Mapping[str, bytes]) -> RunFolder:
        """Create `RUNS_DIR/NAME/<date-time>/` with its settings and `contents` (data by file name), in one rename."""
        parent = settings.runs_dir.absolute() / settings.name
        parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".", dir=parent))
        part.chmod(0o755)  # mkdtemp's mode excludes other users, and the WebUI may run as one
        try:
            cls(part).store_settings(_with_absolute_paths(settings))
            for name, data in contents.items():
                with files.naming(part / name):
                    (part / name).write_bytes(data)
            files.sync_tree(part)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        timestamp, number = time.strftime("%Y-%m-%dT%H-%M-%S"), 1
        while True:
            target = parent / (timestamp if number == 1 else f"{timestamp}-{number}")
            if not target.exists():
                part.rename(target)
                files.sync_folder(parent)
                return cls(target)
            number += 1

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open an existing run. Raises UnusableFile if `path` is not a run folder."""
        if not (path / "settings.json").is_file():
            raise UnusableFile(path, "this is not a run folder: it has no settings.json")
        return cls(path.absolute())

    @property
    def settings(self) -> TrainSettings:
        """Raises UnusableFile."""
        try:
            return settings_from_json(json.loads((self.path / "settings.json").read_text(encoding="utf-8"))["settings"])
        except BadInput as error:
            raise UnusableFile(self.path / "settings.json", "; ".join(map(str, error.problems))) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UnusableFile(self.path / "settings.json", f"unreadable ({error})") from error

    @property
    def auto_options(self) -> frozenset[str] | None:
        """The options that were "auto" when the run was requested; None for a run of a version that did not store them."""
        try:
            return frozenset(map(str, json.loads((self.path / "auto.json").read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError, RecursionError):
            return None

    def store_settings(self, settings: TrainSettings) -> None:
        stored = {"lib_ti": __version__, "settings": settings.to_json()}
        files.atomic_write_bytes(self.path / "settings.json", json.dumps(stored, indent=1).encode(), durable=True)

    @property
    def images(self) -> Path:
        return self.path / "images"

    @property
    def contrast_images(self) -> Path:
        return self.path / "contrast"

    @property
    def inputs(self) -> Path:
        return self.path / "inputs.json"

    @property
    def templates(self) -> Path:
        return self.path / "templates.txt"

    @property
    def init_embedding(self) -> Path:
        return self.path / "start.safetensors"

    @property
    def state(self) -> Path:
        return self.path / "state.safetensors"

    @property
    def previous_state(self) -> Path:
        return self.path / "state.previous.safetensors"

    @property
    def saved_states(self) -> list[Path]:
        """The states that exist, the last one first."""
        return [path for path in (self.state, self.previous_state) if path.exists()]

    @property
    def saved_step(self) -> int:
        """The step of the last saved state that is whole; 0 without one. Raises UnusableFile if all are damaged."""
        return int(self._state_record().get("step", 0))

    @property
    def early_end(self) -> str:
        """Why the run has ended before its last planned step; empty if it has not. Raises UnusableFile."""
        return str(self._state_record().get("early_end", ""))

    def _state_record(self) -> dict[str, Any]:
        """The record of the last saved state that is whole; empty without a state. Raises UnusableFile."""
        damage: UnusableFile | None = None
        for path in self.saved_states:
            try:
                return read_state_record(path)
            except UnusableFile as error:
                damage = damage or error
        if damage is None:
            return {}
        raise UnusableFile(damage.path, f"{damage.reason}; {_NO_STATE}") from damage

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def embedding(self) -> Path:
        return self.path / "embedding.safetensors"

    def own_embeddings(self) -> Iterator[bytes]:
        """The contents of the result and of all snapshots."""
        for path in (self.embedding, *(self.path / "snapshots").glob("*.safetensors")):
            if path.exists():
                yield path.read_bytes()

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def latent_cache(self) -> Path:
        return self.path / "latents.cache"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def preview(self, step: int, prompt_index: int, seed_index: int) -> Path:
        return self.path / "previews" / f"{step}-{prompt_index}-{seed_index}.png"

    def test(self, prompt_index: int) -> Path:
        return self.path / "tests" / f"{prompt_index}.png"

    def snapshot(self, step: int) -> Path:
        return self.path / "snapshots" / f"{step}.safetensors"

    def remove_stale_parts(self) -> None:
        """Delete what a killed training has left half written; the run's lock must be held."""
        for folder in (self.path, self.path / "snapshots", self.path / "previews", self.path / "tests"):
            files.remove_stale_parts(folder)

    @property
    def lock(self) -> RunLock:
        return RunLock(self.path / "lock")

    @property
    def running(self) -> bool:
        """Whether any process is training this run."""
        return is_held(self.path / "lock")

    def history(self) -> RunHistory:
        return RunHistory().add(read_events(self.events)[0])

    def summary(self) -> dict[str, Any]:
        """One line of a list of runs. `state`: running, interrupted (killed), or the last event's kind."""
        history = self.history()
        last_kind = history.last.kind if history.last else "loading"
        state = "running" if self.running else last_kind if last_kind in TERMINAL_KINDS else "interrupted"
        step = history.last_step()
        loss = history.steps[step].data.get("smoothed_loss") if step else None
        settings = self.settings
        return {
            "name": settings.name, "folder": str(self.path), "state": state, "step": step, "steps": settings.steps,
            "loss": loss, "checkpoint": settings.model.name,
        }  # fmt: skip


def _with_absolute_paths(settings: TrainSettings) -> TrainSettings:
    """The settings with paths that are valid from any working directory."""
    record = settings.to_json()
    for name in ("images", "model", "vae", "out", "runs_dir", "template_file", "init_embedding", "contrast_images"):
        if record[name] is not None:
            record[name] = str(Path(record[name]).absolute())
    return settings_from_json(record)
