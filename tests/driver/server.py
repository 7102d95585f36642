"""The standalone host in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COIN = ROOT / "lib_ti" / "practice" / "concepts" / "coin"


class Server:
    """`python -m lib_ti ui` with a data folder of its own."""

    def __init__(self, data: Path, *flags: str, environment: dict[str, str] | None = None) -> None:
        self.data, self.flags, self.environment = data, flags, environment or {}
        self.url = ""
        self.start()

    def start(self) -> None:
        """Start the process, at the port of the last time if there was one, and wait for its URL."""
        port = self.url.rstrip("/").rpartition(":")[2] or "0"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lib_ti", "ui", "--no-browser", "--port", port, "--data-dir", str(self.data), *self.flags],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "GRADIO_TEMP_DIR": str(self.data / "uploads"),
                 "PYTHONUNBUFFERED": "1", **self.environment},
        )  # fmt: skip
        self.output: list[str] = []
        for line in self._process.stdout:
            self.output.append(line)
            if url := re.search(r"http://\S+", line):
                self.url = url[0]
                break
        assert self.url, "".join(self.output)
        threading.Thread(target=self.output.extend, args=(self._process.stdout,), daemon=True).start()

    def stop(self, signal_number: int = signal.SIGINT) -> None:
        self._process.send_signal(signal_number)
        self._process.wait(60)
