"""Run an unmodified training script, but report each optimizer step and wait for a permit before the next one.

    python step_gate.py OUT IN SCRIPT [ARGUMENTS]

torch's hook on all optimizers writes a byte to file descriptor OUT and then reads one from file descriptor IN. So several
programs can be measured in turns, each with its model in memory, without computing at the same time. Started by
`program.GatedProgram`; needs torch 2 and nothing of this project.
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

    def report_and_wait(*_: Any) -> None:
        if torch.cuda.is_initialized() and not select.select([permits], [], [], 0)[0]:
            torch.cuda.synchronize()  # the last step of a turn ends when the GPU has finished it
        os.write(out, b".")
        os.read(permits, 1)

    register_optimizer_step_post_hook(report_and_wait)
    sys.argv = [str(script), *sys.argv[4:]]
    sys.path[0] = str(script.parent)
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
