"""Sweeps: every combination of several values, checked together, trained one after another, compared on one page."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
from reference.trainings import run, settings_for

from lib_ti.cli import main
from lib_ti.errors import BadInput, Problem, UnusableFile
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.report.facts import Validation
from lib_ti.runs.sweeps import ranking
from lib_ti.runs.sweeps.comparison import comparison_html
from lib_ti.runs.sweeps.grid import MAX_RUNS, combinations, describe, run_names, split_values
from lib_ti.runs.sweeps.prepare import create_sweep, plan_sweep
from lib_ti.runs.sweeps.ranking import MeasuredRun, find_best, measure, validation_losses
from lib_ti.runs.sweeps.sweep import Sweep, SweepRun, find_sweeps, is_sweep
from lib_ti.runs.sweeps.train_sweep import train_sweep
from lib_ti.settings.names import name_problem
from lib_ti.text import option_flag

# --- which trainings ------------------------------------------------------------------------------------------------


def test_every_combination_is_a_run():
    runs = combinations({"vectors": ["1", "2", "1"], "learning_rate": ["0.01", "0.02"], "init_text": ["mug"]})
    assert runs == [
        {"vectors": v, "learning_rate": rate} for v in ("1", "2") for rate in ("0.01", "0.02")
    ]  # an option with one value distinguishes nothing
    assert describe(runs[0]) == "vectors 1, learning rate 0.01"


def test_options_with_one_value_are_apart_from_those_with_several():
    single, several = split_values(
        {"vectors": ["1", "2"], "init_text": ["a mug"], "images": ["a", "a"], "name": "my-mug"}
    )
    assert several == {"vectors": ["1", "2"]}
    assert single == {"vectors": "1", "init_text": "a mug", "images": "a", "name": "my-mug"}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "needs several values"),
        ({"vectors": ["1", "1"]}, "needs several values"),
        ({"seed": [str(i) for i in range(MAX_RUNS + 1)]}, f"{MAX_RUNS + 1} trainings are too many"),
        ({"seed": [str(i) for i in range(9)], "vectors": ["1", "2", "3"]}, r"27 trainings \(3 × 9\)"),
        ({"out": ["a", "b"]}, "cannot have several values"),
    ],
)
def test_too_few_and_too_many_are_refused(values, reason):
    with pytest.raises(BadInput, match=reason):
        combinations(values)


def test_names_say_what_differs():
    runs = combinations({"learning_rate": ["0.005", "1e-2"], "vectors": ["1", "4"]})
    assert run_names("my-mug", runs)[:2] == ["my-mug-v1-lr0.005", "my-mug-v1-lr1e-2"]
    folders = combinations({"images": ["/some/where/red mugs", "C/blue"]})
    assert run_names("my-mug", folders) == ["my-mug-red-mugs", "my-mug-blue"]


@pytest.mark.parametrize(
    "values",
    [
        {"init_text": ["a mug", "a!mug"]},
        {"init_text": ["x" * 90, "y"]},
        {"init_text": ["…", "コップ"]},
        {"learning_rate": ["0.005:100, 1e-3:1000, 5e-4:2000", "0.005"]},
        {"init_text": ["Mug", "mug"]},
        {"images": ["a/mugs", "b/mugs"]},
    ],
)
def test_names_are_always_usable_and_different(values):
    names = run_names("my-mug", combinations(values))
    assert names == ["my-mug-1", "my-mug-2"]
    assert not any(map(name_problem, names))


# --- checks ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def raw(tiny_checkpoint, pictures, tmp_path):
    settings = settings_for(tiny_checkpoint, pictures, tmp_path, steps="2", validate_every="1")
    return {name: str(value) for name, value in settings.to_json().items() if name in
            ("model", "images", "name", "out", "runs_dir", "steps", "preview_every", "snapshot_every", "precision",
             "validate_every")}  # fmt: skip


def test_all_are_checked_before_anything_is_written(raw, tmp_path):
    with pytest.raises(BadInput) as caught:
        plan_sweep(
            {**raw, "out": str(tmp_path / "no" / "folder")},
            {"vectors": ["1", "76", "many"], "learning_rate": ["0.1", "-1"]},
        )
    problems = {problem.option: str(problem) for problem in caught.value.problems}
    assert "with" not in problems["out"]  # all have it, so it is said once
    assert [p.option for p in caught.value.problems].count("out") == 1
    assert any("(with vectors 76" in str(p) for p in caught.value.problems)
    assert any("(with vectors 1, learning rate -1; vectors 76" in str(p) for p in caught.value.problems)
    assert not (tmp_path / "runs").exists()


def test_known_problems_are_reported_with_those_of_the_values(raw):
    with pytest.raises(BadInput) as caught:
        plan_sweep(raw, {}, [Problem("", "unknown option --vektors")])
    assert str(caught.value.problems[0]) == "unknown option --vektors"
    assert len(caught.value.problems) == 2


def test_bad_name_is_reported_once(raw):
    with pytest.raises(BadInput) as caught:
        plan_sweep({**raw, "name": "a/b"}, {"vectors": ["1", "2"]})
    assert [p.option for p in caught.value.problems] == ["name"]


def test_record_is_read_back(raw, tmp_path):
    sweep = create_sweep(plan_sweep(raw, {"vectors": ["1", "2"]}))
    assert is_sweep(sweep.path)
    assert [*find_sweeps(tmp_path / "runs")] == [Sweep.open(sweep.path)]
    assert [(r.name, dict(r.values), r.state) for r in Sweep.open(sweep.path).runs] == [
        ("my-mug-v1", {"vectors": "1"}, "waiting"),
        ("my-mug-v2", {"vectors": "2"}, "waiting"),
    ]
    assert [r.folder.settings.vectors for r in sweep.runs] == [1, 2]
    assert sweep.options == {"vectors": ["1", "2"]}
    shutil.rmtree(sweep.runs[0].folder.path)
    assert len(sweep.existing_runs) == 1


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"name": "a", "created": 1, "runs": [{"run": "../../x", "values": {}}]}']
)
def test_damaged_record_is_reported_and_not_listed(tmp_path, content):
    folder = tmp_path / "sweeps" / "a-1"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(content)
    with pytest.raises(UnusableFile, match="unreadable"):
        Sweep.open(folder)
    assert not [*find_sweeps(tmp_path)]
    with pytest.raises(UnusableFile, match="not a sweep"):
        Sweep.open(tmp_path)


# --- trainings ------------------------------------------------------------------------------------------------------


def test_sweep_trains_compares_stops_and_resumes(raw, tmp_path):
    """One training is stopped, one fails, and the others are trained all the same."""
    broken = tmp_path / "broken"
    shutil.copytree(raw["images"], broken)
    sweep = create_sweep(plan_sweep(raw, {"images": [raw["images"], str(broken)], "vectors": ["1", "2"]}))
    assert len(sweep.runs) == 4
    shutil.rmtree(broken)  # so its two runs fail
    finished, started = [], []

    def stop() -> bool:
        return "finished" in finished

    assert not train_sweep(sweep, started.append, lambda run, event: finished.append(event.kind), stop)
    assert [run.state for run in sweep.runs] == ["finished", "waiting", "waiting", "waiting"]
    assert started == [sweep.runs[0]]
    reopened = Sweep.open(sweep.path)
    assert train_sweep(reopened)
    assert sorted(run.state for run in reopened.runs) == ["failed", "failed", "finished", "finished"]
    text = sweep.comparison.read_text(encoding="utf-8")
    assert "2 of 4 finished" in text
    assert "is gone, and the run has no copies" in text
    assert find_best(measure(sweep)).run.state == "finished"


def test_sweep_from_the_command_line(raw, tmp_path, capfd):
    flags = [part for name, text in raw.items() for part in (option_flag(name), text)]
    assert main(["sweep", *flags, "--init-text", "mug", "cup", "--json"]) == 0
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [Path(e["run"]).parent.name for e in events if e["kind"] == "finished"] == ["my-mug-mug", "my-mug-cup"]
    [sweep] = find_sweeps(tmp_path / "runs")
    assert (tmp_path / "out" / "my-mug-cup.safetensors").is_file()
    sweep.comparison.unlink()
    assert main(["report", str(sweep.path)]) == 0
    assert capfd.readouterr().out.strip() == str(sweep.comparison)
    assert main(["resume", str(sweep.path)]) == 0  # nothing is left to train
    assert "The best is my-mug-" in capfd.readouterr().out
    assert main(["resume", str(sweep.path), "--steps", "9"]) == 2
    assert "one by one" in capfd.readouterr().err


def test_command_without_several_values_is_refused(raw, tmp_path, capfd):
    flags = [part for name, text in raw.items() for part in (option_flag(name), text)]
    assert main(["sweep", *flags, "--vectors", "2", "--preview-every", "x"]) == 2
    assert "needs several values" in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


# --- the comparison -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tiny_checkpoint, pictures, tmp_path_factory):
    """A finished and validated run, to be taken for several."""
    folder = tmp_path_factory.mktemp("measured")
    options = {"steps": "4", "validate_every": "2", "preview_every": "4", "preview_steps": "1"}
    return run(settings_for(tiny_checkpoint, pictures, folder, **options))


def several(measured: RunFolder, *changes: dict) -> list[MeasuredRun]:
    """Runs like the measured one, each with other losses and settings: `mean`, `losses`, `vectors`, `seed`."""
    [base] = measure(Sweep(measured.path, "my-mug", 0.0, (SweepRun(measured, {}),)))
    runs = []
    for i, change in enumerate(changes):
        losses = change["losses"]
        validation = Validation(4, sum(losses) / len(losses), change.get("change", -0.1), 0.01)
        settings = dataclasses.replace(
            base.facts.settings, vectors=change.get("vectors", 2), seed=change.get("seed", 0)
        )
        facts = dataclasses.replace(base.facts, validations=[validation], best=(4, ""), settings=settings)
        runs.append(MeasuredRun(SweepRun(measured, {"vectors": str(i)}), facts, losses))
    return runs


def test_losses_of_the_draws_are_read_without_torch(measured):
    [found] = measure(Sweep(measured.path, "my-mug", 0.0, (SweepRun(measured, {}),)))
    best = found.facts.best_validation
    assert len(found.losses) >= 4
    assert sum(found.losses) / len(found.losses) == pytest.approx(best.loss, rel=1e-5)
    assert validation_losses(measured, 999) == ()
    source = Path(ranking.__file__).read_text(encoding="utf-8")
    assert "import torch" not in source


def test_best_run_has_the_lowest_loss_and_says_how_sure_that_is(measured):
    low, high = (0.1, 0.2, 0.3, 0.4), (0.15, 0.25, 0.36, 0.45)
    runs = several(measured, {"losses": high}, {"losses": low})
    best = find_best(runs)
    assert best.run is runs[1].run
    assert "more than chance" in best.reason


def test_smaller_run_that_is_as_good_is_named(measured):
    runs = several(
        measured, {"losses": (0.1, 0.2, 0.3, 0.4), "vectors": 8}, {"losses": (0.2, 0.1, 0.4, 0.31), "vectors": 1}
    )
    best = find_best(runs)
    assert best.run is runs[0].run
    assert "with fewer vectors" in best.reason


def test_runs_on_other_draws_are_compared_by_their_own_start(measured):
    runs = several(measured, {"losses": (0.1,) * 4, "change": -0.01}, {"losses": (0.3,) * 4, "change": -0.3, "seed": 5})
    best = find_best(runs)
    assert best.run is runs[1].run
    assert "not measured on the same draws" in best.reason


def test_losses_that_are_no_numbers_are_left_out(measured):
    runs = several(measured, {"losses": (math.nan, 0.2, 0.3)}, {"losses": (0.1, 0.4, 0.5)})
    for i, run_ in enumerate(runs):
        validation = dataclasses.replace(run_.facts.validations[0], loss=0.2 + i)
        runs[i] = dataclasses.replace(run_, facts=dataclasses.replace(run_.facts, validations=[validation]))
    assert find_best(runs).run is runs[0].run


def test_nothing_is_best_without_validation(measured):
    [found] = several(measured, {"losses": (0.1, 0.2)})
    unmeasured = dataclasses.replace(found, facts=dataclasses.replace(found.facts, validations=[], best=None))
    assert find_best([unmeasured]) is None
    assert find_best([]) is None


def test_comparison_needs_nothing_else_and_escapes_values(measured):
    hostile = "<script>alert(1)</script>"
    runs = (SweepRun(measured, {"init_text": hostile}), SweepRun(measured, {"init_text": "mug"}))
    text = comparison_html(Sweep(measured.path, f"my-mug{hostile}", 0.0, runs))
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("[name]") >= 3  # the same prompts of all runs stand together
    assert text.count('class="picture"') == 2 * 3
    assert "the best" in text
