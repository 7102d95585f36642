"""Training: the step, the data loader, the state, and whole runs that are stopped, killed and resumed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from reference import trainings
from reference.trainings import run
from safetensors import safe_open

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
from lib_ti.settings.parsing import parse
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.dataloader import DataLoader
from lib_ti.training.init_vectors import random_vectors, vectors_from_text
from lib_ti.training.preflight.preflight import preflight
from lib_ti.training.state import LossScaler, TrainState
from lib_ti.training.step import losses, update


@pytest.fixture(scope="module")
def model(tiny_checkpoint) -> StableDiffusion:
    return StableDiffusion.load(open_checkpoint(tiny_checkpoint), torch.float32, torch.device("cpu"))


@pytest.fixture
def dataloader(model, tmp_path) -> DataLoader:
    """Random latents of four images, one of them masked."""
    generator = torch.Generator().manual_seed(5)
    cache = LatentCache(tmp_path / "latents", 1 << 30)
    for i in range(4):
        mean = torch.randn(model.latent_channels, 8, 8, generator=generator)
        weight = torch.rand(1, 8, 8, generator=generator) if i == 2 else None
        cache.put(i, False, LatentDistribution(mean, torch.full_like(mean, 0.1), weight))
    examples = [Example(Path(f"{i}.png"), "", None, (64, 64)) for i in range(4)]
    captioner = Captioner("my-mug", ["a photo of [name]", "[name] on a table"])
    return DataLoader(examples, cache, captioner, model.tokenizer, Placeholder("my-mug", 0, 2), 7, False, 1000)


def initial_state(model: StableDiffusion, scaler: LossScaler | None = None, **options: str) -> TrainState:
    settings, _ = parse(options)
    state = TrainState.create(
        settings, {"clip_l": vectors_from_text(model.token_embeddings()["clip_l"], model.tokenizer, "object", 2)}
    )
    state.scaler = scaler or state.scaler
    return state


def step(state: TrainState, model: StableDiffusion, dataloader: DataLoader, indices: list[int], lr: float) -> float:
    """One step on a global batch, in the micro-batches of the state's settings."""
    size = state.settings.batch_size
    return update(state, model, dataloader.micro_batches(state.step, indices, size, model.device), lr)


def train(model, dataloader, steps: int, micro_batch: int, accumulation: int) -> tuple[torch.Tensor, list[float]]:
    """The vectors and losses of a few steps of SGD: AdamW would amplify the last bit of a gradient near zero."""
    state = initial_state(model, batch_size=str(micro_batch), gradient_accumulation=str(accumulation))
    batches = dataloader.batch_indices(0, state.settings.effective_batch_size)
    state.optimizer = torch.optim.SGD(state.vectors.values(), lr=0.1)
    losses = [step(state, model, dataloader, next(batches), 0.1) for _ in range(steps)]
    return state.vectors["clip_l"].detach().clone(), losses


def settings_for(*paths: Path, **more: str) -> TrainSettings:
    return trainings.settings_for(*paths, **{"steps": "12", "snapshot_every": "5", "lr_schedule": "constant", **more})


# --- the step ----------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_gradient_accumulation_equals_one_large_batch(model, dataloader):
    whole, losses_whole = train(model, dataloader, 3, micro_batch=4, accumulation=1)
    for micro_batch, accumulation in ((1, 4), (2, 2)):
        split, losses_split = train(model, dataloader, 3, micro_batch, accumulation)
        torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-6)
        assert losses_split == pytest.approx(losses_whole, rel=1e-5)


def test_a_smaller_last_micro_batch_counts_by_its_size(model, dataloader):
    indices, vectors = [0, 1, 2, 3], []
    for micro_batch in (4, 3):
        state = initial_state(model, batch_size="4")
        state.optimizer = torch.optim.SGD(state.vectors.values(), lr=0.1)
        update(state, model, dataloader.micro_batches(0, indices, micro_batch, model.device), 0.1)
        vectors.append(state.vectors["clip_l"].detach())
    torch.testing.assert_close(*vectors, rtol=1e-4, atol=1e-6)


def test_only_the_vectors_change(model, dataloader):
    before = {(i, name): p.clone() for i, part in enumerate(model.networks) for name, p in part.named_parameters()}
    vectors, _ = train(model, dataloader, 2, micro_batch=2, accumulation=2)
    after = {(i, name): p for i, part in enumerate(model.networks) for name, p in part.named_parameters()}
    assert all(torch.equal(before[name], after[name]) and after[name].grad is None for name in before)
    assert not torch.equal(vectors, initial_state(model).vectors["clip_l"])


def test_gradient_matches_finite_differences(model, dataloader):
    batch, vectors = dataloader.load_batch(0, [0, 1], 0, model.device), initial_state(model).vectors["clip_l"]
    losses(model, batch, {"clip_l": vectors}).mean().backward()
    gradient, vectors.grad = vectors.grad.clone(), None
    direction = gradient / gradient.norm()
    with torch.no_grad():
        forward = losses(model, batch, {"clip_l": vectors + 1e-2 * direction}).mean()
        backward = losses(model, batch, {"clip_l": vectors - 1e-2 * direction}).mean()
    assert float((forward - backward) / 2e-2) == pytest.approx(float(gradient.norm()), rel=0.02)


def test_masked_latents_do_not_affect_the_loss(model, dataloader):
    batch = dataloader.load_batch(0, [0], 0, model.device)
    weight = torch.zeros(1, 1, 8, 8)
    weight[..., :4] = 2.0  # mean 1
    other_noise = batch.noise.clone()
    masked = dataclasses.replace(batch, weight=weight)
    vectors = initial_state(model).vectors
    error = losses(model, masked, vectors).item()
    plain = losses(model, batch, vectors).item()
    assert error != pytest.approx(plain)
    # the prediction stays, only the target changes where the mask is zero
    other_noise[..., 4:] += 10
    noisy = model.noise_schedule.add_noise(batch.latents, batch.noise, batch.t)
    predicted = model.predict(noisy, batch.t, model.encode_prompts(batch.prompts, vectors))
    shifted = ((predicted - other_noise).square() * weight).mean()
    assert shifted.item() == pytest.approx(error, rel=1e-5)


def test_v_prediction_target(model, dataloader):
    batch = dataloader.load_batch(0, [0], 0, model.device)
    noise = dataclasses.replace(model.noise_schedule, prediction_type="v")
    alpha = noise.alphas_cumprod[batch.t].float().view(-1, 1, 1, 1)
    noisy = noise.add_noise(batch.latents, batch.noise, batch.t)
    v = noise.target(batch.latents, batch.noise, batch.t)
    # Salimans & Ho 2022: x = √ᾱ x_t - √(1-ᾱ) v and ε = √(1-ᾱ) x_t + √ᾱ v
    torch.testing.assert_close(alpha.sqrt() * noisy - (1 - alpha).sqrt() * v, batch.latents, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((1 - alpha).sqrt() * noisy + alpha.sqrt() * v, batch.noise, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("mode", "limit"), [("norm", 1e-4), ("value", 1e-6)])
def test_clipping_applies_to_the_unscaled_gradient(model, dataloader, mode, limit):
    """Of fp16's loss scale, too. The step of SGD is the clipped gradient itself."""
    scaler = LossScaler(active=True, scale=1024.0)
    state = initial_state(model, scaler, gradient_accumulation="2", clip=mode, clip_at=str(limit))
    state.optimizer = torch.optim.SGD(state.vectors.values(), lr=1.0)
    before = state.vectors["clip_l"].detach().clone()
    step(state, model, dataloader, [0, 1], 1.0)
    moved = state.vectors["clip_l"].detach() - before
    size = moved.norm() if mode == "norm" else moved.abs().max()
    assert float(size) == pytest.approx(limit, rel=0.02)


def test_overflow_skips_the_update_and_halves_the_scale(model, dataloader):
    state = initial_state(model, LossScaler(active=True, scale=2.0**126))
    before = state.vectors["clip_l"].detach().clone()
    step(state, model, dataloader, [0], 0.005)
    assert torch.equal(state.vectors["clip_l"], before)
    assert state.scaler.scale == 2.0**125
    state.step, state.scaler.scale = 0, 2.0**126
    state.scaler.consecutive_overflows = LossScaler.MAX_CONSECUTIVE_OVERFLOWS
    with pytest.raises(TrainingFailed, match="fp16 overflows"):
        step(state, model, dataloader, [0], 0.005)


def test_loss_scale_grows_after_an_interval_without_overflow():
    scaler = LossScaler(active=True, scale=8.0, steps_since_overflow=LossScaler.GROWTH_INTERVAL - 1)
    assert scaler.unscale([])
    assert scaler.scale == 16.0


def test_non_finite_loss_ends_the_training(model, dataloader):
    state = initial_state(model)
    step(state, model, dataloader, [0], 0.005)
    state.vectors["clip_l"].data.fill_(float("nan"))
    with pytest.raises(TrainingFailed, match="is not a number; try a lower learning rate"):
        step(state, model, dataloader, [0], 0.005)


def test_learning_rate_is_not_blamed_before_the_first_update(model, dataloader):
    state = initial_state(model)
    state.vectors["clip_l"].data.fill_(float("nan"))
    with pytest.raises(TrainingFailed, match="step 1 is not a number; the checkpoint's or the VAE's file is damaged"):
        step(state, model, dataloader, [0], 0.005)


def test_missing_gradient_ends_the_training(model, dataloader, monkeypatch):
    monkeypatch.setattr(type(model), "encode_prompts", lambda self, prompts, vectors: Context(torch.zeros(
        len(prompts), 77, vectors["clip_l"].shape[1]) + 0 * vectors["clip_l"].sum()))  # fmt: skip
    with pytest.raises(TrainingFailed, match="no gradient"):
        step(initial_state(model), model, dataloader, [0], 0.005)


def test_draws_depend_on_seed_step_and_position(dataloader):
    def noise(step: int, offset: int, seed: int = 7) -> torch.Tensor:
        loader = dataclasses.replace(dataloader, seed=seed)
        return loader.load_batch(step, [0], offset, torch.device("cpu")).noise

    assert torch.equal(noise(3, 1), dataloader.load_batch(3, [2, 0], 0, torch.device("cpu")).noise[1:])
    assert not torch.equal(noise(3, 1), noise(3, 0))
    assert not torch.equal(noise(3, 1), noise(4, 1))
    assert not torch.equal(noise(3, 1), noise(3, 1, seed=8))


def test_saved_state_has_the_documented_keys(model, dataloader, tmp_path):
    """States of earlier versions are read, so the keys stay."""
    state = initial_state(model)
    step(state, model, dataloader, [0], 0.005)
    state.last_output_step = 1
    (tmp_path / "state.safetensors").write_bytes(state.to_bytes())
    with safe_open(tmp_path / "state.safetensors", framework="pt") as file:
        assert set(file.keys()) == {
            "vectors.clip_l", "start.clip_l", "adam.clip_l.step", "adam.clip_l.exp_avg", "adam.clip_l.exp_avg_sq",
        }  # fmt: skip
        record = json.loads(file.metadata()["state"])
    assert record == {
        "step": 1, "smoothed": state.loss_average, "shown": 1, "scaler": {"scale": 1.0, "quiet": 0, "overflows": 0},
    }  # fmt: skip
    resumed = initial_state(model)
    resumed.load(tmp_path / "state.safetensors")
    assert resumed.to_bytes() == state.to_bytes()


# --- initial vectors ---------------------------------------------------------------------------------------------


def test_init_text_is_spread_over_the_vectors(model):
    table, tokenizer = model.token_embeddings()["clip_l"], model.tokenizer
    blue, mug = (table[tokenizer.token_ids(word)[0]].float() for word in ("blue", "mug"))
    assert torch.equal(vectors_from_text(table, tokenizer, "blue mug", 4), torch.stack([blue, blue, mug, mug]))
    assert torch.equal(vectors_from_text(table, tokenizer, "blue mug", 1), blue.unsqueeze(0))


def test_random_vectors_have_the_norm_of_the_token_table(model):
    table = model.token_embeddings()["clip_l"].float()
    vectors = random_vectors(table, 75, seed=1)
    assert float(vectors.norm(dim=1).mean()) == pytest.approx(float(table.norm(dim=1).mean()), rel=0.1)
    assert torch.equal(vectors, random_vectors(table, 75, seed=1))


# --- whole runs --------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_run_from_images_to_embedding_file(tiny_checkpoint, pictures, tmp_path):
    settings = settings_for(tiny_checkpoint, pictures, tmp_path, steps="10", preview_every="5", preview_steps="2")
    seen = []
    folder = run(settings, on_event=seen.append)
    kinds = [event.kind for event in seen]
    assert kinds[0] == "loading"
    assert kinds[-3:] == ["saving", "finished", "report"]
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


def test_same_settings_give_the_same_bytes(tiny_checkpoint, pictures, tmp_path):
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        files.append(run(settings_for(tiny_checkpoint, pictures, tmp_path / folder)).embedding.read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("stop_at", [1, 5, 11])
def test_resumed_run_equals_an_uninterrupted_one(tiny_checkpoint, pictures, tmp_path, stop_at):
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


def test_stop_before_the_first_step(tiny_checkpoint, pictures, tmp_path):
    folder = create_run(preflight(settings_for(tiny_checkpoint, pictures, tmp_path)))
    assert not execute_run(folder, should_stop=lambda: True)
    assert execute_run(folder)
    assert folder.summary()["state"] == "finished"


def test_resume_with_more_steps_equals_a_longer_run(tiny_checkpoint, pictures, tmp_path):
    long = run(settings_for(tiny_checkpoint, pictures, tmp_path, steps="12", ema_decay="0.5"))
    short = run(
        settings_for(tiny_checkpoint, pictures, tmp_path, steps="7", ema_decay="0.5", out=str(tmp_path / "short"))
    )
    short.store_settings(dataclasses.replace(short.settings, steps=12))
    assert execute_run(short)
    resumed, expected = (read_embedding(run.embedding).vectors["clip_l"] for run in (short, long))
    assert torch.equal(resumed, expected)


def test_negative_previews_are_pairs_and_the_one_without_the_word_is_made_once(tiny_checkpoint, pictures, tmp_path):
    settings = settings_for(
        tiny_checkpoint, pictures, tmp_path, kind="negative", steps="4", preview_every="2", preview_steps="2",
        preview_prompt=["a mug"],
    )  # fmt: skip
    folder = run(settings)
    previews = folder.history().previews
    assert {index: event.data["negative_prompt"] for index, event in previews.items()} == {
        (0, 0, 0): "my-mug", (0, 1, 0): "", (2, 0, 0): "my-mug", (4, 0, 0): "my-mug",
    }  # fmt: skip
    assert {(event.data["prompt"], event.data["seed"]) for event in previews.values()} == {("a mug", 1)}
    with_word, without = (Image.open(folder.preview(0, i, 0)) for i in (0, 1))
    assert "Negative prompt: my-mug\n" in with_word.info["parameters"]
    assert with_word.tobytes() != without.tobytes()
    assert folder.history().latest_preview() == (4, 0, 0)  # the card shows what the word does


def test_preview_interrupted_by_stop_is_made_after_resume(tiny_checkpoint, pictures, tmp_path):
    settings = settings_for(tiny_checkpoint, pictures, tmp_path, steps="4", preview_every="2", preview_steps="3")
    folder, seen = create_run(preflight(settings)), []

    def stopped() -> bool:
        return any(e.kind == "step" and e.data["step"] == 2 for e in seen)

    assert not execute_run(folder, on_event=seen.append, should_stop=stopped)
    assert (2, 0, 0) not in folder.history().previews
    assert execute_run(folder)
    assert {step for step, _, _ in folder.history().previews} == {0, 2, 4}


def test_test_pictures_show_the_finished_embedding(tiny_checkpoint, pictures, tmp_path):
    options = {"steps": "2", "preview_every": "2", "preview_steps": "2", "preview_prompt": ["a photo of [name]"]}
    folder = run(settings_for(tiny_checkpoint, pictures, tmp_path, **options))
    history = folder.history()
    assert [event.data["label"] for event in history.tests.values()] == ["plain", "elsewhere", "another colour"]
    plain = history.tests[0].data
    assert (plain["prompt"], plain["file"]) == ("a photo of my-mug", "tests/0.png")
    assert {event.data["seed"] for event in history.tests.values()} == {1}
    with Image.open(folder.path / plain["file"]) as test, Image.open(folder.preview(2, 0, 0)) as preview:
        assert test.tobytes() == preview.tobytes()  # same prompt, seed, sampler and vectors
        assert test.text["parameters"] == preview.text["parameters"]


def test_test_prompts_of_a_negative_embedding_are_pairs(tiny_checkpoint, pictures, tmp_path):
    options = {"steps": "1", "preview_every": "1", "preview_steps": "1", "kind": "negative"}
    options |= {"test_prompt": ["a cat"], "preview_negative_prompt": "blurry"}
    tests = run(settings_for(tiny_checkpoint, pictures, tmp_path, **options)).history().tests
    assert [(event.data["prompt"], event.data["negative_prompt"]) for event in tests.values()] == [
        ("a cat", "blurry, my-mug"),
        ("a cat", "blurry"),
    ]
    assert [event.data["label"] for event in tests.values()] == ["prompt 1, with the word", "prompt 1, without it"]


@pytest.mark.parametrize("options", [{"preview_every": "0"}, {"preview_every": "1", "test_prompt": ""}])
def test_test_pictures_can_be_turned_off(tiny_checkpoint, pictures, tmp_path, options):
    folder = run(settings_for(tiny_checkpoint, pictures, tmp_path, steps="1", preview_steps="1", **options))
    assert not folder.history().tests
    assert not (folder.path / "tests").exists()


def test_stop_during_test_pictures_delivers_the_embedding(tiny_checkpoint, pictures, tmp_path):
    settings = settings_for(tiny_checkpoint, pictures, tmp_path, steps="2", preview_every="2", preview_steps="2")
    folder, seen = create_run(preflight(settings)), []
    assert execute_run(folder, on_event=seen.append, should_stop=lambda: any(e.kind == "test" for e in seen))
    history = folder.history()
    assert history.last.kind == "finished"
    assert [*history.tests] == [0]
    assert "1 of 3" in history.warnings[-1].data["message"]
    assert read_embedding(tmp_path / "out" / "my-mug.safetensors").num_vectors == 2


def test_failing_test_pictures_do_not_fail_the_run(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyError("some prompt")

    monkeypatch.setattr("lib_ti.training.finishing.test_images.ImageSampler.sample", fail)
    options = {"steps": "1", "preview_every": "9", "preview_steps": "1", "preview_prompt": ["[name]"]}
    monkeypatch.setattr("lib_ti.training.preview.Previews.make", lambda *_: None)
    folder = run(settings_for(tiny_checkpoint, pictures, tmp_path, **options))
    assert "0 of 3 test pictures" in folder.history().warnings[-1].data["message"]
    assert folder.embedding.exists()


def test_killed_during_test_pictures_makes_them_after_resume(tiny_checkpoint, pictures, tmp_path):
    settings = settings_for(tiny_checkpoint, pictures, tmp_path, steps="2", preview_every="2", preview_steps="2")
    folder = create_run(preflight(settings))

    def kill(event) -> None:
        if event.kind == "test":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute_run(folder, on_event=kill)
    seen = []
    assert execute_run(folder, on_event=seen.append)
    assert sum(event.kind == "test" for event in seen) == 3
    assert not any(event.kind == "step" for event in seen)


def test_existing_embedding_of_that_name_is_not_replaced(tiny_checkpoint, pictures, tmp_path):
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


def test_unexpected_error_is_logged_and_reported(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    folder = create_run(preflight(settings_for(tiny_checkpoint, pictures, tmp_path)))
    monkeypatch.setattr("lib_ti.training.loop.update", lambda *a, **k: 1 / 0)
    with pytest.raises(TrainingFailed, match="division by zero"):
        execute_run(folder)
    assert "ZeroDivisionError" in folder.log.read_text()
    assert folder.history().last.kind == "failed"
    assert not folder.running


def test_buckets_masks_and_captions_are_used(tiny_checkpoint, tmp_path):
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


def test_broken_mask_is_ignored_without_masks(tiny_checkpoint, tmp_path):
    from PIL import Image

    (tmp_path / "in").mkdir()
    Image.new("RGB", (70, 70), "red").save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "a.mask.png").write_bytes(b"no picture")
    folder = run(settings_for(tiny_checkpoint, tmp_path / "in", tmp_path, steps="1", masks="false"))
    assert [p.name for p in folder.images.iterdir()] == ["0000.png"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_same_losses(tiny_checkpoint, pictures, tmp_path, precision):
    try:
        choose_precision(precision, torch.device("cpu"), 0)
    except ValueError as error:
        pytest.skip(str(error))
    full = run(settings_for(tiny_checkpoint, pictures, tmp_path, steps="20"))
    half = run(settings_for(tiny_checkpoint, pictures, tmp_path, steps="20", name="half", precision=precision))
    a, b = ([e.data["loss"] for e in f.history().steps.values()] for f in (full, half))
    assert a == pytest.approx(b, rel=0.05)


def test_gradient_checkpointing_gives_the_same_vectors(tiny_checkpoint, pictures, tmp_path):
    plain = run(settings_for(tiny_checkpoint, pictures, tmp_path, steps="4"))
    saving = run(settings_for(tiny_checkpoint, pictures, tmp_path, steps="4", name="b", gradient_checkpointing="true"))
    a, b = (read_embedding(f.embedding).vectors["clip_l"] for f in (plain, saving))
    assert torch.equal(a, b)


# --- killed processes ------------------------------------------------------------------------------------------------------


def start_training(arguments: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.Popen(
        [sys.executable, "-m", "lib_ti", *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.faults("SIGKILL of the command line")
def test_killed_run_resumes_to_the_same_bytes(tiny_checkpoint, pictures, tmp_path):
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
