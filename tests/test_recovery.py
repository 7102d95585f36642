"""Numbers that are not finite, and vectors that are too long: a training goes back, and says what is wrong."""

import dataclasses
from pathlib import Path

import pytest
import torch
from reference import trainings
from reference.trainings import run

from lib_ti.embedding.read import read_embedding
from lib_ti.errors import TrainingFailed
from lib_ti.runs.execute import create_run, execute_run
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training import step as step_module
from lib_ti.training.health.norms import long_norm
from lib_ti.training.preflight.preflight import preflight
from lib_ti.training.validation.constants import MAX_FAILURES, ROLLBACK_RATE_FACTOR

ROLLBACK_INTERVAL = 4
FAILING = ROLLBACK_INTERVAL * 2 + 3  # a step before which both remembered states are known


def settings_for(*paths: Path, **more: str) -> TrainSettings:
    return trainings.settings_for(
        *paths, **{"steps": str(FAILING + 5), "learning_rate": "0.005", "lr_schedule": "constant", **more}
    )


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch):
    monkeypatch.setattr("lib_ti.training.health.rollback.ROLLBACK_INTERVAL", ROLLBACK_INTERVAL)


@pytest.fixture
def break_losses(monkeypatch):
    """A function that makes losses NaN from here on, where `when(state, model)` says so."""
    update, losses = step_module.update, step_module.training_losses

    def install(when) -> None:
        def breaking(state, model, batches, lr):
            broken = when(state, model)
            factor = torch.nan if broken else 1.0
            monkeypatch.setattr(step_module, "training_losses", lambda *arguments: losses(*arguments) * factor)
            return update(state, model, batches, lr)

        monkeypatch.setattr("lib_ti.training.loop.update", breaking)

    return install


def messages(folder) -> list[str]:
    return [event.data["message"] for event in folder.history().warnings]


@pytest.mark.faults("numbers that are not finite")
def test_training_goes_back_and_on_with_a_lower_rate(tiny_checkpoint, pictures, tmp_path, break_losses):
    break_losses(lambda state, model: state.step == FAILING - 1 and state.recovery.rate_factor == 1)
    seen = []
    folder = run(settings_for(tiny_checkpoint, pictures, tmp_path), on_event=seen.append)
    (message,) = messages(folder)
    assert f"the loss of step {FAILING} was not a number" in message
    assert f"went back to step {ROLLBACK_INTERVAL} " in message
    steps = [event.data["step"] for event in seen if event.kind == "step"]
    assert steps == [*range(1, FAILING), *range(ROLLBACK_INTERVAL + 1, FAILING + 6)]
    rates = {event.data["step"]: event.data["learning_rate"] for event in seen if event.kind == "step"}
    assert rates[ROLLBACK_INTERVAL] == 0.005
    assert rates[FAILING] == pytest.approx(0.005 * ROLLBACK_RATE_FACTOR)
    assert folder.summary()["state"] == "finished"


@pytest.mark.parametrize("stop_at", [FAILING - 2, FAILING + 3])
def test_recovery_is_the_same_after_a_resume(tiny_checkpoint, pictures, tmp_path, break_losses, stop_at):
    """The states that are gone back to, the lower rate and the validations are stored."""
    break_losses(lambda state, model: state.step == FAILING - 1 and state.recovery.rate_factor == 1)
    settings = settings_for(tiny_checkpoint, pictures, tmp_path, validate_every="6", gradient_accumulation="2")
    whole = run(settings)
    folder, seen = create_run(preflight(dataclasses.replace(settings, out=tmp_path / "parts"))), []

    def should_stop() -> bool:
        return bool(seen) and seen[-1].kind == "step" and seen[-1].data["step"] == stop_at

    assert not execute_run(folder, on_event=seen.append, should_stop=should_stop)
    assert execute_run(folder)
    assert folder.embedding.read_bytes() == whole.embedding.read_bytes()
    assert folder.state.read_bytes() == whole.state.read_bytes()


def test_third_failure_in_a_row_keeps_the_best(tiny_checkpoint, pictures, tmp_path, break_losses):
    broken = [True]
    break_losses(lambda state, model: broken[0] and state.step == FAILING - 1)
    folder = create_run(preflight(settings_for(tiny_checkpoint, pictures, tmp_path, validate_every="4")))
    with pytest.raises(TrainingFailed, match=r"tried again 2 times in vain; .* snapshot of step (\d+)") as failure:
        execute_run(folder)
    kept = int(str(failure.value).rpartition(" ")[2])
    assert read_embedding(folder.snapshot(kept)).num_vectors == 2
    assert len(messages(folder)) == MAX_FAILURES - 1
    assert folder.saved_step == ROLLBACK_INTERVAL
    assert folder.history().last.data["message"] == str(failure.value)
    broken[0] = False
    assert execute_run(folder)


def test_failures_far_apart_are_not_in_a_row(tiny_checkpoint, pictures, tmp_path, break_losses):
    failing = [3, 12, 21, 30]
    break_losses(lambda state, model: state.step in failing and failing.remove(state.step) is None)
    folder = run(settings_for(tiny_checkpoint, pictures, tmp_path, steps="34"))
    assert len(messages(folder)) == 4
    assert max(folder.history().steps) == 34


def test_half_precision_becomes_fp32(tiny_checkpoint, pictures, tmp_path, break_losses):
    break_losses(lambda state, model: state.step == FAILING - 1 and model.dtype == torch.bfloat16)
    folder = run(settings_for(tiny_checkpoint, pictures, tmp_path, precision="bf16", validate_every="6"))
    (message,) = messages(folder)
    assert "goes on in fp32" in message
    assert folder.settings.precision == "fp32"
    history = folder.history()
    assert {event.data["learning_rate"] for event in history.steps.values()} == {0.005}
    assert sorted(history.steps) == list(range(1, FAILING + 6))
    assert folder.summary()["state"] == "finished"


@pytest.mark.parametrize("failure", ["gradient", "vectors"])
def test_other_numbers_that_are_not_finite(tiny_checkpoint, pictures, tmp_path, monkeypatch, failure):
    original, failed = torch.optim.AdamW.step, []

    def step(self, *arguments):
        original(self, *arguments)
        calls.append(1)
        if len(calls) == 5:
            self.param_groups[0]["params"][0].data.fill_(torch.nan)

    calls: list[int] = []
    if failure == "vectors":
        monkeypatch.setattr(torch.optim.AdamW, "step", step)
    else:
        check = step_module._check_gradient

        def check_gradient(parameters, step, first_update, dtype):
            if step == 4 and not failed:
                failed.append(step)
                parameters[0].grad.fill_(torch.inf)
            check(parameters, step, first_update, dtype)

        monkeypatch.setattr(step_module, "_check_gradient", check_gradient)
    folder = run(settings_for(tiny_checkpoint, pictures, tmp_path, steps="8"))
    (message,) = messages(folder)
    assert "of step 5 was not a number: the training went back to step 0" in message
    assert torch.isfinite(read_embedding(folder.embedding).vectors["clip_l"]).all()


def test_nothing_finite_ends_the_training_at_once(tiny_checkpoint, pictures, tmp_path, break_losses):
    break_losses(lambda state, model: True)
    folder = create_run(preflight(settings_for(tiny_checkpoint, pictures, tmp_path)))
    with pytest.raises(TrainingFailed, match="the checkpoint's or the VAE's file is damaged"):
        execute_run(folder)
    assert not messages(folder)


# --- long vectors ------------------------------------------------------------------------------------------------------


def test_long_norm_is_the_99th_percentile():
    table = torch.zeros(1000, 4)
    table[:, 0] = torch.arange(1, 1001)
    assert long_norm(table) == 990
    assert long_norm(table.half()) == 990


def test_absurd_learning_rate_is_warned_of(tiny_checkpoint, pictures, tmp_path):
    plan = preflight(settings_for(tiny_checkpoint, pictures, tmp_path, steps="6", learning_rate="100"))
    assert any("times the usual 0.03" in warning for warning in plan.warnings)
    folder = create_run(plan)
    assert execute_run(folder)
    while_training, at_delivery = messages(folder)
    assert "stop, and train with a lower learning rate" in while_training
    assert "other words in a prompt will hardly count" in at_delivery


def test_usual_learning_rates_are_not_warned_of(tiny_checkpoint, pictures, tmp_path):
    for rate in ("auto", "0.05", "0.05:10, 0.02:20, 0.0005"):
        settings = settings_for(tiny_checkpoint, pictures, tmp_path, learning_rate=rate, lr_schedule="auto")
        assert not preflight(settings).warnings
    assert not messages(run(settings_for(tiny_checkpoint, pictures, tmp_path, steps="6")))
