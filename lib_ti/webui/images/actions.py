"""The page's actions on the images of its draft."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lib_ti.errors import TextualInversionError, UnusableFile
from lib_ti.text import unquoted
from lib_ti.webui.api.runs_view import RunsView
from lib_ti.webui.forms.live_check import LiveCheck
from lib_ti.webui.hosts.host import Host
from lib_ti.webui.images.crops import preview_crops
from lib_ti.webui.images.drafts import Drafts
from lib_ti.webui.images.thumbnails import ThumbnailCache

MAX_RUN_IMAGES, RUN_IMAGE_SIDE = 8, 320
"""Thumbnails that the page shows of a run's images, and their longer side in pixels: one stands beside a large preview."""

LARGE_SIDE = 1280
"""The longer side, in pixels, of an image that is looked at."""

EXAMPLE_FOLDER = Path(__file__).resolve().parents[2] / "practice" / "concepts" / "coin"


class ImageActions:
    """What the page can do with images. Arguments come from the browser; results are JSON values."""

    def __init__(
        self, host: Host, drafts: Drafts, live_check: LiveCheck, runs: RunsView, thumbnails: ThumbnailCache
    ) -> None:
        self._host, self._drafts, self._live_check, self._runs = host, drafts, live_check, runs
        self._thumbnails = thumbnails

    def actions(self) -> dict[str, Callable[..., Any]]:
        """The actions, by the names that the page calls them."""
        return {
            "pictures": self.list_images, "add": self.add_upload, "remove": self.remove, "clear": self.clear,
            "caption": self.set_caption, "folder": self.add_folder, "example": self.add_example,
            "undo": self.undo, "discard": self.discard, "duplicate": self.duplicate, "reuse": self.reuse_run_images,
            "picture": self.picture, "crops": self.preview_crops, "run_pictures": self.list_run_images,
        }  # fmt: skip

    def list_images(self, draft: str) -> dict[str, Any]:
        pictures = self._drafts.describe_images(draft, self._live_check.resolution())
        return {"pictures": pictures, "summary": self._drafts.summary(draft)}

    def picture(self, draft: str, id: str) -> dict[str, Any]:
        """One image of the draft, large."""
        if str(id) not in self._drafts.images(draft):
            raise TextualInversionError("This picture no longer exists.")
        return {"image": self._thumbnails.get(self._drafts.folder(draft) / f"{id}.png", LARGE_SIDE)}

    def add_upload(self, draft: str, path: str, name: str) -> dict[str, Any]:
        try:
            added = self._drafts.add_upload(draft, path, name, self._live_check.resolution())
        except UnusableFile as error:
            self._drafts.note_unused(draft, [error.path.name])
            refused = [{"name": error.path.name, "reason": error.reason}]
            return {"pictures": [], "refused": refused, "summary": self._drafts.summary(draft)}
        return {"pictures": added, "refused": [], "summary": self._drafts.summary(draft)}

    def remove(self, draft: str, id: str) -> dict[str, Any]:
        self._drafts.remove(draft, id)
        return self.list_images(draft)

    def clear(self, draft: str) -> dict[str, Any]:
        """Remove all images; `undo` brings them back."""
        self._drafts.clear(draft)
        return {"pictures": []}

    def undo(self, draft: str) -> dict[str, Any]:
        """Undo the last `remove`, `clear`, `example` or `reuse`; once more, and it is done again."""
        self._drafts.undo(draft)
        return self.list_images(draft)

    def discard(self, draft: str) -> dict[str, Any]:
        self._drafts.discard(draft)
        return {}

    def duplicate(self, draft: str) -> dict[str, Any]:
        """A draft of its own, with the same images, for a second window."""
        return {"draft": self._drafts.duplicate(draft)}

    def set_caption(self, draft: str, id: str, text: str) -> dict[str, Any]:
        self._drafts.set_caption(draft, id, str(text))
        return {"summary": self._drafts.summary(draft)}

    def add_folder(self, draft: str, path: str) -> dict[str, Any]:
        """Copy the images of a folder on the server, unless its host hides paths from the browser."""
        if self._host.hides_paths:
            raise TextualInversionError("This WebUI does not let the browser name its folders.")
        return self._copy_folder(draft, Path(unquoted(path).strip()).expanduser())

    def add_example(self, draft: str) -> dict[str, Any]:
        """Replace the draft's images by those of the example."""
        self._drafts.clear(draft)
        return self._copy_folder(draft, EXAMPLE_FOLDER)

    def reuse_run_images(self, draft: str, run: str) -> dict[str, Any]:
        """Replace the draft's images by those of a run."""
        images = self._runs.folder(run).images
        if not images.is_dir():
            raise TextualInversionError("This training did not keep its pictures.")
        self._drafts.clear(draft)
        return self._copy_folder(draft, images)

    def list_run_images(self, run: str) -> dict[str, Any]:
        """Thumbnails of the first images of a run."""
        paths = sorted(self._runs.folder(run).images.glob("[0-9]*.png"))
        paths = [path for path in paths if not path.name.endswith(".mask.png")][:MAX_RUN_IMAGES]
        return {"pictures": [self._thumbnails.get(path, RUN_IMAGE_SIDE) for path in paths]}

    def preview_crops(self, draft: str, form: Mapping[str, Any]) -> dict[str, Any]:
        """The draft's images as the form's settings crop them, each with one of its prompts; and how many templates there are."""
        text = str(form.get("resolution") or "").strip()
        is_valid = text.isdecimal() and 8 <= int(text) <= 4096
        resolution = int(text) if is_valid else self._live_check.resolution()
        folder, records = self._drafts.folder(draft), self._drafts.images(draft)
        use_buckets, use_masks = bool(form.get("buckets")), bool(form.get("masks", True))
        crops = preview_crops(folder, records, resolution, use_buckets, use_masks)
        prompts, templates = self._live_check.training_prompts(form, draft)
        for crop in crops:
            crop["prompt"] = prompts[crop["id"]].text if crop["id"] in prompts else ""
        return {"crops": crops, "templates": templates}

    def _copy_folder(self, draft: str, folder: Path) -> dict[str, Any]:
        added, refused = self._drafts.add_folder(draft, folder, self._live_check.resolution())
        named = [{"name": name, "reason": reason} for name, reason in refused]
        return {"pictures": added, "refused": named, "summary": self._drafts.summary(draft)}
