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

from collections.abc import Callable
from typing import Any

from lib_ti.errors import TextualInversionError
from lib_ti.runs.folder import RunFolder
from lib_ti.webui.api.runs_view import RunsView


class Sweeps:
    """The actions about sweeps and reports of one host."""

    def __init__(self, runs: RunsView) -> None:
        self._runs = runs

    def actions(self) -> dict[str, Callable[..., Any]]:
        return {"report": self.report}

    def report(self, run: str) -> dict[str, Any]:
        """The report that the training has written, or one of its course so far."""
        folder = self._runs.folder(run)
        try:
            return {"html": _written_report(folder) or _report_so_far(folder)}
        except OSError as error:
            raise TextualInversionError(f"The report cannot be made: {error.strerror}.") from error


def _written_report(folder: RunFolder) -> str | None:
    """The report in the run's folder; None if the run has gone on since."""
    if folder.running or not folder.report.exists():
        return None
    return folder.report.read_text(encoding="utf-8", errors="replace")


def _report_so_far(folder: RunFolder) -> str:
    from lib_ti.runs.report.run_report import report_html  # Pillow takes a moment, and the page is seldom asked for

    return report_html(folder)
