"""Everything the page can ask for, and the state behind it: one trainer in a WebUI's process.

It outlives the page, and the host's "Reload UI". What it knows of runs it reads from their folders.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lib_ti import __version__
from lib_ti.errors import BadInput, Problem, RunBusy, TextualInversionError, UnusableFile
from lib_ti.option import Raw
from lib_ti.runs.child import Child
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.queue import Job, RunQueue
from lib_ti.settings import CHANGEABLE
from lib_ti.webui import asking, crops, form, lending
from lib_ti.webui.checking import Checking
from lib_ti.webui.drafts import Drafts
from lib_ti.webui.host import Host
from lib_ti.webui.library import Library
from lib_ti.webui.results import Results
from lib_ti.webui.runs_view import RunsView, id_of
from lib_ti.webui.speed import Speed
from lib_ti.webui.thumbnails import Thumbnails

EXAMPLE = Path(__file__).resolve().parents[1] / "practice" / "concepts" / "coin"
_current: Trainer | None = None


def start(host: Host) -> Trainer:
    """The trainer of this process, made at the first call."""
    global _current
    if _current is None:
        _current = Trainer(host)
    return _current


def current() -> Trainer:
    """The trainer that was started."""
    if _current is None:
        raise TextualInversionError("The trainer is not running.")
    return _current


class Trainer:
    """What stands behind the tab and the picker of one host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.library = Library(host)
        self._thumbnails = Thumbnails()
        self._lending = lending.Lending(host)
        self._queue = RunQueue(self._lending.around, self._ended)
        self._runs = RunsView(lambda: host.runs, self._queue, self._thumbnails)
        self._drafts = Drafts(host.runs, self._thumbnails)
        self._speed = Speed(host.runs)
        self._checking = Checking(host, self._drafts, self._speed, self._training_names)
        self._results = Results(host, self._thumbnails, self._lending.tell)
        self._starting = threading.Lock()
        self._started: OrderedDict[str, dict[str, Any]] = OrderedDict()
        lending.clean_trials(host.runs)
        self._drafts.clean()

    def blocked(self) -> list[str]:
        """Folders that gradio must not serve files from."""
        return [str(self.host.runs.absolute())]

    def close(self) -> None:
        """Stop all trainings, saved."""
        self._queue.close()

    def actions(self) -> dict[str, Callable[..., Any]]:
        """By the names that the page calls them."""
        own = (
            self.form, self.check, self.train, self.poll, self.stop, self.sample, self.resume, self.delete, self.runs,
            self.settings, self.preview, self.use, self.card, self.download, self.open_folder, self.pictures, self.add,
            self.remove, self.clear, self.caption, self.folder, self.example, self.reuse, self.crops,
        )  # fmt: skip
        return {**{action.__name__: action for action in own}, **self.library.actions()}

    # the form

    def form(self) -> dict[str, Any]:
        return {
            "values": form.values(self.host.hides_paths),
            "presets": self._checking.presets(),
            "checkpoint": self._checking.checkpoint(),
            "hides_paths": self.host.hides_paths,
            "example": EXAMPLE.is_dir(),
            "host": self.host.title,
            "version": __version__,
        }

    def check(self, form: Mapping[str, Any], draft: str) -> dict[str, Any]:
        answer = self._checking.check(form, draft)
        earlier = self._runs.latest(str(form.get("name", "")).strip())
        return {**answer, "earlier": id_of(earlier) if earlier else None}

    def train(self, form: Mapping[str, Any], draft: str, token: str) -> dict[str, Any]:
        """Start a training, or put it in the queue. The same `token` again gives the same training."""
        with self._starting:
            if token not in self._started:
                self._started[token] = self._train(form, draft)
                while len(self._started) > 50:
                    self._started.popitem(last=False)
            return self._started[token]

    def _train(self, form: Mapping[str, Any], draft: str) -> dict[str, Any]:
        raw, problems = asking.raw_settings(form, self.host, self._drafts.folder(draft))
        problems += self._checking.name_problems(str(raw["name"]))
        if not self._drafts.pictures_of(draft):
            problems.append(Problem("images", "add pictures first; four are enough to start"))
        if "model" not in raw:
            problems.append(Problem("model", "no checkpoint is selected; choose one at the top of the WebUI"))
        self.host.embeddings.mkdir(parents=True, exist_ok=True)
        child = Child({"settings": raw})
        try:
            answer = self._answer(child, problems)
            folder = RunFolder.open(Path(answer["run"]))
            self._take_along(folder, draft)
            self._queue.add(Job(folder, bool(form.get("keep_generating")), child=child))
        except BaseException:
            child.close()
            raise
        self._runs.forget()
        return {"run": id_of(folder), "warnings": [asking.translated(w) for w in answer.get("warnings", ())]}

    def _answer(self, child: Child, problems: list[Problem]) -> dict[str, Any]:
        """The child's answer to its request. Raises BadInput with what it and we found wrong, each option once."""
        try:
            answer = child.answer()
        except BadInput as error:
            known = {problem.option for problem in problems}
            problems += [asking.in_form_words(p) for p in error.problems if p.option not in known]
        if problems:
            if "answer" in locals():
                self._results.delete(RunFolder(Path(answer["run"])))
            raise BadInput(problems)
        return answer

    def _take_along(self, folder: RunFolder, draft: str) -> None:
        """Give the run its own copies of the pictures; without them there is no run."""
        try:
            self._drafts.hand_over(draft, folder.images)
        except OSError as error:
            self._results.delete(folder)
            raise TextualInversionError(f"The pictures could not be copied: {error.strerror}.") from error

    # runs

    def poll(self, run: str | None, after: int, page: str = "tab") -> dict[str, Any]:
        jobs = self._queue.jobs()
        borrower = self._lending.borrower
        answer: dict[str, Any] = {
            "active": id_of(jobs[0].folder) if jobs else self._elsewhere(),
            "queue": [id_of(job.folder) for job in jobs[1:]],
            "lending": {"run": id_of(borrower.folder), "name": borrower.folder.path.parent.name} if borrower else None,
            "library": self.library.version(),
            "runs": self._runs.version(),
            "version": __version__,
            "run": None,
        }
        if run is not None:
            try:
                answer["run"] = self._runs.follow(run, after)
            except TextualInversionError as error:
                answer["gone"] = str(error)
        return answer

    def _elsewhere(self) -> str | None:
        """A run of this host that another process works on: the WebUI before this one, which is saving."""
        folder = self._runs.working()
        return id_of(folder) if folder else None

    def stop(self, run: str) -> dict[str, Any]:
        if not self._queue.stop(self._runs.folder(run).path):
            raise TextualInversionError("This training is not running.")
        return {}

    def sample(self, run: str) -> dict[str, Any]:
        job = self._queue.find(self._runs.folder(run).path)
        if job is None or job.child is None or not job.started:
            raise TextualInversionError("Previews can be made once the training runs.")
        job.child.sample()
        return {}

    def resume(self, run: str, steps: int | None = None, form: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Go on with a run, to a new total of `steps`; `form` may hold `keep_generating` and `less_memory`."""
        folder, form = self._runs.folder(run), form or {}
        with self._starting:
            if self._queue.find(folder.path):
                return {"run": run}  # the same click twice
            if folder.running:
                raise RunBusy("Another program is training this run.")
            settings = folder.settings
            changes: dict[str, Raw] = {name: str(form[name]) for name in CHANGEABLE & form.keys()}
            if steps is not None:
                changes["steps"] = str(int(steps))
            if form.get("less_memory"):
                changes |= {
                    "gradient_checkpointing": True, "batch_size": "1",
                    "gradient_accumulation": str(settings.global_batch),
                }  # fmt: skip
            child = Child({"run": str(folder.path), "changes": changes})
            try:
                child.answer()
                self._queue.add(Job(folder, bool(form.get("keep_generating")), child=child))
            except BaseException:
                child.close()
                raise
            self._runs.refreshed_settings(folder)
        return {"run": run}

    def delete(self, run: str) -> dict[str, Any]:
        folder = self._runs.folder(run)
        if self._queue.find(folder.path) or folder.running:
            raise TextualInversionError("Stop this training before deleting it.")
        self._results.delete(folder)
        self._runs.forget()
        return {}

    def runs(self) -> dict[str, Any]:
        return {"runs": self._runs.listed()}

    def settings(self, run: str) -> dict[str, Any]:
        return {"form": asking.form_of(self._runs.folder(run).settings, self.host.hides_paths)}

    # results

    def preview(self, run: str, step: int, prompt: int, seed: int, full: bool = False) -> dict[str, Any]:
        return {"image": self._results.preview(self._runs.folder(run), step, prompt, seed, full)}

    def use(
        self, run: str, step: int | None = None, name: str | None = None, overwrite: bool = False
    ) -> dict[str, Any]:
        return {"name": self._results.use(self._runs.folder(run), step, name, overwrite)}

    def card(self, run: str, step: int, prompt: int, seed: int) -> dict[str, Any]:
        self._results.make_card(self._runs.folder(run), step, prompt, seed)
        return {}

    def download(self, run: str, step: int | None = None) -> dict[str, Any]:
        return self._results.download(self._runs.folder(run), step)

    def open_folder(self, run: str) -> dict[str, Any]:
        self._results.open_folder(self._runs.folder(run))
        return {}

    # pictures

    def pictures(self, draft: str) -> dict[str, Any]:
        return {"pictures": self._drafts.pictures(draft, self._checking.resolution())}

    def add(self, draft: str, path: str, name: str) -> dict[str, Any]:
        try:
            added = self._drafts.add_upload(draft, path, name, self._checking.resolution())
        except UnusableFile as error:
            return {"pictures": [], "refused": [{"name": error.path.name, "reason": _reason(error)}]}
        return {"pictures": added, "refused": []}

    def remove(self, draft: str, id: str) -> dict[str, Any]:
        self._drafts.remove(draft, id)
        return self.pictures(draft)

    def clear(self, draft: str) -> dict[str, Any]:
        self._drafts.clear(draft)
        return {"pictures": []}

    def caption(self, draft: str, id: str, text: str) -> dict[str, Any]:
        self._drafts.caption(draft, id, str(text))
        return {}

    def folder(self, draft: str, path: str) -> dict[str, Any]:
        if self.host.hides_paths:
            raise TextualInversionError("This WebUI does not let the browser name its folders.")
        return self._copy_in(draft, Path(path.strip().strip('"')).expanduser())

    def example(self, draft: str) -> dict[str, Any]:
        return self._copy_in(draft, EXAMPLE)

    def reuse(self, draft: str, run: str) -> dict[str, Any]:
        """The pictures of a run, instead of those in the draft."""
        images = self._runs.folder(run).images
        if not images.is_dir():
            raise TextualInversionError("This run has not kept its pictures.")
        self._drafts.clear(draft)
        return self._copy_in(draft, images)

    def crops(self, draft: str, form: Mapping[str, Any]) -> dict[str, Any]:
        """The pictures as the trainer will see them."""
        resolution = str(form.get("resolution") or "").strip()
        side = (
            int(resolution) if resolution.isdecimal() and 8 <= int(resolution) <= 4096 else self._checking.resolution()
        )
        folder, shown = self._drafts.folder(draft), self._drafts.pictures_of(draft)
        return {"crops": crops.views(folder, shown, side, bool(form.get("buckets")), bool(form.get("masks", True)))}

    def _copy_in(self, draft: str, folder: Path) -> dict[str, Any]:
        added, refused = self._drafts.add_folder(draft, folder, self._checking.resolution())
        return {"pictures": added, "refused": [{"name": name, "reason": reason} for name, reason in refused]}

    def _training_names(self) -> set[str]:
        return {job.folder.path.parent.name.casefold() for job in self._queue.jobs()}

    def _ended(self, job: Job) -> None:
        checkpoint = self._checking.checkpoint()
        if checkpoint and checkpoint["family"]:
            self._speed.learn(job.folder, checkpoint["family"])
        lending.tidy(job.folder, self.host)


def _reason(error: UnusableFile) -> str:
    return str(error).removeprefix(f"{error.path}: ")
