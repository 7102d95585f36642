"""Takes this computer's folders out of what a page is told, for hosts that hide them."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lib_ti
from lib_ti.webui.hosts.host import Host

Redact = Callable[[Any], Any]

_PATH = re.compile(
    r"(?<![^\s\"'`(\[{<>=,;:|“‘«])"  # begins a text, or follows one of these
    r"(?:/{1,2}(?=[^\s/<>])|~[\w.-]*/|[A-Za-z]:[\\/]+|\\\\+(?=\w))"  # /, //server/, ~/, C:\, \\server\
    r"(?:[^\\/\n\"'`<>|:*?;]{1,255}[\\/]+)+"
)
_KEPT = re.compile(r"data:[\w/+.-]*;base64,[A-Za-z0-9+/=]*|https?://[^\s\"'<>]+")
"""Images inside a reply, and addresses."""


def unchanged(reply: Any) -> Any:
    """For hosts that hide nothing."""
    return reply


def redaction(host: Host) -> Redact:
    """What is done with each reply for a host's page: nothing, or each path in it becomes its last part."""
    if not host.hides_paths:
        return unchanged
    known = _known_folders(host)  # their names may have characters in them by which a path seems to end
    return lambda value: _hide(value, known)


def _known_folders(host: Host) -> re.Pattern[str]:
    folders = [host.runs_dir, host.embeddings_dir, Path.cwd(), Path(lib_ti.__file__).parent.parent, Path(sys.prefix)]
    folders += [Path(tempfile.gettempdir()), *([choice.path.parent] if (choice := host.selected_checkpoint()) else [])]
    texts = {str(folder) for folder in folders} | {str(parent) for folder in folders for parent in folder.parents}
    texts = {text for text in {*texts, os.path.expanduser("~")} if len(Path(text).parts) > 1}  # noqa: PTH111 - never raises
    alternatives = "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))
    return re.compile(rf"(?:{alternatives})(?:[\\/]+|(?![\w.-]))" if texts else r"(?!)")


def _hide(value: Any, known: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return _hide_in_text(value, known)
    if isinstance(value, dict):
        return {key: _hide(item, known) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hide(item, known) for item in value]
    return value


def _hide_in_text(text: str, known: re.Pattern[str]) -> str:
    if "/" not in text and "\\" not in text:
        return text
    parts, position = [], 0
    for match in _KEPT.finditer(text):
        parts += [_without_folders(text[position : match.start()], known), match[0]]
        position = match.end()
    return "".join([*parts, _without_folders(text[position:], known)])


def _without_folders(text: str, known: re.Pattern[str]) -> str:
    return _PATH.sub("", known.sub(lambda match: "" if match[0][-1] in "/\\" else "…", text))
