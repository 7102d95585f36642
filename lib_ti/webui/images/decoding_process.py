"""The child process that decodes: what a hostile picture can break or fill is this process, and its memory is limited.

Reads requests from standard input and answers each, one line of JSON each way:

    {"prepare": path, "out": path}                  -> what `image_quality.measure` finds
    {"mask": path, "size": [width, height], "out": path} -> {}
    {"thumbnail": path, "side": pixels}             -> {"url": data URL}

or {"error": reason} for a file that cannot be used. `out` is written as PNG.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

MAX_MEMORY_BYTES = 5 << 29  # of address space; the largest pictures that are accepted need less than half


def main() -> None:
    """Answer requests until the input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries may print
    limit_memory(MAX_MEMORY_BYTES)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=replies, flush=True)


def limit_memory(size: int) -> None:
    """Let allocations beyond `size` bytes fail, where the system can; elsewhere the limits of pixels have to do."""
    try:
        import resource
    except ImportError:  # Windows
        return
    with suppress(ValueError, OSError):  # macOS
        resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to a request."""
    from lib_ti.errors import UnusableFile

    try:
        return _answer(request)
    except UnusableFile as error:
        return {"error": error.reason}
    except MemoryError:
        return {"error": "takes too much memory to open; reduce the picture first"}
    except OSError as error:
        return {"error": f"cannot be read or kept ({error.strerror or error})"}


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    from lib_ti.data import images
    from lib_ti.webui.images import image_quality
    from lib_ti.webui.images.thumbnails import encode_thumbnail

    if "thumbnail" in request:
        return {"url": encode_thumbnail(images.decode(Path(request["thumbnail"])), request["side"])}
    if "mask" in request:
        width, height = request["size"]
        images.prepare_mask(Path(request["mask"]), (width, height)).save(request["out"], "PNG")
        return {}
    image = images.prepare_image(Path(request["prepare"]))
    image.save(request["out"], "PNG", compress_level=3)
    return image_quality.measure(image)
