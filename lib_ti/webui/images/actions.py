"""What the page does with the pictures of its draft."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lib_ti.errors import TextualInversionError, UnusableFile
from lib_ti.webui.api.runs_view import RunsView
from lib_ti.webui.forms.live_check import LiveCheck
from lib_ti.webui.hosts.host import Host
from lib_ti.webui.images import crops
from lib_ti.webui.images.drafts import Drafts
from lib_ti.webui.images.thumbnails import Thumbnails

MOST_SHOWN = 8
EXAMPLE = Path(__file__).resolve().parents[2] / "practice" / "concepts" / "coin"


class Pictures:
    """The page's actions on drafts."""

    def __init__(self, host: Host, drafts: Drafts, checking: LiveCheck, runs: RunsView, thumbnails: Thumbnails) -> None:
        self._host, self._drafts, self._checking, self._runs = host, drafts, checking, runs
        self._thumbnails = thumbnails

    def actions(self) -> dict[str, Callable[..., Any]]:
        own = (
            self.pictures, self.add, self.remove, self.clear, self.caption, self.folder, self.example, self.reuse,
            self.crops, self.run_pictures,
        )  # fmt: skip
        return {action.__name__: action for action in own}

    def pictures(self, draft: str) -> dict[str, Any]:
        return {"pictures": self._drafts.pictures(draft, self._checking.resolution())}

    def add(self, draft: str, path: str, name: str) -> dict[str, Any]:
        try:
            added = self._drafts.add_upload(draft, path, name, self._checking.resolution())
        except UnusableFile as error:
            return {"pictures": [], "refused": [{"name": error.path.name, "reason": _reason(error)}]}
        return {"pictures": added, "refused": []}

    def remove(self, draft: str, id: str) -> dict[str, Any]:
        self._drafts.remove(draft, id)
        return self.pictures(draft)

    def clear(self, draft: str) -> dict[str, Any]:
        self._drafts.clear(draft)
        return {"pictures": []}

    def caption(self, draft: str, id: str, text: str) -> dict[str, Any]:
        self._drafts.caption(draft, id, str(text))
        return {}

    def folder(self, draft: str, path: str) -> dict[str, Any]:
        if self._host.hides_paths:
            raise TextualInversionError("This WebUI does not let the browser name its folders.")
        return self._copy_in(draft, Path(path.strip().strip('"')).expanduser())

    def example(self, draft: str) -> dict[str, Any]:
        return self._copy_in(draft, EXAMPLE)

    def reuse(self, draft: str, run: str) -> dict[str, Any]:
        """The pictures of a run, instead of those in the draft."""
        images = self._runs.folder(run).images
        if not images.is_dir():
            raise TextualInversionError("This run has not kept its pictures.")
        self._drafts.clear(draft)
        return self._copy_in(draft, images)

    def run_pictures(self, run: str) -> dict[str, Any]:
        """Small views of the first pictures that a run learns from."""
        images = sorted(self._runs.folder(run).images.glob("[0-9]*.png"))
        shown = [path for path in images if not path.name.endswith(".mask.png")][:MOST_SHOWN]
        return {"pictures": [self._thumbnails.of(path, 128) for path in shown]}

    def crops(self, draft: str, form: Mapping[str, Any]) -> dict[str, Any]:
        """The pictures as the trainer will see them."""
        resolution = str(form.get("resolution") or "").strip()
        side = (
            int(resolution) if resolution.isdecimal() and 8 <= int(resolution) <= 4096 else self._checking.resolution()
        )
        folder, shown = self._drafts.folder(draft), self._drafts.pictures_of(draft)
        return {"crops": crops.views(folder, shown, side, bool(form.get("buckets")), bool(form.get("masks", True)))}

    def _copy_in(self, draft: str, folder: Path) -> dict[str, Any]:
        added, refused = self._drafts.add_folder(draft, folder, self._checking.resolution())
        return {"pictures": added, "refused": [{"name": name, "reason": reason} for name, reason in refused]}


def _reason(error: UnusableFile) -> str:
    return str(error).removeprefix(f"{error.path}: ")
