"""The images, captions and masks that a page has collected for its next training.

Each page has a draft, a folder with a random name below the runs. Uploads are decoded, prepared and encoded anew, then
deleted: a file that cannot be decoded as an image leaves no trace and is never sent back.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lib_ti import files
from lib_ti.data.image_files import MAX_IMAGES, caption_stem, mask_stem, name_key
from lib_ti.data.image_folder import has_picture_name, scan_folder
from lib_ti.errors import TextualInversionError, UnusableFile
from lib_ti.webui.images import draft_copies
from lib_ti.webui.images.decoder import decoder
from lib_ti.webui.images.draft import Draft
from lib_ti.webui.images.thumbnails import ThumbnailCache
from lib_ti.webui.images.uploads import UploadRegistry, display_name, one_line, read_caption

MAX_FILE_BYTES = 100 << 20
MAX_AGE_S = 14 * 24 * 3600.0
_DRAFT_ID = re.compile(r"[0-9a-f]{32}")
_IMAGE_ID = re.compile(r"\d{4,}")


class Drafts:
    """All drafts below the folder of the runs. Methods raise TextualInversionError for an invalid draft or image id."""

    def __init__(self, runs: Path, thumbnails: ThumbnailCache, uploads: UploadRegistry) -> None:
        self._root = runs / ".drafts"
        self._uploads = uploads
        self._thumbnails = thumbnails
        self._lock = threading.RLock()

    def delete_stale(self) -> None:
        """Delete drafts that were not changed for two weeks."""
        for folder in self._root.iterdir() if self._root.is_dir() else ():
            if folder.is_file():  # a picture that was being prepared when the process was killed
                folder.unlink(missing_ok=True)
            elif time.time() - folder.stat().st_mtime > MAX_AGE_S:
                shutil.rmtree(folder, ignore_errors=True)

    def folder(self, draft: str) -> Path:
        """The folder of a draft. Raises TextualInversionError for an invalid id, which comes from the browser."""
        if not isinstance(draft, str) or not _DRAFT_ID.fullmatch(draft):
            raise TextualInversionError("The page has lost track of its pictures. Reload it.")
        return self._root / draft

    def describe_images(self, draft: str, resolution: int = 512) -> list[dict[str, Any]]:
        """What the page shows of each image; sides below `resolution` are warned of."""
        with self._lock:
            content, folder = self._read(draft), self.folder(draft)
        return [self._describe(folder, image_id, content, resolution) for image_id in content.images]

    def images(self, draft: str) -> dict[str, dict[str, Any]]:
        """The record of each image by its id: name, size and what `image_quality.measure` found."""
        return self._read(draft).images  # the record is replaced as a whole

    def add_upload(self, draft: str, path: str, name: str, resolution: int = 512) -> list[dict[str, Any]]:
        """Add a file that the browser has just uploaded, and delete the upload; describe the images that it changed.

        Raises:
            UnusableFile: with the name that the user knows; of the upload's own path nothing is said.
        """
        upload = self._uploads.resolve(path)
        try:
            if upload.stat().st_size > MAX_FILE_BYTES:
                raise UnusableFile(Path(name), f"larger than {MAX_FILE_BYTES >> 20} MB; save it smaller")
            return self._add_file(draft, upload, display_name(name), resolution)
        finally:
            self._uploads.delete(upload)

    def add_folder(
        self, draft: str, folder: Path, resolution: int = 512
    ) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
        """Add copies of a folder's images with their captions and masks.

        Returns:
            What the page shows of each added image, and (file name, reason) of each file that could not be used.
        """
        if not os.path.isdir(folder):  # noqa: PTH112 - Path's own raises for names that are too long
            raise TextualInversionError(f"There is no folder {folder} on the WebUI's computer.")
        added: list[str] = []
        refused: list[tuple[str, str]] = []
        try:
            content = scan_folder(folder)
        except UnusableFile as error:
            raise TextualInversionError(f"{folder}: {error.reason}") from error
        image_files = [file for file in content.files if has_picture_name(file.path)]
        if not image_files:
            raise TextualInversionError(f"There are no pictures in {folder}.")
        for file in image_files[:MAX_IMAGES]:
            try:
                image = self._add_image(draft, file.path, file.path.name, resolution, file.repeats)
                caption = file.caption("txt")
                if caption.text:
                    self.set_caption(draft, image["id"], caption.text)
                if caption.note:
                    refused.append((file.path.name, caption.note))
                added.append(image["id"])
                if file.mask:
                    self._add_mask(draft, file.mask, image["id"])
            except UnusableFile as error:
                refused.append((error.path.name, error.reason))
        self.note_unused(draft, [*(name for name, _ in refused), *content.without_names()])
        return [image for image in self.describe_images(draft, resolution) if image["id"] in added], refused

    def summary(self, draft: str) -> str:
        """One line about what of the draft is trained on and what is not; empty where nothing was added."""
        with self._lock:
            return self._read(draft).summary(self.folder(draft))

    def note_unused(self, draft: str, names: Iterable[str]) -> None:
        """Remember files that were refused."""
        with self._lock:
            self._read(draft).note_unused(names, self.folder(draft))

    def remove(self, draft: str, image_id: str) -> None:
        """Remove an image; `undo` brings it back."""
        with self._lock:
            content = self._read(draft)
            if image_id in content.images:
                draft_copies.keep_for_undo(self.folder(draft))
                del content.images[image_id]
                content.write(self.folder(draft))
                for path in self._paths(draft, image_id):
                    path.unlink(missing_ok=True)

    def clear(self, draft: str) -> None:
        """Remove all images; `undo` brings them back."""
        with self._lock:
            draft_copies.keep_for_undo(self.folder(draft))
            shutil.rmtree(self.folder(draft), ignore_errors=True)

    def undo(self, draft: str) -> None:
        """Undo the last removal of images. Raises TextualInversionError if there is none."""
        with self._lock:
            draft_copies.undo(self.folder(draft))

    def discard(self, draft: str) -> None:
        """Delete a draft with all that was kept of it."""
        with self._lock:
            draft_copies.discard(self.folder(draft))

    def duplicate(self, draft: str) -> str:
        """The id of a new draft with the same images."""
        with self._lock:
            return draft_copies.duplicate(self.folder(draft)).name

    def captions(self, draft: str, source: str) -> dict[str, str]:
        """The caption of each image by its id, see `Draft.captions`."""
        with self._lock:
            return self._read(draft).captions(self.folder(draft), source)

    def set_caption(self, draft: str, image_id: str, text: str) -> None:
        """Change the caption of an image; an empty one deletes it."""
        with self._lock:
            if image_id not in self._read(draft).images:
                raise TextualInversionError("This picture no longer exists.")
            path = self.folder(draft) / f"{image_id}.txt"
            if caption := one_line(text):
                files.atomic_write_bytes(path, caption.encode("utf-8", "replace"))
            else:
                path.unlink(missing_ok=True)

    def copy_to_run(self, draft: str, target: Path, captions: str = "txt") -> None:
        """Copy a draft's images to `target`, which appears only when it is complete.

        `captions`: where they come from: the draft's own (txt or auto), the images' names (file-name), or nowhere (none).
        """
        with self._lock:
            self._read(draft).copy_images(self.folder(draft), target, captions)

    def _add_file(self, draft: str, path: Path, name: str, resolution: int) -> list[dict[str, Any]]:
        with self._lock:
            content = self._read(draft)
            if (stem := caption_stem(name)) is not None:
                return self._add_caption(draft, path, name, stem, content, resolution)
            stem = mask_stem(name)
            owner = None if stem is None else content.find_by_stem(stem)
            if stem and not owner:
                raise UnusableFile(Path(name), "a mask; add the picture it belongs to first")
            if not owner and len(content.images) >= MAX_IMAGES:
                raise UnusableFile(Path(name), f"{MAX_IMAGES} pictures are the most; 30 are plenty")
        if owner:  # not with the lock held: decoding may take its time
            self._add_mask(draft, path, owner)
            return [self._describe(self.folder(draft), owner, content, resolution)]
        return [self._add_image(draft, path, name, resolution)]

    def _add_image(self, draft: str, path: Path, name: str, resolution: int, repeats: int = 1) -> dict[str, Any]:
        self._root.mkdir(parents=True, exist_ok=True)
        prepared = self._root / f".{secrets.token_hex(8)}.part"
        try:
            record = {"name": name, **decoder.prepare(path, prepared), **({"repeats": repeats} if repeats > 1 else {})}
            return self._keep_image(draft, prepared, record, resolution)
        except UnusableFile as error:
            raise UnusableFile(Path(name), error.reason) from error
        finally:
            prepared.unlink(missing_ok=True)

    def _keep_image(self, draft: str, prepared: Path, record: dict[str, Any], resolution: int) -> dict[str, Any]:
        with self._lock:  # not while decoding, so that pages can go on meanwhile
            content, folder = self._read(draft), self.folder(draft)
            image_id = f"{content.next_id:04d}"
            folder.mkdir(exist_ok=True)
            os.replace(prepared, folder / f"{image_id}.png")
            content.next_id += 1
            content.images[image_id] = record
            if caption := content.take_caption(record["name"]):
                files.atomic_write_bytes(folder / f"{image_id}.txt", caption.encode())
            content.write(self.folder(draft))
            return self._describe(folder, image_id, content, resolution)

    def _add_caption(
        self, draft: str, path: Path, name: str, stem: str, content: Draft, resolution: int
    ) -> list[dict[str, Any]]:
        """`stem`: of the caption's name, which is the name of its image or that without its suffix."""
        text = read_caption(path, name)
        if owner := content.find_by_stem(stem):
            self.set_caption(draft, owner, text)
            return [self._describe(self.folder(draft), owner, content, resolution)]
        content.pending_captions[name_key(stem)] = one_line(text)
        content.write(self.folder(draft))
        return []

    def _add_mask(self, draft: str, path: Path, image_id: str) -> None:
        if not (record := self.images(draft).get(image_id)):
            raise TextualInversionError("This picture no longer exists.")
        with files.atomic_write(self.folder(draft) / f"{image_id}.mask.png") as temporary:
            decoder.prepare_mask(path, (record["width"], record["height"]), temporary)

    def _describe(self, folder: Path, image_id: str, content: Draft, resolution: int) -> dict[str, Any]:
        return content.describe(folder, image_id, resolution, self._thumbnails.get(folder / f"{image_id}.png", 256))

    def _paths(self, draft: str, image_id: str) -> list[Path]:
        if not _IMAGE_ID.fullmatch(image_id):
            raise TextualInversionError("There is no such picture.")
        return [self.folder(draft) / f"{image_id}{suffix}" for suffix in (".png", ".txt", ".mask.png")]

    def _read(self, draft: str) -> Draft:
        return Draft.read(self.folder(draft))
