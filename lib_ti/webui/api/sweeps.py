"""Sweeps as the page sees them: several trainings queued in one go and compared; and the report of a single run.

The actions, each with its parameters and its reply; as with all actions, a reply may be {"error"} or {"problems"} instead:

    sweep(form, draft, token, values)   queue every combination of `values`, checked all together before anything is written
        form, draft, token: as in `train`; the form's own values stand for every option that is not in `values`
        values: {"learning_rate": ["0.002", "0.005"], "vectors": ["1", "4"], "init_text": ["mug", "cup"],
                 "images": ["", "my-mug/2026-01-02T03-04-05"]}
            any of `runs.sweeps.grid.SWEEPABLE`, each a list of texts as its field would have them. In "images" the empty text
            is the draft's pictures, and a run's id stands for the pictures of that run.
        -> {"sweep": id, "runs": [run id, ...], "warnings": [sentence, ...]}
    sweep_options()
        -> {"options": [{"name", "label", "help"}], "most": the most combinations}
    sweeps()                            every sweep, the newest first
        -> {"sweeps": [{"id", "name": the word, "time": seconds since 1970,
                        "state": "queued" | "running" | "finished" | "stopped", "done": runs that ended, "total",
                        "values": {option: [text, ...]},
                        "runs": [{"run": run id, "name": its word, "values": {option: text}, "state": as in `runs`,
                                  "step", "steps", "change": number | None, "interval": number | None}],
                        "best": {"run": run id, "reason": sentence} | None}]}
    comparison(sweep)                   the comparison as one page without scripts and external files, up to now
        -> {"html": text}               (show it in <iframe sandbox srcdoc=...>, or offer it as a download)
    stop_sweep(sweep)                   stop its running training and take the others out of the queue -> {}
    resume_sweep(sweep)                 queue all of its runs that are not finished -> {"runs": [run id, ...]}
    report(run)                         the report of one run as such a page, up to now -> {"html": text}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lib_ti.errors import TextualInversionError, UnusableFile
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.queue import RunQueue
from lib_ti.runs.sweeps.grid import MAX_RUNS, SWEEPABLE
from lib_ti.runs.sweeps.sweep import FOLDER, Sweep, find_sweeps
from lib_ti.webui.api.runs_view import RunsView, run_id
from lib_ti.webui.forms.form_to_settings import flags_to_labels
from lib_ti.webui.forms.launch_sweep import SweepLauncher
from lib_ti.webui.hosts.host import Host
from lib_ti.webui.ui import form as fields

_ENDED = ("finished", "stopped", "failed")


class Sweeps:
    """The actions about sweeps and reports of one host."""

    def __init__(self, host: Host, runs: RunsView, queue: RunQueue, launcher: SweepLauncher) -> None:
        self._host, self._runs, self._queue, self._launcher = host, runs, queue, launcher
        self._measured: dict[str, tuple[object, dict[str, Any]]] = {}  # by sweep: sizes of its logs, and its results

    def actions(self) -> dict[str, Callable[..., Any]]:
        own = (
            self.report, self.sweep, self.sweep_options, self.sweeps, self.comparison, self.stop_sweep, self.resume_sweep,
        )  # fmt: skip
        return {action.__name__: action for action in own}

    def report(self, run: str) -> dict[str, Any]:
        """The report that the training has written, or one of its course so far."""
        folder = self._runs.folder(run)
        try:
            return {"html": _written_report(folder) or _report_so_far(folder)}
        except OSError as error:
            raise TextualInversionError(f"The report cannot be made: {error.strerror}.") from error

    def sweep(self, form: Mapping[str, Any], draft: str, token: str, values: Mapping[str, Any]) -> dict[str, Any]:
        return self._launcher.start(form, draft, token, values)

    def sweep_options(self) -> dict[str, Any]:
        options = [
            {"name": name, "label": fields.label(name), "help": fields.help_text(name)}
            for name in SWEEPABLE
            if name != "images"
        ]
        pictures = {
            "name": "images",
            "label": "Pictures",
            "help": "This page's pictures, or those of earlier trainings.",
        }
        return {"options": [pictures, *options], "most": MAX_RUNS}

    def sweeps(self) -> dict[str, Any]:
        return {"sweeps": [self._row(sweep) for sweep in self._existing()]}

    def _existing(self) -> list[Sweep]:
        """The sweeps, without those whose runs were all deleted."""
        return [sweep for sweep in find_sweeps(self._host.runs_dir) if sweep.existing_runs]

    def comparison(self, sweep: str) -> dict[str, Any]:
        from lib_ti.runs.sweeps.comparison import (
            comparison_html,
        )  # Pillow takes a moment, and the page is seldom asked for

        return {"html": comparison_html(self._sweep(sweep))}

    def stop_sweep(self, sweep: str) -> dict[str, Any]:
        for run in reversed(self._sweep(sweep).existing_runs):  # the waiting ones first, so that none of them starts
            self._queue.stop(run.folder.path)
        return {}

    def resume_sweep(self, sweep: str) -> dict[str, Any]:
        return {"runs": self._launcher.enqueue(self._sweep(sweep))}

    def on_run_end(self, folder: RunFolder) -> None:
        """Write the comparison of a sweep once its last run has ended."""
        for sweep in find_sweeps(self._host.runs_dir):
            if any(run.folder.path == folder.path for run in sweep.runs):
                if all(run.state in _ENDED for run in sweep.existing_runs):
                    from lib_ti.runs.sweeps.comparison import write_comparison_safely

                    write_comparison_safely(sweep)
                return

    def _sweep(self, sweep: str) -> Sweep:
        """The sweep with an id from the page. Raises TextualInversionError if there is none."""
        if not isinstance(sweep, str) or not sweep or sweep.startswith(".") or set(sweep) & set("/\\:\0"):
            raise TextualInversionError("There is no such sweep.")
        try:
            return Sweep.open(self._host.runs_dir / FOLDER / sweep)
        except (UnusableFile, OSError) as error:
            raise TextualInversionError("This sweep no longer exists.") from error

    def _row(self, sweep: Sweep) -> dict[str, Any]:
        rows = {row["id"]: row for row in self._runs.rows(run.folder for run in sweep.existing_runs)}
        results = self._results(sweep)
        runs = []
        for run in sweep.existing_runs:
            identifier = run_id(run.folder)
            row = rows.get(identifier, {})
            runs.append({
                "run": identifier, "name": run.name, "values": dict(run.values), "state": row.get("state", "interrupted"),
                "step": row.get("step", 0), "steps": row.get("steps", 0),
                **results["runs"].get(identifier, {"change": None, "interval": None}),
            })  # fmt: skip
        states = [run["state"] for run in runs]
        done = sum(state in _ENDED for state in states)
        return {
            "id": sweep.path.name, "name": sweep.name, "time": sweep.created, "state": _state(states), "done": done,
            "total": len(runs), "values": sweep.options, "runs": runs, "best": results["best"],
        }  # fmt: skip

    def _results(self, sweep: Sweep) -> dict[str, Any]:
        """What the validations of a sweep's runs say, measured again when one of their logs has grown."""
        logs = [run.folder.events for run in sweep.existing_runs]
        key = tuple(log.stat().st_size if log.exists() else 0 for log in logs)
        known = self._measured.get(sweep.path.name)
        if known is None or known[0] != key:
            self._measured[sweep.path.name] = known = (key, _measure(sweep))
        return known[1]


def _measure(sweep: Sweep) -> dict[str, Any]:
    from lib_ti.runs.sweeps.ranking import find_best, measure

    measured = measure(sweep)
    best = find_best(measured)
    changes = {}
    for run in measured:
        validation = run.facts.delivered_validation
        changes[run_id(run.run.folder)] = {
            "change": validation.change if validation else None,
            "interval": validation.interval if validation else None,
        }
    return {
        "runs": changes,
        "best": {"run": run_id(best.run.folder), "reason": flags_to_labels(best.reason)} if best else None,
    }


def _state(states: list[str]) -> str:
    """The state of a sweep by those of its runs."""
    if "running" in states:
        return "running"
    if "queued" in states:
        return "running" if any(state in _ENDED for state in states) else "queued"
    return "finished" if all(state in ("finished", "failed") for state in states) else "stopped"


def _written_report(folder: RunFolder) -> str | None:
    """The report in the run's folder; None if the run has gone on since."""
    if folder.running or not folder.report.exists():
        return None
    return folder.report.read_text(encoding="utf-8", errors="replace")


def _report_so_far(folder: RunFolder) -> str:
    from lib_ti.runs.report.run_report import report_html  # Pillow takes a moment, and the page is seldom asked for

    return report_html(folder)
