"""Checks all trainings of a sweep before the first one starts, and creates their runs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib_ti.errors import BadInput, Problem
from lib_ti.runs.events import EventLog
from lib_ti.runs.execute import create_run
from lib_ti.runs.sweeps.grid import combinations, describe, run_names
from lib_ti.runs.sweeps.sweep import Sweep, SweepRun
from lib_ti.settings.names import name_problem
from lib_ti.settings.option import RawValue
from lib_ti.settings.parsing import parse
from lib_ti.training.preflight.preflight import Plan, preflight

_MEASURED = ("precision", "acceleration")
"""What preflight measures on the device: the same for all runs, so it is measured once."""


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that can be carried out: for each run its values and its plan. `warnings`: of any of them, each once.

    `pictures`: for each folder of images what is used of it and what is not.
    """

    name: str
    runs: Sequence[tuple[Mapping[str, str], Plan]]
    warnings: Sequence[str]
    pictures: Sequence[str] = ()


def plan_sweep(
    raw: Mapping[str, RawValue],
    values: Mapping[str, Sequence[str]],
    problems: Sequence[Problem] = (),
    labels: Mapping[str, Mapping[str, str]] | None = None,
) -> SweepPlan:
    """Check every combination of `values`, each with the other settings of `raw`. Raises BadInput with all problems.

    `problems`: known ones. Those that only some of the combinations have say of which. `labels`: by option and value, what the
    value is called in names and in the record, where that is something else.
    """
    name = str(raw.get("name", ""))
    found = list(problems)
    try:
        runs = combinations(values)
    except BadInput as error:
        raise BadInput([*problems, *error.problems]) from error
    plans: list[tuple[Mapping[str, str], Plan]] = []
    by_problem: dict[Problem, list[str]] = {}
    warnings: dict[str, None] = {}
    shared = dict(raw)
    labelled = [{o: (labels or {}).get(o, {}).get(text, text) for o, text in run.items()} for run in runs]
    names = [name] * len(runs) if name_problem(name) else run_names(name, labelled)  # a bad name is reported once
    for run, label, run_name in zip(runs, labelled, names, strict=True):
        settings, own_problems = parse({**shared, **run, "name": run_name} if "name" in raw else {**shared, **run})
        try:
            plan = preflight(settings, own_problems)
        except BadInput as error:
            for problem in error.problems:
                by_problem.setdefault(problem, []).append(describe(label))
            continue
        shared |= {option: getattr(plan.settings, option) for option in _MEASURED}
        warnings |= dict.fromkeys(plan.warnings)
        plans.append((label, plan))
    for problem, where in by_problem.items():
        message = problem.message if len(where) == len(runs) else f"{problem.message} (with {'; '.join(where)})"
        found.append(Problem(problem.option, message))
    if found:
        raise BadInput(found)
    pictures = dict.fromkeys(f"{plan.settings.images}: {plan.pictures}" for _, plan in plans)
    return SweepPlan(name, plans, list(warnings), list(pictures))


def create_sweep(plan: SweepPlan) -> Sweep:
    """Create the folders of all runs and the record of the sweep; nothing is left of them if that fails."""
    created: list[SweepRun] = []
    try:
        for values, run_plan in plan.runs:
            run = SweepRun(create_run(run_plan), values)
            created.append(run)
            for warning in run_plan.warnings:
                EventLog(run.folder.events).append("warning", message=warning)
        return Sweep.create(Path(plan.runs[0][1].settings.runs_dir), plan.name, created)
    except BaseException:
        for run in created:
            shutil.rmtree(run.folder.path, ignore_errors=True)
        raise
