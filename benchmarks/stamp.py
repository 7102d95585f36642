"""Runs a program as it stands and tells the one who started it when each of its optimizer steps has ended.

    python stamp.py OUT IN SCRIPT [ARGUMENTS]

torch's own hook for all optimizers writes a line to descriptor OUT and then reads a byte from descriptor IN, which permits
the next step. So programs can be measured in turn, each with its model in memory, without ever computing at the same time.
Nothing of the program is changed. Started by `programs.Stamped`; needs torch 2 and nothing of this project.
"""

from __future__ import annotations

import os
import runpy
import select
import sys
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook


def main() -> None:
    out, permits, script = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]).resolve()

    def stamp(*_: Any) -> None:
        if torch.cuda.is_initialized() and not select.select([permits], [], [], 0)[0]:
            torch.cuda.synchronize()  # the last step of a turn has ended when the card has ended it
        os.write(out, b".")
        os.read(permits, 1)

    register_optimizer_step_post_hook(stamp)
    sys.argv = [str(script), *sys.argv[4:]]
    sys.path[0] = str(script.parent)
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
