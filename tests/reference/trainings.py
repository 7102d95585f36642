"""Trainings as a request makes them."""

from pathlib import Path

from lib_ti.runs.execute import create_run, execute_run
from lib_ti.runs.folder import RunFolder
from lib_ti.settings.parsing import parse
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.preflight.preflight import preflight


def settings_for(checkpoint: Path, pictures: Path, folder: Path, **more: str) -> TrainSettings:
    """A short training of "my-mug" from "object", without previews and snapshots unless `more` asks for them."""
    raw = {
        "model": str(checkpoint), "images": str(pictures), "name": "my-mug", "out": str(folder / "out"),
        "runs_dir": str(folder / "runs"), "steps": "6", "preview_every": "0", "snapshot_every": "0", "precision": "fp32",
        "init_text": "object", "learning_rate": "0.005", "vectors": "2", **more,
    }  # fmt: skip
    settings, problems = parse(raw)
    assert not problems
    return settings


def run(settings: TrainSettings, **more) -> RunFolder:
    """Carry a training out."""
    folder = create_run(preflight(settings))
    execute_run(folder, **more)
    return folder
