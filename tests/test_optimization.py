"""What the optimisation settings do: the loss, its weights, the draw of timesteps, the optimizers, the moving average."""

import dataclasses

import pytest
import torch
from reference.trainings import run, settings_for

from lib_ti.embedding.read import read_embedding
from lib_ti.model.checkpoint.noise_schedule import NoiseSchedule
from lib_ti.runs.execute import create_run, execute_run
from lib_ti.settings.parsing import parse
from lib_ti.training.optimization.averaging import VectorAverage
from lib_ti.training.optimization.loss import min_snr_weight, pointwise_loss
from lib_ti.training.optimization.timesteps import sample_timestep
from lib_ti.training.preflight.preflight import preflight
from lib_ti.training.preflight.resolve_auto import auto_ema_decay


def test_huber_loss_is_the_square_of_small_errors_and_linear_in_large_ones():
    settings = dataclasses.replace(parse({})[0], loss_type="huber", huber_delta=0.5)
    error = torch.tensor([1e-3, 1000.0])
    loss = pointwise_loss(error, settings)
    assert loss[0] == pytest.approx(1e-6, rel=2e-2)
    assert loss[1] == pytest.approx(2 * 0.5 * (1000 - 0.5), rel=1e-3)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v"])
def test_min_snr_weight(prediction_type):
    schedule = NoiseSchedule(prediction_type=prediction_type)
    t = torch.tensor([0, 500, 999])
    snr = schedule.alphas_cumprod[t] / (1 - schedule.alphas_cumprod[t])
    expected = snr.clamp(max=5) / (snr if prediction_type == "epsilon" else snr + 1)
    assert torch.allclose(min_snr_weight(schedule, t, 5.0), expected.float())


def test_min_snr_weight_with_zero_terminal_snr_is_finite():
    schedule = NoiseSchedule(zero_terminal_snr=True)
    assert min_snr_weight(schedule, torch.tensor([999]), 5.0).item() == 1


def test_logit_normal_timesteps_favour_the_middle_and_stay_in_range():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([sample_timestep("logit-normal", 1000, generator) for _ in range(4000)]).float()
    assert 0 <= drawn.min() < drawn.max() <= 999
    assert ((drawn > 250) & (drawn < 750)).float().mean() == pytest.approx(0.728, abs=0.03)  # P(|z| < ln 3)


def test_average_is_corrected_for_its_start_and_leaves_frozen_vectors_alone():
    average = VectorAverage(0.9)
    trained, frozen = torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(1, 3), requires_grad=False)
    vectors = {"clip_l": trained, "clip_g": frozen}
    average.update(vectors)
    assert torch.allclose(average.of(vectors)["clip_l"], torch.ones(2, 3))
    trained.data.fill_(2.0)
    average.update(vectors)
    assert average.of(vectors)["clip_l"][0, 0] == pytest.approx((0.9 * 1 + 2) / 1.9)
    assert average.of(vectors)["clip_g"] is not frozen
    assert torch.equal(average.of(vectors)["clip_g"], frozen)


def test_average_is_over_a_tenth_of_the_steps():
    assert (auto_ema_decay(5), auto_ema_decay(50), auto_ema_decay(500), auto_ema_decay(100_000)) == (0, 0.8, 0.98, 0.99)


OPTIONS = [
    {"optimizer": "nadam"}, {"optimizer": "radam"}, {"adam_beta1": "0.9"}, {"ema_decay": "0.9"}, {"ema_decay": "0"},
    {"timestep_sampling": "uniform"}, {"loss_type": "huber"}, {"min_snr_gamma": "0.1"}, {"noise_offset": "0.1"},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_each_option_changes_the_result_and_resumes_exactly(tiny_checkpoint, pictures, tmp_path, options):
    def settings(name: str, **more: str):
        return settings_for(tiny_checkpoint, pictures, tmp_path, name=name, steps="20", **more)

    usual = read_embedding(run(settings("usual")).embedding).vectors["clip_l"]
    whole = read_embedding(run(settings("whole", **options)).embedding).vectors["clip_l"]
    assert not torch.equal(usual, whole)
    folder, seen = create_run(preflight(settings("parts", **options))), []
    assert not execute_run(
        folder, on_event=seen.append, should_stop=lambda: bool(seen) and seen[-1].data.get("step") == 11
    )
    assert execute_run(folder)
    assert torch.equal(read_embedding(folder.embedding).vectors["clip_l"], whole)
