"""The host's selected checkpoint as the page tells of it: its family, what "auto" means there, and what can be started from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_ti.errors import Problem, UnusableFile
from lib_ti.model.checkpoint.families import SD1
from lib_ti.settings.lr_schedule import default_schedule
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.webui.embedding_index import FileStamp
from lib_ti.webui.hosts.host import Host

if TYPE_CHECKING:  # it brings torch, for which the page does not wait
    from lib_ti.model.checkpoint.inspect import CheckpointInfo

log = logging.getLogger("lib_ti")

FOUND_OUT = "found out when the training starts"


class Selected:
    """Looks at the checkpoint that a host has selected, once for each state of its files."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._seen: tuple[tuple[Any, ...], tuple[CheckpointInfo | None, str]] | None = None

    def told(self) -> dict[str, Any] | None:
        """For the page: title, family, resolution, and why it cannot be trained on, if so. None where none is selected."""
        chosen = self._host.selected_checkpoint()
        if chosen is None:
            return None
        about, problem = self._look(chosen.path)
        family = about.family if about else None
        return {
            "title": chosen.title,
            "family": family.name if family else None,
            "family_title": family.title if family else "",
            "resolution": about.resolution if about else None,
            "learning_rate": (family or SD1).learning_rate,
            "usual": bool(about and about.standard_unet),
            "problem": problem,
        }

    def description(self) -> CheckpointInfo | None:
        """What is known of it; None where there is none, or none that can be trained on."""
        chosen = self._host.selected_checkpoint()
        return self._look(chosen.path)[0] if chosen else None

    def auto(self, settings: TrainSettings) -> dict[str, str]:
        """What "auto" means for it, by the options where that is told."""
        about = self.description()
        if about is None:
            return {}
        family, rate = about.family, settings.learning_rate
        rate = f"{family.learning_rate:g}" if rate == "auto" else rate
        side, layer = f"{settings.resolution or about.resolution}", family.encoders[0].clip_skip
        return {
            "learning_rate": f"{family.learning_rate:g}",
            "learning_rate_2": rate,
            "lr_schedule": default_schedule(rate),
            "resolution": f"{about.resolution}",
            "clip_skip": f"{layer}" + (", and 1 is the same" if layer > 1 else ""),
            "prediction": about.noise_schedule.prediction_type if about.prediction_known else FOUND_OUT,
            "zero_terminal_snr": "yes" if about.noise_schedule.zero_terminal_snr else "no",
            "preview_width": side,
            "preview_height": side,
        }

    def start(self, settings: TrainSettings, words: Callable[[str], object]) -> tuple[Problem | None, str]:
        """What is wrong with the embedding that the settings start from, and what is to be said of it.

        `words`: the tokens of a text.
        """
        about, path = self.description(), settings.init_embedding
        if about is None or path is None:
            return None, ""
        from lib_ti.embedding.compatibility import check_init_embedding
        from lib_ti.embedding.summary import summarize

        try:
            found = summarize(path)
        except UnusableFile as error:
            return Problem("init_embedding", str(error)), ""
        except Exception as error:  # whatever a file may be, the form must not be taken away; starting will say more
            log.exception("%s could not be looked at", path)
            return Problem("init_embedding", f"{path} cannot be looked at ({type(error).__name__})"), ""
        if found is None:
            return Problem("init_embedding", f"{path}: there is no embedding in this picture"), ""
        problem, told = check_init_embedding(found, settings, about, bool(words(settings.init_text)))
        return problem, "" if problem else ". ".join(told)

    def _look(self, path: Path) -> tuple[CheckpointInfo | None, str]:
        """What it is, or why it cannot be trained on."""
        key = (_stamp(path), _stamp(path.with_suffix(".yaml")))
        if self._seen is None or self._seen[0] != key:
            self._seen = (key, _described(path))
        return self._seen[1]


def _described(path: Path) -> tuple[CheckpointInfo | None, str]:
    try:
        from lib_ti.model.checkpoint.inspect import inspect_checkpoint

        return inspect_checkpoint(path), ""
    except UnusableFile as error:
        return None, error.reason
    except Exception as error:  # an unheard-of file must not take the form away; starting will say more
        log.exception("%s could not be looked at", path)
        return None, f"it cannot be looked at ({type(error).__name__})"


def _stamp(path: Path) -> FileStamp:
    try:
        return FileStamp.of(path)
    except OSError:
        return FileStamp(str(path), 0, 0)
