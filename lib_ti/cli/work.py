"""The command `work`: one training for a parent process, over the protocol of `runs.worker`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lib_ti.cli.arguments import Parser
from lib_ti.cli.control import Control, stop_on_signals
from lib_ti.cli.exit_codes import FAILED, OK, STOPPED
from lib_ti.errors import BadInput, TextualInversionError
from lib_ti.runs.folder import RunFolder
from lib_ti.settings.parsing import parse


def work(arguments: Sequence[str]) -> int:
    Parser("work", "Train as told on standard input; for programs that start this one.").parse_strict(arguments)
    control = Control()
    with stop_on_signals() as stop_flag:
        try:
            request = json.loads(control.read_request())
            if "sweep" in request:
                return _answer(_create_sweep(request["sweep"]))
            if "tests" in request:
                return _answer(_make_tests(request["tests"], stop_flag.is_set))
            folder, warnings = _prepare(request)
        except BadInput as error:
            return _answer({"problems": [{"option": p.option, "message": p.message} for p in error.problems]})
        except TextualInversionError as error:
            return _answer({"error": str(error)})
        except OSError as error:
            return _answer({"error": f"{error.strerror or error}: {error.filename or ''}"})
        control.listen()
        # the parent records the warnings: this process may be stopped before it trains
        _answer({"run": str(folder.path), "warnings": list(warnings)})
        if not control.wait_for_go():
            return STOPPED
        _redirect_output(folder)
        from lib_ti.runs.execute import execute_run

        def stopped() -> bool:
            return control.stopped() or stop_flag.is_set()

        try:
            finished = execute_run(folder, should_stop=stopped, preview_requested=control.preview_requested)
        except TextualInversionError:
            return FAILED  # the reason is the run's last event
    return OK if finished else STOPPED


def _prepare(request: dict[str, Any]) -> tuple[RunFolder, Sequence[str]]:
    """Create the requested run from its settings, or open one to resume; its folder and warnings."""
    from lib_ti.runs.execute import create_run
    from lib_ti.runs.resume import resume
    from lib_ti.training.preflight.preflight import preflight

    if "run" in request:
        folder = RunFolder.open(Path(request["run"]))
        resume(folder, request.get("changes", {}))
        return folder, ()
    settings, problems = parse(request["settings"])
    plan = preflight(settings, problems)
    return create_run(plan), plan.warnings


def _create_sweep(request: dict[str, Any]) -> dict[str, Any]:
    """Check and create the requested sweep, to be trained by others: `settings`, `values` and `labels` as in `plan_sweep`."""
    from lib_ti.runs.sweeps.prepare import create_sweep, plan_sweep

    plan = plan_sweep(request["settings"], request["values"], labels=request["labels"])
    return {"sweep": str(create_sweep(plan).path), "warnings": list(plan.warnings)}


def _make_tests(request: dict[str, Any], should_stop: Callable[[], bool]) -> dict[str, Any]:
    """Make more test pictures of the requested run: `run`, `embedding` and `prompts` as in `make_more_tests`."""
    from lib_ti.runs.recorder import FolderRecorder
    from lib_ti.training.finishing.more_tests import make_more_tests

    folder = RunFolder.open(Path(request["run"]))
    first = (max(folder.history().tests, default=-1) + 2) // 2 * 2  # even: of a negative embedding they come in pairs
    make_more_tests(
        folder.settings, Path(request["embedding"]), request["prompts"], FolderRecorder(folder), first, should_stop
    )
    return {"run": str(folder.path)}


def _answer(answer: dict[str, Any]) -> int:
    print(json.dumps(answer), flush=True)
    return OK


def _redirect_output(folder: RunFolder) -> None:
    """Send what libraries print to the run's log: the parent no longer reads the pipes, and full ones would block."""
    with folder.log.open("ab") as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())
