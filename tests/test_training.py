"""The training itself: what it changes, that it is the same however it is cut up, and that nothing is lost."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from reference import trainings
from reference.trainings import run

from lib_ti.data.captions import Captioner
from lib_ti.data.dataset import Example
from lib_ti.data.latent_cache import LatentCache, LatentDistribution
from lib_ti.embedding.read import read_embedding
from lib_ti.errors import TrainingFailed
from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.prompt.placeholder import Placeholder
from lib_ti.model.prompt.text_encoder import Context
from lib_ti.model.speed.device import choose_precision
from lib_ti.runs.execute import create_run, execute_run
from lib_ti.runs.folder import RunFolder
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training import init_vectors
from lib_ti.training.dataloader import Batch, BatchSource
from lib_ti.training.preflight.preflight import preflight
from lib_ti.training.state import LossScaler, TrainState
from lib_ti.training.step import losses, update


@pytest.fixture(scope="module")
def model(tiny_checkpoint) -> StableDiffusion:
    return StableDiffusion.load(open_checkpoint(tiny_checkpoint), torch.float32, torch.device("cpu"))


@pytest.fixture
def source(model, tmp_path) -> BatchSource:
    """Four pictures' worth of made-up latents, one of them masked."""
    generator = torch.Generator().manual_seed(5)
    cache = LatentCache(tmp_path / "latents", 1 << 30)
    for i in range(4):
        mean = torch.randn(model.latent_channels, 8, 8, generator=generator)
        weight = torch.rand(1, 8, 8, generator=generator) if i == 2 else None
        cache.put(i, False, LatentDistribution(mean, torch.full_like(mean, 0.1), weight))
    examples = [Example(Path(f"{i}.png"), "", None, (64, 64)) for i in range(4)]
    captioner = Captioner("my-mug", ["a photo of [name]", "[name] on a table"])
    return BatchSource(examples, cache, captioner, model.tokenizer, Placeholder("my-mug", 0, 2), 7, False, 1000)


def begin(model: StableDiffusion, scaler: LossScaler | None = None) -> TrainState:
    vectors = init_vectors.from_text(model.token_embeddings()["clip_l"], model.tokenizer, "object", 2)
    return TrainState.begin({"clip_l": vectors}, 0.0, scaler or LossScaler(active=False))


def trained(model, source, steps: int, micro_batch: int, global_batch: int = 4) -> tuple[torch.Tensor, list[float]]:
    """The vectors and losses of a few steps of SGD: AdamW would blow the last bit of a gradient near zero up to a step."""
    state, order = begin(model), source.steps(0, global_batch)
    state.optimizer = torch.optim.SGD(state.vectors.values(), lr=0.1)
    found = [update(state, model, source, next(order), micro_batch, 0.1) for _ in range(steps)]
    return state.vectors["clip_l"].detach().clone(), found


def settings_for(*places: Path, **more: str) -> TrainSettings:
    return trainings.settings_for(*places, **{"steps": "12", "snapshot_every": "5", "lr_schedule": "constant", **more})


# --- the step ----------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_accumulation_is_one_large_batch(model, source):
    whole, losses_whole = trained(model, source, 3, micro_batch=4)
    for micro_batch in (1, 2, 3):
        split, losses_split = trained(model, source, 3, micro_batch)
        torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-6)
        assert losses_split == pytest.approx(losses_whole, rel=1e-5)


def test_only_the_vectors_change(model, source):
    before = {(i, name): p.clone() for i, part in enumerate(model.networks) for name, p in part.named_parameters()}
    vectors, _ = trained(model, source, 2, micro_batch=2)
    after = {(i, name): p for i, part in enumerate(model.networks) for name, p in part.named_parameters()}
    assert all(torch.equal(before[name], after[name]) and after[name].grad is None for name in before)
    assert not torch.equal(vectors, begin(model).vectors["clip_l"])


def test_the_gradient_is_that_of_finite_differences(model, source):
    batch, vectors = source.draw(0, [0, 1], 0, model.device), begin(model).vectors["clip_l"]
    losses(model, batch, {"clip_l": vectors}).mean().backward()
    gradient, vectors.grad = vectors.grad.clone(), None
    direction = gradient / gradient.norm()
    with torch.no_grad():
        there = losses(model, batch, {"clip_l": vectors + 1e-2 * direction}).mean()
        back = losses(model, batch, {"clip_l": vectors - 1e-2 * direction}).mean()
    assert float((there - back) / 2e-2) == pytest.approx(float(gradient.norm()), rel=0.02)


def test_a_mask_hides_what_it_covers(model, source):
    batch = source.draw(0, [0], 0, model.device)
    weight = torch.zeros(1, 1, 8, 8)
    weight[..., :4] = 2.0  # mean 1
    other_noise = batch.noise.clone()
    target = dataclasses.replace(batch, weight=weight)
    vectors = begin(model).vectors
    error = losses(model, target, vectors).item()
    plain = losses(model, batch, vectors).item()
    assert error != pytest.approx(plain)
    # the prediction stays, only the target changes where the mask is zero
    other_noise[..., 4:] += 10
    noisy = model.noise_schedule.add_noise(batch.latents, batch.noise, batch.t)
    predicted = model.predict(noisy, batch.t, model.encode_prompts(batch.prompts, vectors))
    shifted = ((predicted - other_noise).square() * weight).mean()
    assert shifted.item() == pytest.approx(error, rel=1e-5)


def test_v_prediction_aims_at_v(model, source):
    batch = source.draw(0, [0], 0, model.device)
    noise = dataclasses.replace(model.noise_schedule, prediction_type="v")
    alpha = noise.alphas_cumprod[batch.t].float().view(-1, 1, 1, 1)
    noisy = noise.add_noise(batch.latents, batch.noise, batch.t)
    v = noise.target(batch.latents, batch.noise, batch.t)
    # Salimans & Ho 2022: x = √ᾱ x_t - √(1-ᾱ) v and ε = √(1-ᾱ) x_t + √ᾱ v
    torch.testing.assert_close(alpha.sqrt() * noisy - (1 - alpha).sqrt() * v, batch.latents, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((1 - alpha).sqrt() * noisy + alpha.sqrt() * v, batch.noise, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("how", "limit"), [("norm", 1e-4), ("value", 1e-6)])
def test_clipping_sees_the_true_gradient(model, source, how, limit):
    """Also under fp16's loss scale, which must be taken out first. SGD shows the clipped gradient itself."""
    state = begin(model, LossScaler(active=True, scale=1024.0))
    state.optimizer = torch.optim.SGD(state.vectors.values(), lr=1.0)
    before = state.vectors["clip_l"].detach().clone()
    update(state, model, source, [0, 1], 1, 1.0, clip=how, clip_at=limit)
    moved = state.vectors["clip_l"].detach() - before
    size = moved.norm() if how == "norm" else moved.abs().max()
    assert float(size) == pytest.approx(limit, rel=0.02)


def test_an_overflow_leaves_the_step_out_and_halves_the_scale(model, source):
    state = begin(model, LossScaler(active=True, scale=2.0**126))
    before = state.vectors["clip_l"].detach().clone()
    update(state, model, source, [0], 1, 0.005)
    assert torch.equal(state.vectors["clip_l"], before)
    assert state.scaler.scale == 2.0**125
    state.step, state.scaler.scale, state.scaler.overflows = 0, 2.0**126, LossScaler.GIVE_UP_AFTER
    with pytest.raises(TrainingFailed, match="fp16 overflows"):
        update(state, model, source, [0], 1, 0.005)


def test_the_scale_grows_after_a_quiet_while():
    scaler = LossScaler(active=True, scale=8.0, quiet=LossScaler.GROW_AFTER - 1)
    assert scaler.accept([])
    assert scaler.scale == 16.0


def test_a_loss_that_is_no_number_ends_the_training(model, source):
    state = begin(model)
    update(state, model, source, [0], 1, 0.005)
    state.vectors["clip_l"].data.fill_(float("nan"))
    with pytest.raises(TrainingFailed, match="is not a number; try a lower learning rate"):
        update(state, model, source, [0], 1, 0.005)


def test_no_rate_is_blamed_before_anything_was_learned(model, source):
    state = begin(model)
    state.vectors["clip_l"].data.fill_(float("nan"))
    with pytest.raises(TrainingFailed, match="step 1 is not a number; the checkpoint's or the VAE's file is damaged"):
        update(state, model, source, [0], 1, 0.005)


def test_a_word_that_gets_no_gradient_ends_the_training(model, source, monkeypatch):
    monkeypatch.setattr(type(model), "encode_prompts", lambda self, prompts, vectors: Context(torch.zeros(
        len(prompts), 77, vectors["clip_l"].shape[1]) + 0 * vectors["clip_l"].sum()))  # fmt: skip
    with pytest.raises(TrainingFailed, match="no gradient"):
        update(begin(model), model, source, [0], 1, 0.005)


def test_draws_are_named_by_seed_step_and_place(source):
    def latents(step: int, first: int) -> torch.Tensor:
        batch: Batch = source.draw(step, [0], first, torch.device("cpu"))
        return batch.noise

    assert torch.equal(latents(3, 1), source.draw(3, [2, 0], 0, torch.device("cpu")).noise[1:])
    assert not torch.equal(latents(3, 1), latents(3, 0))
    assert not torch.equal(latents(3, 1), latents(4, 1))
    assert not torch.equal(
        latents(3, 1), dataclasses.replace(source, seed=8).draw(3, [0], 1, torch.device("cpu")).noise
    )


# --- where it starts ---------------------------------------------------------------------------------------------


def test_words_are_spread_over_the_vectors(model):
    table, tokenizer = model.token_embeddings()["clip_l"], model.tokenizer
    blue, mug = (table[tokenizer.token_ids(word)[0]].float() for word in ("blue", "mug"))
    assert torch.equal(init_vectors.from_text(table, tokenizer, "blue mug", 4), torch.stack([blue, blue, mug, mug]))
    assert torch.equal(init_vectors.from_text(table, tokenizer, "blue mug", 1), blue.unsqueeze(0))


def test_random_vectors_have_the_vocabularys_scale(model):
    table = model.token_embeddings()["clip_l"].float()
    vectors = init_vectors.at_random(table, 75, seed=1)
    assert float(vectors.norm(dim=1).mean()) == pytest.approx(float(table.norm(dim=1).mean()), rel=0.1)
    assert torch.equal(vectors, init_vectors.at_random(table, 75, seed=1))


# --- whole runs --------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_a_run_from_pictures_to_file(tiny_checkpoint, pictures, tmp_path):
    settings = settings_for(tiny_checkpoint, pictures, tmp_path, steps="10", preview_every="5", preview_steps="2")
    seen = []
    folder = run(settings, on_event=seen.append)
    kinds = [event.kind for event in seen]
    assert kinds[0] == "loading"
    assert kinds[-2:] == ["saving", "finished"]
    assert kinds.index("preview") > kinds.index("step")  # training starts before the first preview
    timeline = folder.history()
    assert sorted(timeline.steps) == list(range(1, 11))
    assert {step for step, _, _ in timeline.previews} == {0, 5, 10}
    assert sorted(timeline.snapshots) == [5, 10]
    embedding = read_embedding(tmp_path / "out" / "my-mug.safetensors")
    assert embedding.vectors["clip_l"].shape == (2, open_checkpoint(tiny_checkpoint).widths[0])
    assert embedding.metadata["checkpoint_sha256"] == open_checkpoint(tiny_checkpoint).sha256()
    assert not (folder.path / "latents.cache").exists()
    assert folder.summary()["state"] == "finished"


def test_the_same_settings_give_the_same_bytes(tiny_checkpoint, pictures, tmp_path):
    files = []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        files.append(run(settings_for(tiny_checkpoint, pictures, tmp_path / place)).embedding.read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("stop_at", [1, 5, 11])
def test_stopped_and_resumed_is_uninterrupted(tiny_checkpoint, pictures, tmp_path, stop_at):
    whole = run(settings_for(tiny_checkpoint, pictures, tmp_path, out=str(tmp_path / "whole")))
    seen = []
    settings = settings_for(
        tiny_checkpoint, pictures, tmp_path, flip="true", out=str(tmp_path / "whole"), name="flipped"
    )
    whole = run(settings)
    folder = create_run(preflight(dataclasses.replace(settings, out=tmp_path / "parts")))
    assert not execute_run(
        folder, on_event=seen.append, should_stop=lambda: sum(e.kind == "step" for e in seen) >= stop_at
    )
    assert folder.summary()["state"] == "stopped"
    assert not (tmp_path / "parts").exists()
    assert execute_run(folder)
    assert folder.embedding.read_bytes() == whole.embedding.read_bytes()
    assert (tmp_path / "parts" / "flipped.safetensors").read_bytes() == whole.embedding.read_bytes()


def test_stop_before_the_first_step_loses_nothing(tiny_checkpoint, pictures, tmp_path):
    folder = create_run(preflight(settings_for(tiny_checkpoint, pictures, tmp_path)))
    assert not execute_run(folder, should_stop=lambda: True)
    assert execute_run(folder)
    assert folder.summary()["state"] == "finished"


def test_going_on_past_the_end_is_a_longer_training(tiny_checkpoint, pictures, tmp_path):
    long = run(settings_for(tiny_checkpoint, pictures, tmp_path, steps="12"))
    short = run(settings_for(tiny_checkpoint, pictures, tmp_path, steps="7", out=str(tmp_path / "short")))
    short.store_settings(dataclasses.replace(short.settings, steps=12))
    assert execute_run(short)
    mine, its = (read_embedding(run.embedding).vectors["clip_l"] for run in (short, long))
    assert torch.equal(mine, its)


def test_a_stop_within_a_preview_makes_it_after_the_resume(tiny_checkpoint, pictures, tmp_path):
    settings = settings_for(tiny_checkpoint, pictures, tmp_path, steps="4", preview_every="2", preview_steps="3")
    folder, seen, asked = create_run(preflight(settings)), [], []

    def stopped() -> bool:
        asked.append(1)
        return any(e.kind == "step" and e.data["step"] == 2 for e in seen) and len(asked) > 0

    assert not execute_run(folder, on_event=seen.append, should_stop=stopped)
    assert (2, 0, 0) not in folder.history().previews
    assert execute_run(folder)
    assert {step for step, _, _ in folder.history().previews} == {0, 2, 4}


def test_another_file_of_that_name_is_left_alone(tiny_checkpoint, pictures, tmp_path):
    folder = create_run(preflight(settings_for(tiny_checkpoint, pictures, tmp_path, steps="2")))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "my-mug.safetensors").write_bytes(b"someone else's")
    with pytest.raises(TrainingFailed, match="left alone"):
        execute_run(folder)
    assert (tmp_path / "out" / "my-mug.safetensors").read_bytes() == b"someone else's"
    assert read_embedding(folder.embedding).num_vectors == 2
    assert folder.summary()["state"] == "failed"


def test_two_processes_do_not_train_one_run(tiny_checkpoint, pictures, tmp_path):
    from lib_ti.errors import RunBusy

    folder = create_run(preflight(settings_for(tiny_checkpoint, pictures, tmp_path)))
    lock = folder.lock
    lock.acquire()
    assert folder.running
    with pytest.raises(RunBusy):
        execute_run(folder)
    lock.release()
    assert not folder.running


def test_a_failure_reaches_the_log_and_the_events(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    folder = create_run(preflight(settings_for(tiny_checkpoint, pictures, tmp_path)))
    monkeypatch.setattr("lib_ti.training.loop.update", lambda *a, **k: 1 / 0)
    with pytest.raises(TrainingFailed, match="division by zero"):
        execute_run(folder)
    assert "ZeroDivisionError" in folder.log.read_text()
    assert folder.history().last.kind == "failed"
    assert not folder.running


def test_buckets_keep_shapes_and_masks_and_captions_come_along(tiny_checkpoint, tmp_path):
    from PIL import Image

    (tmp_path / "in").mkdir()
    for i, size in enumerate([(160, 90), (90, 160), (120, 120)]):
        Image.effect_noise(size, 60).convert("RGB").save(tmp_path / "in" / f"{i}.png")
    Image.linear_gradient("L").save(tmp_path / "in" / "0.mask.png")
    (tmp_path / "in" / "1.txt").write_text("my-mug (on a table), standing")
    settings = settings_for(
        tiny_checkpoint,
        tmp_path / "in",
        tmp_path,
        buckets="true",
        batch_size="2",
        latent_cache_mb="0",
        tag_dropout="0.5",
    )
    folder = run(settings)
    assert sorted(p.name for p in folder.images.iterdir()) == [
        "0000.mask.png",
        "0000.png",
        "0001.png",
        "0001.txt",
        "0002.png",
    ]
    assert folder.settings.captions == "txt"
    assert folder.summary()["state"] == "finished"


def test_a_broken_mask_costs_nothing_where_masks_do_not_count(tiny_checkpoint, tmp_path):
    from PIL import Image

    (tmp_path / "in").mkdir()
    Image.new("RGB", (70, 70), "red").save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "a.mask.png").write_bytes(b"no picture")
    folder = run(settings_for(tiny_checkpoint, tmp_path / "in", tmp_path, steps="1", masks="false"))
    assert [p.name for p in folder.images.iterdir()] == ["0000.png"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_the_same(tiny_checkpoint, pictures, tmp_path, precision):
    try:
        choose_precision(precision, torch.device("cpu"), 0)
    except ValueError as error:
        pytest.skip(str(error))
    full = run(settings_for(tiny_checkpoint, pictures, tmp_path, steps="20"))
    half = run(settings_for(tiny_checkpoint, pictures, tmp_path, steps="20", name="half", precision=precision))
    a, b = ([e.data["loss"] for e in f.history().steps.values()] for f in (full, half))
    assert a == pytest.approx(b, rel=0.05)


def test_gradient_checkpointing_changes_nothing(tiny_checkpoint, pictures, tmp_path):
    plain = run(settings_for(tiny_checkpoint, pictures, tmp_path, steps="4"))
    saving = run(settings_for(tiny_checkpoint, pictures, tmp_path, steps="4", name="b", gradient_checkpointing="true"))
    a, b = (read_embedding(f.embedding).vectors["clip_l"] for f in (plain, saving))
    assert torch.equal(a, b)


# --- killed ------------------------------------------------------------------------------------------------------


def start_training(arguments: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.Popen(
        [sys.executable, "-m", "lib_ti", *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tiny_checkpoint, pictures, tmp_path):
    """A real process, killed while it loads, in its first steps and later, then left to finish."""
    settings = settings_for(tiny_checkpoint, pictures, tmp_path, steps="120", snapshot_every="10")
    whole = run(dataclasses.replace(settings, out=tmp_path / "whole"))
    folder = create_run(preflight(settings))
    for moment in ("loading", '"step": 3,', '"step": 40,'):
        process = start_training(["resume", str(folder.path), "--json"])
        assert process.stdout is not None
        for line in process.stdout:
            if moment in line:
                break
        process.kill()
        process.wait()
        assert not folder.embedding.exists()
        assert folder.summary()["state"] == "interrupted"
    assert execute_run(folder)
    assert folder.embedding.read_bytes() == whole.embedding.read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_saves_and_exits_with_130(tiny_checkpoint, pictures, tmp_path):
    process = start_training(
        ["train", "--model", str(tiny_checkpoint), "--images", str(pictures), "--name", "stopped", "--out",
         str(tmp_path / "out"), "--runs-dir", str(tmp_path / "runs"), "--steps", "100000", "--preview-every", "0", "--json"]
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if '"step": 5,' in line:
            break
    process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + 60
    rest = process.stdout.read()
    assert process.wait(timeout=max(1, deadline - time.monotonic())) == 130
    assert '"kind": "stopped"' in rest
    (folder,) = (tmp_path / "runs" / "stopped").iterdir()
    assert RunFolder.open(folder).state.exists()
    assert not (tmp_path / "out").exists()
