"""Captions for all pictures of a page: written by the host's own models, or edited together.

write_captions(draft, captioner, replace=False)   describe the pictures that have no caption, or all -> the state below
captioning()     -> {"state": "idle" | "running" | "done" | "failed", "done", "total", "message"}
cancel_captions()                                 -> {}
edit_captions(draft, prefix="", suffix="", find="", replace="")
    replace a text, then put one before and one behind, in every caption; `undo` takes it back -> {"changed": how many}
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from lib_ti.errors import BadInput, Problem, TextualInversionError
from lib_ti.webui.hosts.background_task import BackgroundTask, Work
from lib_ti.webui.hosts.host import Host, acquired
from lib_ti.webui.images import draft_copies
from lib_ti.webui.images.drafts import Drafts

log = logging.getLogger("lib_ti")
IDLE: dict[str, Any] = {"state": "idle", "done": 0, "total": 0, "message": ""}
MAX_CAPTION = 2000  # characters; a prompt of 77 tokens has some hundred


class Captioning:
    """Captions the pictures of one host's pages, one request at a time."""

    def __init__(self, host: Host, drafts: Drafts) -> None:
        self._host, self._drafts = host, drafts
        self._task = BackgroundTask("textual-inversion-captions")
        self._status = IDLE

    def actions(self) -> dict[str, Callable[..., Any]]:
        own = (self.write_captions, self.captioning, self.cancel_captions, self.edit_captions)
        return {action.__name__: action for action in own}

    def write_captions(self, draft: str, captioner: str, replace: bool = False) -> dict[str, Any]:
        """Start to describe pictures; while it runs, another request changes nothing."""
        if captioner not in self._host.captioners():
            raise BadInput([Problem("captioner", "is not available in this WebUI")])
        captions = self._drafts.captions(draft, "txt")
        images = [image_id for image_id, text in captions.items() if replace or not text]
        if not captions:
            raise BadInput([Problem("images", "add pictures first")])
        if not images:
            raise TextualInversionError("Every picture has a caption already.")

        def prepare() -> Work:
            self._status = {**IDLE, "state": "running", "total": len(images), "message": "Waiting for the WebUI"}
            draft_copies.keep_for_undo(self._drafts.folder(draft))
            return lambda cancelled: self._run(draft, images, captioner, cancelled)

        self._task.start(prepare)
        return self._status

    def captioning(self) -> dict[str, Any]:
        return self._status

    def cancel_captions(self) -> dict[str, Any]:
        self._task.cancel()
        return {}

    def edit_captions(
        self, draft: str, prefix: str = "", suffix: str = "", find: str = "", replace: str = ""
    ) -> dict[str, Any]:
        """Edit the captions of all pictures together."""
        before = self._drafts.captions(draft, "txt")
        prefix, suffix, find, replace = map(str, (prefix, suffix, find, replace))
        # counted before anything is replaced: a letter by a page, again and again, would take memory without end
        growth = len(replace) - len(find)
        lengths = [len(text) + (growth * text.count(find) if find else 0) for text in before.values()]
        if (longest := max(lengths, default=0) + len(prefix) + len(suffix)) > MAX_CAPTION:
            reason = f"would make a caption of {longest} characters; {MAX_CAPTION} are the most"
            raise BadInput([Problem("captions", reason)])
        after = {
            image_id: f"{prefix}{text.replace(find, replace) if find else text}{suffix}"
            for image_id, text in before.items()
        }
        changed = [image_id for image_id, text in after.items() if text != before[image_id]]
        if changed:
            draft_copies.keep_for_undo(self._drafts.folder(draft))
        for image_id in changed:
            self._drafts.set_caption(draft, image_id, after[image_id])
        return {"changed": len(changed)}

    def close(self) -> None:
        self._task.close()

    def _run(self, draft: str, images: Sequence[str], captioner: str, cancelled: threading.Event) -> None:
        try:
            with acquired(self._host.lock, cancelled.is_set) as is_acquired:
                if is_acquired:
                    self._describe(draft, images, captioner, cancelled)
        except Exception as error:
            log.exception("the pictures could not be described")
            reason = f"The WebUI could not describe the pictures: {type(error).__name__}: {error}"
            self._status = {**self._status, "state": "failed", "message": reason}
        finally:
            if self._status["state"] == "running":  # cancelled
                self._status = {**self._status, "state": "done", "message": ""}

    def _describe(self, draft: str, images: Sequence[str], captioner: str, cancelled: threading.Event) -> None:
        from PIL import Image

        self._status = {**self._status, "message": "Loading the WebUI's model"}
        with self._host.captioner(captioner) as describe:
            self._status = {**self._status, "message": ""}
            for done, image_id in enumerate(images, 1):
                if cancelled.is_set():
                    return
                path = self._drafts.folder(draft) / f"{image_id}.png"
                if path.exists():  # else it was removed meanwhile
                    with Image.open(path) as image:
                        text = describe(image.convert("RGB"))
                    self._drafts.set_caption(draft, image_id, text)
                self._status = {**self._status, "done": done}
        self._status = {**self._status, "state": "done"}
