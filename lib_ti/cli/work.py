"""`work`: one training for a program that started this one, as `runs.child` describes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib_ti.cli.arguments import Parser
from lib_ti.cli.control import Control, stop_on_signals
from lib_ti.errors import BadInput, TextualInversionError
from lib_ti.runs.folder import RunFolder
from lib_ti.settings.train_settings import parse

DONE, FAILED, STOPPED = 0, 1, 130


def work(arguments: Sequence[str]) -> int:
    Parser("work", "Train as told on standard input; for programs that start this one.").read_strictly(arguments)
    control = Control()
    with stop_on_signals() as signalled:
        try:
            folder, warnings = _prepare(json.loads(control.request()))
        except BadInput as error:
            return _answer({"problems": [{"option": p.option, "message": p.message} for p in error.problems]})
        except TextualInversionError as error:
            return _answer({"error": str(error)})
        except OSError as error:
            return _answer({"error": f"{error.strerror or error}: {error.filename or ''}"})
        control.listen()
        # whoever asked records the warnings: this process may be let go before it trains
        _answer({"run": str(folder.path), "warnings": list(warnings)})
        if not control.goes():
            return STOPPED
        _speak_into(folder)
        from lib_ti.runs.execute import execute

        def stopped() -> bool:
            return control.stopped() or signalled.is_set()

        try:
            finished = execute(folder, stopped=stopped, sample=control.sample)
        except TextualInversionError:
            return FAILED  # the run's last event has the reason
    return DONE if finished else STOPPED


def _prepare(request: dict[str, Any]) -> tuple[RunFolder, Sequence[str]]:
    """The run that is asked for: a new one from settings, or one that goes on."""
    from lib_ti.runs.execute import create
    from lib_ti.runs.resume import resume
    from lib_ti.training.preflight.preflight import preflight

    if "run" in request:
        folder = RunFolder.open(Path(request["run"]))
        resume(folder, request.get("changes", {}))
        return folder, ()
    settings, problems = parse(request["settings"])
    plan = preflight(settings, problems)
    return create(plan), plan.warnings


def _answer(answer: dict[str, Any]) -> int:
    print(json.dumps(answer), flush=True)
    return DONE


def _speak_into(folder: RunFolder) -> None:
    """Send whatever libraries print to the run's log: nobody reads the pipes any more, and full ones would block."""
    with folder.log.open("ab") as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())
