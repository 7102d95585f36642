"""Trains the runs of a sweep one after another, each in a process of its own, so that none takes the others with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext

from lib_ti.errors import RunBusy
from lib_ti.runs.events import Event, read_events
from lib_ti.runs.queue import Job, RunQueue
from lib_ti.runs.sweeps.comparison import write_comparison_safely
from lib_ti.runs.sweeps.sweep import Sweep, SweepRun

POLL_INTERVAL_S = 0.2


def train_sweep(
    sweep: Sweep,
    on_start: Callable[[SweepRun], None] = lambda run: None,
    on_event: Callable[[SweepRun, Event], None] = lambda run, event: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train what is not finished, and write the comparison after each run. Returns False if it was stopped.

    A run that fails does not end the others. Stopped, everything is saved; a later call goes on. Raises RunBusy.
    """
    pending = sweep.unfinished_runs
    if busy := next((run for run in pending if run.folder.running), None):
        raise RunBusy(f"{busy.folder.path} is being trained by another process")
    stopped = False
    for run in pending:
        if stopped := should_stop():
            break
        _train(run, on_start, on_event, should_stop)
        write_comparison_safely(sweep)
    return not (stopped or should_stop())


def _train(
    run: SweepRun,
    on_start: Callable[[SweepRun], None],
    on_event: Callable[[SweepRun, Event], None],
    should_stop: Callable[[], bool],
) -> None:
    queue = RunQueue(lambda job: nullcontext(should_stop))
    events = run.folder.events
    offset = events.stat().st_size if events.exists() else 0
    on_start(run)
    queue.add(Job(run.folder))
    try:
        while True:
            going_on = bool(queue.jobs())
            new, offset = read_events(events, offset)
            for event in new:
                on_event(run, event)
            if not going_on:
                return
            time.sleep(POLL_INTERVAL_S)
    except BaseException:  # a second Ctrl-C
        queue.close()
        raise
