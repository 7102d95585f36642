"""Copies of a draft: the one that a change can be undone with, and one of its own for a second window.

The files of a draft are replaced, never written into, so that hard links are copies.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from lib_ti.errors import TextualInversionError


def keep_for_undo(folder: Path) -> None:
    """Keep the draft in `folder` as it is now, instead of what was kept before."""
    copy_draft(folder, _kept(folder))


def undo(folder: Path) -> None:
    """Exchange the draft for what was kept of it, so that undoing can be undone. Raises TextualInversionError if nothing was."""
    kept = _kept(folder)
    if not kept.is_dir():
        raise TextualInversionError("Nothing to undo.")
    aside = folder.with_name(f"{folder.name}.aside")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.is_dir():
        os.replace(folder, aside)
    else:
        aside.mkdir(parents=True)
    os.replace(kept, folder)
    os.replace(aside, kept)


def discard(folder: Path) -> None:
    """Delete the draft in `folder`, and what was kept of it."""
    for path in (_kept(folder), folder):
        shutil.rmtree(path, ignore_errors=True)


def duplicate(folder: Path) -> Path:
    """A copy of the draft in `folder`, beside it under a random name."""
    copy = folder.with_name(secrets.token_hex(16))
    copy_draft(folder, copy)
    return copy


def copy_draft(source: Path, target: Path) -> None:
    """Replace the folder `target` by a copy of `source`; by an empty folder if that does not exist."""
    part = target.with_name(f"{target.name}.part")
    for leftover in (part, target):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir(parents=True)
    for path in sorted(source.iterdir()) if source.is_dir() else ():
        if path.is_file():
            _link(path, part / path.name)
    os.replace(part, target)


def _kept(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.undo")


def _link(source: Path, target: Path) -> None:
    with suppress(OSError, AttributeError, NotImplementedError):  # a file system without hard links
        os.link(source, target)
        return
    shutil.copyfile(source, target)
