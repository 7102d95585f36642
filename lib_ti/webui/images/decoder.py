"""Decodes the files of strangers in a child process, one at a time, so that no number of uploads takes more memory than one."""

from __future__ import annotations

import atexit
import json
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from lib_ti.errors import UnusableFile
from lib_ti.runs import worker

TIMEOUT_S = 60.0
IDLE_S = 60.0
"""How long the process is kept for the next picture."""
_PROGRAM = "from lib_ti.webui.images.decoding_process import main; main()"


class Decoder:
    """A child process that decodes, started when it is needed. Thread-safe: requests wait for each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._idle_timer: threading.Timer | None = None

    def prepare(self, path: Path, out: Path) -> dict[str, Any]:
        """Prepare an image for a run as the PNG `out`; what `image_quality.measure` finds in it. Raises UnusableFile."""
        return self._request(path, prepare=str(path), out=str(out))

    def prepare_mask(self, path: Path, size: tuple[int, int], out: Path) -> None:
        """Prepare a mask of the given width and height as the PNG `out`. Raises UnusableFile."""
        self._request(path, mask=str(path), size=size, out=str(out))

    def thumbnail(self, path: Path, side: int) -> str:
        """A file's thumbnail as a data URL, at most `side` pixels each way. Raises UnusableFile."""
        return str(self._request(path, thumbnail=str(path), side=side)["url"])

    def close(self) -> None:
        """End the process; the next request starts another one."""
        with self._lock:
            self._end()

    def _request(self, path: Path, **request: Any) -> dict[str, Any]:
        with self._lock:
            if self._idle_timer:
                self._idle_timer.cancel()
            if self._process is None or self._process.poll() is not None:
                self._end()
                self._process = worker.start_child(worker.program(_PROGRAM), stderr=subprocess.DEVNULL)
            reply = _ask(self._process, json.dumps(request))
            if reply is None:
                self._end()
                raise UnusableFile(
                    path, "takes too long or too much memory to open; reduce the picture, or save it anew"
                )
            self._idle_timer = threading.Timer(IDLE_S, self.close)
            self._idle_timer.daemon = True
            self._idle_timer.start()
        if "error" in reply:
            raise UnusableFile(path, reply["error"])
        return reply

    def _end(self) -> None:
        if self._idle_timer:
            self._idle_timer.cancel()
        if self._process:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                with suppress(OSError):
                    if stream:
                        stream.close()
        self._process = None


def _ask(process: subprocess.Popen[str], line: str) -> dict[str, Any] | None:
    """The child's reply to a line; None if it dies over it, or takes too long and is killed."""
    assert process.stdin
    assert process.stdout
    timeout = threading.Timer(TIMEOUT_S, process.kill)
    timeout.daemon = True
    timeout.start()
    try:
        process.stdin.write(line + "\n")
        process.stdin.flush()
        reply: dict[str, Any] | None = json.loads(process.stdout.readline() or "null")
        return reply
    except (OSError, ValueError):
        return None
    finally:
        timeout.cancel()


decoder = Decoder()
"""Of this process: one for all pages."""
atexit.register(decoder.close)
