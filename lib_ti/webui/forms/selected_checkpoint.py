"""The host's selected checkpoint for the page: its family, what "auto" means for it, and whether an embedding can start on it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_ti.errors import Problem, UnusableFile
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.preflight.resolve_auto import auto_values
from lib_ti.webui.embedding_index import FileStamp
from lib_ti.webui.hosts.host import Host

if TYPE_CHECKING:  # it imports torch, for which the page does not wait
    from lib_ti.model.checkpoint.inspect import CheckpointInfo

log = logging.getLogger("lib_ti")

DETECTED_ON_START = "found out when the training starts"


class SelectedCheckpoint:
    """Reads the checkpoint that a host has selected, once for each state of its files."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._cached: tuple[tuple[Any, ...], tuple[CheckpointInfo | None, str]] | None = None

    def summary(self) -> dict[str, Any] | None:
        """Title, family, resolution, and why it cannot be trained on, for the page; None if none is selected."""
        selected = self._host.selected_checkpoint()
        if selected is None:
            return None
        description, problem = self._describe(selected.path)
        family = description.family if description else None
        return {
            "title": selected.title,
            "family": family.name if family else None,
            "family_title": family.title if family else "",
            "resolution": description.resolution if description else None,
            "usual": bool(description and description.standard_unet),
            "problem": problem,
        }

    def description(self) -> CheckpointInfo | None:
        """The description of the checkpoint; None if there is none that can be trained on."""
        selected = self._host.selected_checkpoint()
        return self._describe(selected.path)[0] if selected else None

    def auto_texts(self, settings: TrainSettings) -> dict[str, str]:
        """What "auto" means for it as text, by option."""
        description = self.description()
        if description is None:
            return {}
        texts = {
            name: DETECTED_ON_START if value is None else str(value)
            for name, value in auto_values(description, settings).items()
        }
        if texts["clip_skip"] != "1":  # a family's own choice is the least
            texts["clip_skip"] += ", and 1 is the same"
        return texts

    def clip_skip_offer(self, settings: TrainSettings) -> int | None:
        """The host's CLIP skip, if a training would use another; None for families that hosts do not apply it to."""
        description, layer = self.description(), self._host.clip_skip()
        if description is None or len(description.family.encoders) > 1 or description.family.encoders[0].clip_skip > 1:
            return None
        return layer if layer != (settings.clip_skip or 1) else None

    def check_initial_embedding(
        self, settings: TrainSettings, tokenize: Callable[[str], Sized]
    ) -> tuple[Problem | None, str]:
        """The problem with the embedding that the settings start from, if any, and a remark about it."""
        description, path = self.description(), settings.init_embedding
        if description is None or path is None:
            return None, ""
        from lib_ti.embedding.compatibility import check_init_embedding
        from lib_ti.embedding.summary import summarize

        try:
            summary = summarize(path)
        except UnusableFile as error:
            return Problem("init_embedding", str(error)), ""
        except Exception as error:  # whatever the file is, the form must stay usable; starting will say more
            log.exception("%s cannot be read", path)
            return Problem("init_embedding", f"{path} cannot be looked at ({type(error).__name__})"), ""
        if summary is None:
            return Problem("init_embedding", f"{path}: there is no embedding in this picture"), ""
        problem, remarks = check_init_embedding(summary, settings, description, bool(tokenize(settings.init_text)))
        return problem, "" if problem else ". ".join(remarks)

    def _describe(self, path: Path) -> tuple[CheckpointInfo | None, str]:
        """The description of a checkpoint, or why it cannot be trained on."""
        key = (_stamp(path), _stamp(path.with_suffix(".yaml")))
        if self._cached is None or self._cached[0] != key:
            self._cached = (key, _describe(path))
        return self._cached[1]


def _describe(path: Path) -> tuple[CheckpointInfo | None, str]:
    try:
        from lib_ti.model.checkpoint.inspect import inspect_checkpoint

        return inspect_checkpoint(path), ""
    except UnusableFile as error:
        return None, error.reason
    except Exception as error:  # whatever the file is, the form must stay usable; starting will say more
        log.exception("%s cannot be read", path)
        return None, f"it cannot be looked at ({type(error).__name__})"


def _stamp(path: Path) -> FileStamp:
    try:
        return FileStamp.of(path)
    except OSError:
        return FileStamp(str(path), 0, 0)
