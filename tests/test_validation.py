"""Validation: what is measured and what it costs, the best step, and when a training ends by itself."""

import dataclasses
import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reference import trainings
from reference.trainings import run
from safetensors import safe_open

from lib_ti.cli import main
from lib_ti.embedding.read import read_embedding
from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.runs.events import Event, read_events
from lib_ti.runs.execute import create_run, execute_run
from lib_ti.runs.resume import resume
from lib_ti.settings.parsing import parse
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.dataloader import DataLoader
from lib_ti.training.preflight.preflight import preflight
from lib_ti.training.validation import constants
from lib_ti.training.validation.budget import plan_validations
from lib_ti.training.validation.early_stop import plan_stop
from lib_ti.training.validation.history import ValidationHistory
from lib_ti.training.validation.pictures import held_back_indices
from lib_ti.training.validation.statistics import paired_difference, t_quantile
from lib_ti.training.validation.validation_set import ValidationSet

NOISE = torch.linspace(-1, 1, 8)  # what the triples of a made-up history differ in from one step to another


def settings_for(*paths: Path, **more: str) -> TrainSettings:
    return trainings.settings_for(*paths, **{"steps": "12", "validate_every": "4", **more})


def history_of(*means: float, interval: int = 10, spread: float = 0.01) -> ValidationHistory:
    """Mean losses at step 0, `interval`, 2 `interval` …, whose triples have paired differences of some `spread`."""
    return ValidationHistory({
        i * interval: mean + spread * (NOISE if i % 2 else -NOISE) + torch.arange(8.0) for i, mean in enumerate(means)
    })  # fmt: skip


# --- what it costs -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 100_000), st.integers(1, 64))
def test_validation_takes_a_tenth_of_the_time_at_most(steps, batch):
    budget = plan_validations(steps, batch)
    if budget.interval:
        validations = math.ceil(steps / budget.interval) + 1
        cost = validations * budget.triples * constants.FORWARD_SHARE
        assert cost <= constants.MAX_TIME_SHARE * steps * batch
        assert 3 <= validations <= constants.MAX_VALIDATIONS + 1
        assert constants.MIN_TRIPLES <= budget.triples <= constants.MAX_TRIPLES


def test_longer_runs_are_measured_more():
    assert plan_validations(50, 1).interval == 0
    short, usual, long = (plan_validations(steps, 1) for steps in (100, 500, 3000))
    assert short.triples <= usual.triples < long.triples
    assert 100 / short.interval < 500 / usual.interval < 3000 / long.interval
    assert plan_validations(500, 1, 0).triples == 0
    assert plan_validations(6, 1, 2).triples == constants.MIN_TRIPLES  # the user asked for it


def test_preflight_resolves_auto(tiny_checkpoint, pictures, tmp_path):
    settings = settings_for(tiny_checkpoint, pictures, tmp_path, steps="500", validate_every="auto")
    assert preflight(settings).settings.validate_every == plan_validations(500, 1).interval


# --- what is measured --------------------------------------------------------------------------------------------------


def test_few_pictures_are_all_trained_on():
    assert held_back_indices(11, 0) == frozenset()
    assert {n: len(held_back_indices(n, 0)) for n in (12, 40, 1000)} == {12: 2, 40: 4, 1000: 8}
    assert held_back_indices(40, 0) == held_back_indices(40, 0) != held_back_indices(40, 1)


def test_few_pictures_are_measured_although_they_are_trained_on(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    sets = validation_sets(monkeypatch)
    folder = run(settings_for(tiny_checkpoint, pictures, tmp_path, steps="4", flip="true"))
    assert len({triple.latents.mean() for triple in sets[0].triples}) == len(list(folder.images.iterdir())) == 4
    assert "the loss on the pictures" in folder.history().best.data["reason"]


def validation_sets(monkeypatch) -> list[ValidationSet]:
    """The validation sets of the trainings that follow."""
    created, create = [], ValidationSet.create.__func__

    def spy(cls, *arguments):
        created.append(create(cls, *arguments))
        return created[-1]

    monkeypatch.setattr(ValidationSet, "create", classmethod(spy))
    return created


def test_timesteps_are_stratified_and_fixed(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    sets = validation_sets(monkeypatch)
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        run(settings_for(tiny_checkpoint, pictures, tmp_path, steps="4", name=name, seed=seed))
    first, again, other = ([triple.t for triple in validation.triples] for validation in sets)
    assert [int(t / 1000 * len(first)) for t in first] == list(range(len(first)))
    assert first == again != other
    assert torch.equal(sets[0].triples[0].noise, sets[1].triples[0].noise)
    assert not torch.equal(sets[0].triples[0].noise, sets[0].triples[1].noise)


def test_losses_do_not_depend_on_the_batch_size(tiny_checkpoint, tmp_path, monkeypatch):
    """Also where pictures differ in size, and some have masks."""
    (tmp_path / "in").mkdir()
    for i, size in enumerate([(160, 90), (90, 160), (120, 120)]):
        Image.effect_noise(size, 60).convert("RGB").save(tmp_path / "in" / f"{i}.png")
    Image.linear_gradient("L").save(tmp_path / "in" / "0.mask.png")
    sets = validation_sets(monkeypatch)
    run(settings_for(tiny_checkpoint, tmp_path / "in", tmp_path, steps="4", buckets="true"))
    (validation,) = sets
    assert len({triple.latents.shape for triple in validation.triples}) > 1
    model = StableDiffusion.load(open_checkpoint(tiny_checkpoint), torch.float32, torch.device("cpu"))
    vectors = {"clip_l": model.token_embeddings()["clip_l"][1000:1002].float()}
    alone = validation.losses(model, vectors, 1)
    torch.testing.assert_close(validation.losses(model, vectors, 4), alone, rtol=1e-4, atol=1e-6)
    unmasked = ValidationSet([dataclasses.replace(triple, weight=None) for triple in validation.triples])
    masked = [triple.weight is not None for triple in validation.triples]
    assert any(masked)
    assert (unmasked.losses(model, vectors, 1) != alone).tolist() == masked


def test_validation_does_not_change_what_training_draws(tiny_checkpoint, pictures, tmp_path):
    plain = run(settings_for(tiny_checkpoint, pictures, tmp_path, validate_every="0", name="plain"))
    validated = run(settings_for(tiny_checkpoint, pictures, tmp_path, validate_every="3", name="v", keep="last"))
    losses = [[e.data["loss"] for e in folder.history().steps.values()] for folder in (plain, validated)]
    assert losses[0] == losses[1]
    vectors = [read_embedding(folder.embedding).vectors["clip_l"] for folder in (plain, validated)]
    assert torch.equal(*vectors)
    assert sorted(validated.history().validations) == [0, 3, 6, 9, 12]
    assert not plain.history().validations
    assert plain.history().best is None


def test_pictures_held_back_are_not_trained_on(tiny_checkpoint, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for i in range(14):
        Image.new("RGB", (64, 64), (i * 16, 0, 0)).save(tmp_path / "in" / f"{i:02d}.png")
    seen, load = set(), DataLoader.load_batch

    def spy(self, step, indices, *arguments):
        seen.update(self.examples[i].path.name for i in indices)
        return load(self, step, indices, *arguments)

    monkeypatch.setattr(DataLoader, "load_batch", spy)
    folder = run(settings_for(tiny_checkpoint, tmp_path / "in", tmp_path, steps="40", validate_every="20"))
    held_back = {f"{i:04d}.png" for i in held_back_indices(14, 0)}
    assert len(held_back) == 2
    assert seen == {path.name for path in folder.images.iterdir()} - held_back
    assert "pictures that are not trained on" in folder.history().best.data["reason"]


# --- statistics and the best step --------------------------------------------------------------------------------------


def test_t_quantile_matches_tables():
    for degrees, quantile in {3: 3.182, 5: 2.571, 15: 2.131, 63: 1.998}.items():
        assert t_quantile(degrees) == pytest.approx(quantile, rel=0.01)


def test_paired_difference():
    reference = torch.tensor([1.0, 2.0, 30.0, 4.0])
    change = paired_difference(reference - torch.tensor([0.1, 0.2, 0.3, torch.nan]), reference)
    assert change.count == 3
    assert change.mean == pytest.approx(-0.2, abs=1e-5)
    assert change.interval == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=0.1)
    assert not change.is_above_zero


def test_the_latest_of_equally_good_steps_is_the_best():
    assert history_of(1.0).best_step == 0
    assert history_of(1.0, 0.8, 0.9, 0.95).best_step == 10
    assert history_of(1.0, 0.8, 0.8001, 0.9).best_step == 20
    assert history_of(1.0, 0.8, 0.799, 0.7, 0.8).best_step == 30
    assert history_of(1.0, 1.2, 1.1, 1.3).best_step == 20  # step 0 is not what was asked for


def test_a_training_that_has_found_nothing_goes_on():
    assert plan(history_of(1.0, *[1.0] * 9), 100).end == 100
    assert plan(history_of(1.0, 0.8, *[0.8] * 8), 100).end < 100


@given(st.lists(st.floats(0.1, 2.0), min_size=1, max_size=12))
def test_a_new_validation_becomes_the_best_or_leaves_it(means):
    bests = [history_of(1.0, *means[:count]).best_step for count in range(1, len(means) + 1)]
    assert all(now in (before, 10 * i) for i, (before, now) in enumerate(zip([10, *bests], bests, strict=False), 1))


def test_overtraining_is_a_rise_that_lasts():
    assert not history_of(1.0, 0.8, 0.9).is_overtrained
    assert history_of(1.0, 0.8, 0.9, 0.9).is_overtrained
    assert not history_of(1.0, 0.8, 0.801, 0.801).is_overtrained


# --- the end -----------------------------------------------------------------------------------------------------------


def plan(history: ValidationHistory, steps: int, **more: str):
    return plan_stop(history, parse({"steps": str(steps), **more})[0])


def test_a_flat_loss_begins_the_cooldown():
    falling = history_of(1.0, *(0.9 - 0.05 * i for i in range(10)))
    assert plan(falling, 100).end == 100
    flat = history_of(1.0, 0.9, 0.8, 0.7, *[0.7] * 6)
    decision = plan(flat, 100)
    assert (decision.cooldown_start, decision.end) == (60, 70)
    assert [decision.rate_factor(step) for step in (0, 59)] == [1.0, 1.0]
    factors = [decision.rate_factor(step) for step in range(60, 70)]
    assert factors == sorted(factors, reverse=True)
    assert 0 < factors[-1] < 0.1 < 0.9 < factors[0] < 1
    assert plan(flat, 100, early_stop="false").end == 100
    assert plan(flat, 68).end == 68  # nothing would be saved


def test_a_decision_to_stop_stays_as_validations_are_added():
    means = [1.0, 0.9, 0.8, 0.7, 0.7, 0.7, 0.7, 0.4, 0.3]
    plans = [plan(history_of(*means[:count]), 100) for count in range(7, len(means) + 1)]
    assert {p.end for p in plans} == {70}


def test_a_training_does_not_end_in_its_first_part():
    flat = history_of(1.0, *[0.8] * 11)
    assert plan(flat, 1000).end == 1000
    assert plan(flat, 200).cooldown_start == 80


# --- whole runs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def losses_by_step(monkeypatch) -> dict[int, float]:
    """The mean validation loss of each step from here on, where it is given; the last one given holds on."""
    means: dict[int, float] = {}
    from lib_ti.training.validation.validator import Validator

    def measured(self, validation_set, vectors, batch_size):
        step = 0 if vectors is self.state.initial_vectors else self.state.step
        mean = means[max(known for known in means if known <= step)]
        return mean + 1e-4 * torch.sin(torch.arange(len(validation_set.triples)) * (step + 1.0))

    monkeypatch.setattr(Validator, "_losses", measured)
    return means


def test_the_best_step_is_delivered(tiny_checkpoint, pictures, tmp_path, losses_by_step):
    losses_by_step |= {0: 1.0, 4: 0.8, 8: 0.9, 12: 0.95}
    seen = []
    folder = run(settings_for(tiny_checkpoint, pictures, tmp_path), on_event=seen.append)
    assert folder.embedding.read_bytes() == folder.snapshot(4).read_bytes()
    with safe_open(str(folder.embedding), framework="pt") as file:
        assert file.metadata()["steps"] == "4"
        assert file.metadata()["planned_steps"] == "12"
    best, finished = (next(e.data for e in seen if e.kind == kind) for kind in ("best", "finished"))
    assert best["step"] == 4
    assert "has fallen by 20.0%" in best["reason"]
    assert (finished["step"], finished["reason"]) == (12, "")
    assert [e.kind for e in seen].index("best") < [e.kind for e in seen].index("finished")
    assert [e.data["best_step"] for e in seen if e.kind == "validation"] == [0, 4, 4, 4]
    (warning,) = [e.data["message"] for e in seen if e.kind == "warning"]
    assert "the loss on the pictures has been rising since step 4" in warning
    last = run(settings_for(tiny_checkpoint, pictures, tmp_path, keep="last", name="last"))
    vectors = [read_embedding(path).vectors["clip_l"] for path in (last.embedding, folder.embedding)]
    assert not torch.equal(*vectors)
    assert last.history().best.data["step"] == 4


def test_a_run_ends_by_itself_and_can_go_on(tiny_checkpoint, pictures, tmp_path, losses_by_step, capsys):
    losses_by_step |= {0: 1.0, 4: 0.8}
    seen = []
    settings = settings_for(tiny_checkpoint, pictures, tmp_path, steps="100", lr_schedule="constant")
    folder = run(settings, on_event=seen.append)
    start = 4 * math.ceil(constants.MIN_TRAINED_SHARE * 100 / 4)
    end = start + constants.MIN_COOLDOWN_STEPS
    (finished,) = (event.data for event in seen if event.kind == "finished")
    assert finished["step"] == end
    assert finished["reason"] == (f"stopped at step {end} of 100: the loss on the pictures no longer improves")
    history = folder.history()
    rates = [event.data["learning_rate"] for event in history.steps.values()]
    assert rates[:start] == [0.005] * start
    assert rates[start:] == sorted(rates[start:], reverse=True)
    assert rates[-1] < 0.0006
    assert history.steps[end].data["steps"] == end
    assert end in history.validations

    assert not resume(folder, {})
    assert main(["resume", str(folder.path)]) == 0
    assert len(folder.history().steps) == end
    (tmp_path / "out" / "my-mug.safetensors").unlink()
    assert resume(folder, {})
    assert execute_run(folder)  # delivers it again
    assert len(folder.history().steps) == end

    assert resume(folder, {"steps": "100"})
    assert execute_run(folder)
    assert max(folder.history().steps) == 100
    assert folder.history().last.data["reason"] == ""
    assert not resume(folder, {})
    capsys.readouterr()


def has_trained(events: list[Event], step: int) -> bool:
    return any(event.kind == "step" and event.data["step"] == step for event in events)


def test_resumed_run_equals_an_uninterrupted_one(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    """Stopped before the first validation, right after one, and within the cooldown."""
    monkeypatch.setattr(ValidationHistory, "last_improvement", lambda self, steps: min(steps, default=0))
    options = {"steps": "60", "validate_every": "4", "batch_size": "1", "gradient_accumulation": "2"}
    settings = settings_for(tiny_checkpoint, pictures, tmp_path, out=str(tmp_path / "whole"), **options)
    whole = run(settings)
    assert 30 < whole.saved_step < 60, "nothing is to be seen of an early end"
    folder = create_run(preflight(dataclasses.replace(settings, out=tmp_path / "parts")))
    for stop_at in (1, 8, 30):
        seen = []
        assert not execute_run(folder, on_event=seen.append, should_stop=partial(has_trained, seen, stop_at))
        assert folder.saved_step == stop_at
        kinds = [event.kind for event in seen]
        assert stop_at == 1 or kinds.index("best") < kinds.index("stopped")
    assert execute_run(folder)
    assert folder.embedding.read_bytes() == whole.embedding.read_bytes()
    assert folder.state.read_bytes() == whole.state.read_bytes()
    data = [{step: event.data for step, event in f.history().validations.items()} for f in (folder, whole)]
    assert data[0] == data[1]
    (finished,) = (e.data["step"] for e in read_events(folder.events)[0] if e.kind == "finished")
    assert finished == whole.saved_step


def test_more_steps_keep_the_validation_set(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    """A longer run would have more triples, and losses of other triples cannot be compared."""
    sets = validation_sets(monkeypatch)
    folder = run(settings_for(tiny_checkpoint, pictures, tmp_path))
    assert resume(folder, {"steps": "400"})
    seen = []
    assert not execute_run(folder, on_event=seen.append, should_stop=lambda: any(e.kind == "step" for e in seen))
    assert [t.t for t in sets[0].triples] == [t.t for t in sets[1].triples]
    assert torch.equal(sets[0].triples[-1].latents, sets[1].triples[-1].latents)


def test_lack_of_memory_while_validating(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    """The losses are measured again, with a smaller micro-batch, and the training goes on with that."""
    original, calls = ValidationSet.losses, []

    def losses(self, model, vectors, batch_size):
        calls.append(batch_size)
        if batch_size > 1:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return original(self, model, vectors, batch_size)

    monkeypatch.setattr(ValidationSet, "losses", losses)
    folder = run(settings_for(tiny_checkpoint, pictures, tmp_path, batch_size="2"))
    assert set(folder.history().validations) == {0, 4, 8, 12}
    assert calls == [2, 1, 1, 1, 1]
    assert folder.settings.effective_batch_size == 2


def test_cuda_graphs_stay_unless_their_memory_is_needed(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    class Graphs:
        failure, released = "", 0

        def __init__(self, forward):
            self.forward = forward

        def __call__(self, *inputs):
            return self.forward(*inputs)

        def release(self):
            Graphs.released += 1
            return True

    original, load, fails = ValidationSet.losses, StableDiffusion.load.__func__, [False]

    def with_graphs(cls, *arguments, **more):
        model = load(cls, *arguments, **more)
        model.cuda_graphs = Graphs(model.unet_forward)
        return model

    def losses(self, model, vectors, batch_size):
        if fails[0] and not Graphs.released:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return original(self, model, vectors, batch_size)

    monkeypatch.setattr(StableDiffusion, "load", classmethod(with_graphs))
    monkeypatch.setattr(StableDiffusion, "vae_on_device", lambda self: __import__("contextlib").nullcontext())
    monkeypatch.setattr(ValidationSet, "losses", losses)
    run(settings_for(tiny_checkpoint, pictures, tmp_path))
    assert Graphs.released == 0
    fails[0] = True
    folder = run(settings_for(tiny_checkpoint, pictures, tmp_path, name="b"))
    assert Graphs.released > 0
    assert set(folder.history().validations) == {0, 4, 8, 12}
    assert not folder.history().warnings


def test_state_of_an_early_version_has_no_validations(tiny_checkpoint, pictures, tmp_path):
    """Settings without the options mean a training without validation, as it was then."""
    folder = run(settings_for(tiny_checkpoint, pictures, tmp_path))
    stored = json.loads((folder.path / "settings.json").read_text())
    for option in ("validate_every", "early_stop", "keep"):
        del stored["settings"][option]
    (folder.path / "settings.json").write_text(json.dumps(stored))
    assert folder.settings.validate_every == 0
    assert folder.settings.keep == "last"
    assert not folder.settings.early_stop
