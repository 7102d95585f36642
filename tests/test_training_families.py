"""All families train by the same step, loop and commands: golden losses, text encoders, learning rates, initial embeddings."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from reference.checkpoints import SIZES, build, write_checkpoint
from reference.trainings import run, settings_for
from safetensors.torch import load_file, save_file

from lib_ti.data.captions import Captioner
from lib_ti.data.dataset import Example
from lib_ti.data.latent_cache import LatentCache, LatentDistribution
from lib_ti.embedding.read import read_embedding
from lib_ti.embedding.value import Embedding
from lib_ti.embedding.write import save_embedding
from lib_ti.errors import BadInput
from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.prompt.placeholder import Placeholder
from lib_ti.model.speed.device import choose_precision
from lib_ti.runs.execute import create_run, execute_run
from lib_ti.settings.lr_schedule import auto_learning_rate
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.dataloader import DataLoader
from lib_ti.training.health import prediction_check
from lib_ti.training.import_images import load_examples
from lib_ti.training.init_vectors import init_vectors
from lib_ti.training.preflight.preflight import preflight
from lib_ti.training.state import TrainState
from lib_ti.training.step import update

CPU = torch.device("cpu")
GOLDEN = {
    ("sd1", "epsilon"): [1.30820, 1.31855, 1.36945],
    ("sd1", "v"): [1.20113, 1.26600, 1.21905],
    ("sd2", "epsilon"): [1.47122, 1.43353, 1.55781],
    ("sd2", "v"): [1.40730, 1.38654, 1.32435],
    ("sdxl", "epsilon"): [1.40988, 1.40190, 1.57155],
    ("sdxl", "v"): [1.32118, 1.38675, 1.26710],
}
"""Losses of the first three steps for each family and prediction, in fp32 on a CPU: alike in torch 2.1.2 and 2.13."""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    names = {"sd1": "small", "sd2": "sd2", "sdxl": "sdxl"}
    return {family: write_checkpoint(folder / f"{family}.safetensors", SIZES[name]) for family, name in names.items()}


@pytest.fixture(scope="module")
def sdxl(files) -> StableDiffusion:
    return StableDiffusion.load(open_checkpoint(files["sdxl"]), torch.float32, CPU)


def dataloader_for(model: StableDiffusion, folder: Path) -> DataLoader:
    """Random latents of four images with different crops."""
    generator = torch.Generator().manual_seed(5)
    cache = LatentCache(folder / "latents", 1 << 30)
    for i in range(4):
        mean = torch.randn(model.latent_channels, 8, 8, generator=generator)
        cache.put(i, False, LatentDistribution(mean, torch.full_like(mean, 0.1), None))
    examples = [Example(Path(f"{i}.png"), "", None, (64, 64), original_size=(100 + 40 * i, 90)) for i in range(4)]
    captioner = Captioner("my-mug", ["a photo of [name]", "[name] on a table"])
    return DataLoader(examples, cache, captioner, model.tokenizer, Placeholder("my-mug", 0, 2), 7, False, 1000)


def initial_state(model: StableDiffusion, settings: TrainSettings) -> TrainState:
    return TrainState.create(settings, init_vectors(settings, model.token_embeddings(), model.tokenizer, None))


def step(
    state: TrainState, model: StableDiffusion, dataloader: DataLoader, indices: list[int], lr: float | dict[str, float]
) -> float:
    """One step on a global batch, in the micro-batches of the state's settings."""
    size = state.settings.batch_size
    return update(state, model, dataloader.micro_batches(state.step, indices, size, model.device), lr)


def problems_of(settings: TrainSettings) -> dict[str, str]:
    with pytest.raises(BadInput) as raised:
        preflight(settings)
    return {problem.option: problem.message for problem in raised.value.problems}


# --- the step ----------------------------------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_golden_losses(files, pictures, tmp_path, family, prediction):
    checkpoint = open_checkpoint(files[family]).with_overrides(prediction)
    model = StableDiffusion.load(checkpoint, torch.float32, CPU)
    state = initial_state(model, settings_for(files[family], pictures, tmp_path, batch_size="2", adam_beta1="0.9"))
    dataloader = dataloader_for(model, tmp_path)
    batches = dataloader.batch_indices(0, 2)
    losses = [step(state, model, dataloader, next(batches), 0.005) for _ in range(3)]
    assert losses == pytest.approx(GOLDEN[family, prediction], rel=2e-4)


def train(model, dataloader, settings, micro_batch: int) -> tuple[torch.Tensor, list[float]]:
    settings = dataclasses.replace(settings, batch_size=micro_batch, gradient_accumulation=4 // micro_batch)
    state, batches = initial_state(model, settings), dataloader.batch_indices(0, 4)
    state.optimizer = torch.optim.SGD(state.vectors.values(), lr=0.1)
    losses = [step(state, model, dataloader, next(batches), 0.1) for _ in range(3)]
    return torch.cat([vectors.detach().flatten() for vectors in state.vectors.values()]), losses


@pytest.mark.smoke
def test_gradient_accumulation_equals_one_large_batch(sdxl, files, pictures, tmp_path):
    dataloader, settings = dataloader_for(sdxl, tmp_path), settings_for(files["sdxl"], pictures, tmp_path)
    whole, losses_whole = train(sdxl, dataloader, settings, micro_batch=4)
    for micro_batch in (1, 2):
        split, losses_split = train(sdxl, dataloader, settings, micro_batch)
        torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-6)
        assert losses_split == pytest.approx(losses_whole, rel=1e-5)


def test_each_text_encoder_has_its_learning_rate(sdxl, files, pictures, tmp_path):
    settings = settings_for(files["sdxl"], pictures, tmp_path, batch_size="2")
    state, dataloader = initial_state(sdxl, settings), dataloader_for(sdxl, tmp_path)
    step(state, sdxl, dataloader, [0, 1], {"clip_l": 0.25, "clip_g": 0.0625})
    moved = {name: (vectors.detach() - state.initial_vectors[name]).abs() for name, vectors in state.vectors.items()}
    assert float(moved["clip_l"].median()) == pytest.approx(0.25, rel=1e-3)  # Adam's first step is the rate itself
    assert float(moved["clip_g"].median()) == pytest.approx(0.0625, rel=1e-3)


@pytest.mark.parametrize("encoder", ["clip_l", "clip_g"])
def test_vectors_of_an_untrained_encoder_stay(files, pictures, tmp_path, encoder):
    run(settings_for(files["sdxl"], pictures, tmp_path, train_encoders=encoder))
    result = read_embedding(tmp_path / "out" / "my-mug.safetensors")
    tables = open_checkpoint(files["sdxl"]).token_embeddings()
    (word,) = StableDiffusion.load(open_checkpoint(files["sdxl"]), torch.float32, CPU).tokenizer.token_ids("object")
    for name, vectors in result.vectors.items():
        assert torch.equal(vectors, tables[name][[word, word]]) == (name != encoder)
    assert json.loads(result.metadata["settings"])["train_encoders"] == encoder


def test_time_ids_of_crops(tmp_path):
    def frame(width: int, height: int, size: tuple[int, int]) -> tuple[int, ...]:
        return Example(tmp_path, "", None, size, original_size=(width, height)).time_ids

    assert frame(1000, 500, (512, 512)) == (500, 1000, 0, 256, 512, 512)  # resized to 1024×512
    assert frame(300, 900, (512, 512)) == (900, 300, 512, 0, 512, 512)  # to 512×1536
    assert frame(64, 64, (128, 128)) == (64, 64, 0, 0, 128, 128)
    assert frame(1024, 768, (1152, 896)) == (768, 1024, 0, 21, 896, 1152)
    assert Example(tmp_path, "", None, (96, 64)).time_ids == (64, 96, 0, 0, 64, 96)


@pytest.mark.parametrize("buckets", ["true", "false"])
def test_time_ids_are_those_of_the_imported_image(files, tmp_path, buckets):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (4096, 2048), "red").save(tmp_path / "in" / "large.png")
    settings = settings_for(files["sdxl"], tmp_path / "in", tmp_path, steps="1", buckets=buckets, flip="true")
    folder = run(settings)
    (example,) = load_examples(folder.images, folder.settings)
    assert example.time_ids == (1024, 2048, 0, *((4, 48, 88) if buckets == "true" else (32, 64, 64)))


# --- whole runs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_resumed_run_equals_an_uninterrupted_one(files, pictures, tmp_path, family):
    settings = settings_for(files[family], pictures, tmp_path, out=str(tmp_path / "whole"), batch_size="2", flip="true")
    whole, seen = run(settings), []
    folder = create_run(preflight(dataclasses.replace(settings, out=tmp_path / "parts")))
    assert not execute_run(folder, on_event=seen.append, should_stop=lambda: sum(e.kind == "step" for e in seen) >= 3)
    assert execute_run(folder)
    assert folder.embedding.read_bytes() == whole.embedding.read_bytes()


def test_auto_learning_rates_and_resolution(files, pictures, tmp_path):
    def rates(family: str, **more: str) -> tuple[str, str, int | None]:
        more = {"learning_rate": "auto", "steps": "500", **more}
        s = preflight(settings_for(files[family], pictures, tmp_path, **more)).settings
        return s.learning_rate, s.learning_rate_2, s.resolution

    narrow, wide = (f"{auto_learning_rate(width, 500):g}" for width in (64, 96))
    assert rates("sd1") == (narrow, "auto", 64)
    assert rates("sd2") == (wide, "auto", 64)
    assert rates("sdxl") == (narrow, wide, 64)
    assert rates("sdxl", learning_rate="0.01") == ("0.01", "0.01", 64)
    assert rates("sdxl", learning_rate_2="0.001") == (narrow, "0.001", 64)


def test_both_learning_rates_are_reported(files, pictures, tmp_path):
    folder = run(settings_for(files["sdxl"], pictures, tmp_path, learning_rate="0.01", learning_rate_2="0.2:2, 0.1"))
    steps = [event.data for event in folder.history().steps.values()]
    assert [s["learning_rate_2"] for s in steps] == [0.2, 0.2, 0.1, 0.1, 0.1, 0.1]
    assert steps[0]["learning_rate"] == 0.01
    assert steps[-1]["learning_rate"] < 0.002


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("sampler", ["dpm++ 2m", "euler", "euler a", "ddim"])
def test_previews_have_content(files, pictures, tmp_path, prediction, sampler):
    more = {
        "prediction": prediction,
        "zero_terminal_snr": "yes" if prediction == "v" else "no",
        "preview_sampler": sampler,
    }
    settings = settings_for(files["sdxl"], pictures, tmp_path, steps="1", preview_every="1", preview_steps="3", **more)
    folder = run(settings)
    image = Image.open(folder.preview(1, 0, 0))
    assert image.size == (64, 64)
    assert len(image.getcolors(64 * 64) or []) > 50


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_same_losses(files, pictures, tmp_path, precision):
    try:
        choose_precision(precision, CPU, 0)
    except ValueError as error:
        pytest.skip(str(error))
    full = run(settings_for(files["sdxl"], pictures, tmp_path))
    half = run(settings_for(files["sdxl"], pictures, tmp_path, name="half", precision=precision))
    a, b = ([e.data["loss"] for e in f.history().steps.values()] for f in (full, half))
    assert a == pytest.approx(b, rel=0.05)


# --- initial embeddings ----------------------------------------------------------------------------------


def test_sd1_embedding_initializes_clip_l_of_sdxl(files, pictures, tmp_path):
    save_file({"emb_params": torch.full((2, 64), 0.1)}, tmp_path / "old-mug.safetensors")
    settings = settings_for(
        files["sdxl"], pictures, tmp_path, init_embedding=str(tmp_path / "old-mug.safetensors"), init_text="mug",
        train_encoders="clip_g", steps="2",
    )  # fmt: skip
    plan = preflight(settings)
    assert "'old-mug' starts CLIP-L; CLIP-G starts from 'mug'" in plan.warnings
    folder = create_run(plan)
    seen = []
    assert not execute_run(
        folder, on_event=seen.append, should_stop=lambda: any(event.kind == "step" for event in seen)
    )
    assert execute_run(folder)  # what a stop leaves knows it too
    result = read_embedding(tmp_path / "out" / "my-mug.safetensors")
    assert torch.equal(result.vectors["clip_l"], torch.full((2, 64), 0.1))
    assert result.metadata["start"] == "old-mug (clip_l), mug (clip_g)"
    assert problems_of(dataclasses.replace(settings, init_text=""))["init_text"].startswith(
        "'old-mug' starts CLIP-L only; name a word for CLIP-G"
    )


def test_embedding_of_the_same_family_initializes_all_encoders(files, pictures, tmp_path):
    for family, vectors in {
        "sd2": {"emb_params": torch.full((2, 96), 0.1)},
        "sdxl": {"clip_l": torch.full((2, 64), 0.1), "clip_g": torch.full((2, 96), 0.2)},
    }.items():
        save_file(vectors, tmp_path / f"old-{family}.safetensors")
        settings = settings_for(
            files[family], pictures, tmp_path, init_embedding=str(tmp_path / f"old-{family}.safetensors"), name=family,
            learning_rate="1e-9", steps="1",
        )  # fmt: skip
        result = read_embedding(run(settings).embedding)
        assert result.metadata["start"] == f"old-{family}"
        for vector, old in zip(result.vectors.values(), vectors.values(), strict=True):
            torch.testing.assert_close(vector, old)


@pytest.mark.parametrize("given", ["learned_embeds", "learned_embeds_2"])
def test_diffusers_pair_of_files_initializes_both_encoders(files, pictures, tmp_path, given):
    """The first brings the second along; the second is one half, which its key tells."""
    old = Embedding("old", {"clip_l": torch.full((2, 64), 0.1), "clip_g": torch.full((2, 96), 0.2)})
    _, second = save_embedding(old, "diffusers", tmp_path / "learned_embeds.safetensors")
    if given == second.stem:
        save_file({"clip_g": old.vectors["clip_g"]}, second)
    settings = settings_for(
        files["sdxl"], pictures, tmp_path, init_embedding=str(tmp_path / f"{given}.safetensors"), learning_rate="1e-9",
        steps="1",
    )  # fmt: skip
    both = given == "learned_embeds"
    assert any(f"together with {second.name}" in warning for warning in preflight(settings).warnings) == both
    result = read_embedding(run(settings).embedding)
    torch.testing.assert_close(result.vectors["clip_g"], old.vectors["clip_g"])
    assert result.metadata["start"] == (given if both else f"{given} (clip_g), {settings.init_text} (clip_l)")
    assert torch.allclose(result.vectors["clip_l"], old.vectors["clip_l"]) == both


def test_half_of_an_sdxl_embedding_is_refused_with_a_hint(files, tmp_path):
    save_file({"<mug>": torch.ones(2, 1280)}, tmp_path / "mug_2.safetensors")
    done = command(
        "generate", "--model", files["sdxl"], "--embedding", tmp_path / "mug_2.safetensors", "--prompt", "a", "--out",
        tmp_path / "not",
    )  # fmt: skip
    assert done.returncode == 2
    assert "'mug_2' holds only half of an embedding for SDXL" in done.stderr


def test_non_finite_image_is_an_error(files, pictures, tmp_path):
    """Neither on the command line nor as a preview, which is left out with a warning."""

    def damaged(path):
        state = load_file(path)
        name = next(n for n in state if n.startswith("first_stage_model.decoder.") and n.endswith("weight"))
        save_file({**state, name: torch.full_like(state[name], float("nan"))}, tmp_path / "damaged.safetensors")
        shutil.copy(path.with_suffix(".yaml"), tmp_path / "damaged.yaml")
        return tmp_path / "damaged.safetensors"

    model = damaged(files["sdxl"])
    done = command(
        "generate", "--model", model, "--prompt", "a", "--out", tmp_path / "made", "--count", 1, "--sampling-steps", 2
    )
    assert done.returncode == 1
    assert "Failed: the picture is not made of numbers" in done.stderr
    assert not list((tmp_path / "made").iterdir())
    folder = run(
        settings_for(
            model,
            pictures,
            tmp_path,
            steps="2",
            preview_every="1",
            preview_steps="2",
            preview_prompt=["a [name]"],
            test_prompt="",
        )
    )
    warning_events = folder.history().warnings
    assert [event.data["message"].partition(":")[0] for event in warning_events] == [
        "there is no preview of 'a my-mug'"
    ]
    assert folder.embedding.exists()


# --- incompatible settings ------------------------------------------------------------------------------------------


def test_initial_embedding_of_another_family_is_refused(files, pictures, tmp_path):
    save_file({"emb_params": torch.ones(2, 1024)}, tmp_path / "two.safetensors")
    settings = settings_for(files["sdxl"], pictures, tmp_path, init_embedding=str(tmp_path / "two.safetensors"))
    assert problems_of(settings) == {
        "init_embedding": "'two' is an embedding for Stable Diffusion 2.x (vectors of width 1024), but this SDXL checkpoint "
        "takes vectors of width 64 + 96; it fits Stable Diffusion 2.x checkpoints"
    }


def test_sdxl_options_are_refused_for_one_text_encoder(files, pictures, tmp_path):
    settings = settings_for(
        files["sd2"], pictures, tmp_path, train_encoders="clip_g", learning_rate_2="0.1", clip_skip="4"
    )
    assert problems_of(settings) == {
        "train_encoders": "Stable Diffusion 2.x has one text encoder, so there is no CLIP-G to train",
        "clip_skip": "the text encoder of this checkpoint has 3 layers",
    }
    plan = preflight(dataclasses.replace(settings, train_encoders="both", clip_skip=None))
    assert plan.warnings == ["--learning-rate-2 is not used: it is for SDXL alone"]


class _IdealUNet:
    """Knows the latents, and makes a perfect prediction of one type."""

    def __init__(self, model: StableDiffusion, latents: torch.Tensor, prediction: str) -> None:
        self._noise, self._latents = dataclasses.replace(model.noise_schedule, prediction_type=prediction), latents

    def __call__(self, noisy: torch.Tensor, t: torch.Tensor, **_: object) -> object:
        alpha = self._noise.alphas_cumprod[t].float().view(-1, 1, 1, 1)
        noise = (noisy - alpha.sqrt() * self._latents) / (1 - alpha).sqrt()
        return type("Answer", (), {"sample": self._noise.target(self._latents, noise, t)})()


@pytest.mark.parametrize("trained", ["epsilon", "v"])
@pytest.mark.parametrize("predicted", ["epsilon", "v", "neither", "nothing"])
def test_wrong_prediction_type_is_detected(sdxl, files, pictures, tmp_path, trained, predicted):
    dataloader = dataloader_for(sdxl, tmp_path)
    still = dataloader.cache.get(0, False)
    mean = still.mean * (0.01 if predicted == "nothing" else 1)  # a VAE of random weights
    dataloader.cache.put(0, False, dataclasses.replace(still, mean=mean, std=torch.zeros(4, 8, 8)))
    model = dataclasses.replace(sdxl, noise_schedule=dataclasses.replace(sdxl.noise_schedule, prediction_type=trained))
    if predicted in ("epsilon", "v"):
        model.unet = _IdealUNet(model, dataloader.cache.get(0, False).mean[None], predicted)
    vectors = initial_state(sdxl, settings_for(files["sdxl"], pictures, tmp_path)).vectors
    warning = prediction_check.check_prediction_type(model, dataloader.load_batch(0, [0], 0, CPU), vectors)
    assert (warning is not None) == (predicted not in (trained, "neither", "nothing"))
    assert warning is None or f"--prediction {predicted}" in warning


def test_wrong_prediction_type_is_a_warning_of_the_run(files, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("lib_ti.training.trainer.check_prediction_type", lambda *_: "it predicts v")
    monkeypatch.setattr("lib_ti.training.health.prediction_check.MAX_LOSS", 0.1)
    folder = run(settings_for(files["sdxl"], pictures, tmp_path))
    messages = [event.data["message"] for event in folder.history().warnings]
    assert messages[0] == "it predicts v"
    assert "far above 1" in messages[1]
    assert len(messages) == 2


# --- the command line --------------------------------------------------------------------------------------------


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lib_ti", *map(str, arguments)], capture_output=True, text=True, timeout=120,
        cwd=Path(__file__).parent.parent,
    )  # fmt: skip


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_train_inspect_generate_from_the_command_line(files, pictures, tmp_path, family):
    done = command(
        "train", "--model", files[family], "--images", pictures, "--name", "my-mug", "--out", tmp_path / "out", "--runs-dir",
        tmp_path / "runs", "--steps", 3, "--preview-every", 3, "--preview-steps", 2, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kinds = [json.loads(line)["kind"] for line in done.stdout.splitlines()]
    assert kinds[-2:] == ["finished", "report"]
    assert "warning" not in kinds
    file = tmp_path / "out" / "my-mug.safetensors"
    shapes = {name: tuple(value.shape) for name, value in load_file(file).items()}
    assert shapes == ({"emb_params": (3, 96)} if family == "sd2" else {"clip_l": (3, 64), "clip_g": (3, 96)})
    assert read_embedding(file).family == family
    warning_events = command("inspect", file, "--model", files[family])
    assert warning_events.returncode == 0, warning_events.stderr
    made = command(
        "generate", "--model", files[family], "--embedding", file, "--prompt", "a my-mug", "--out", tmp_path / "made",
        "--count", 1, "--sampling-steps", 2, "--prediction", "v", "--zero-terminal-snr", "yes", "--clip-skip", 2,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert Image.open(tmp_path / "made" / "0.png").size == (64, 64)
    refused = command(
        "generate", "--model", files["sd1"], "--embedding", file, "--prompt", "a my-mug", "--out", tmp_path / "not"
    )
    assert refused.returncode == 2
    assert "but this Stable Diffusion 1.x checkpoint takes vectors of width 64" in refused.stderr
    assert not (tmp_path / "not").exists()


def test_vectors_reach_features_and_pooled_embedding(sdxl):
    """Both encoders' vectors reach the UNet, and the second one's its summary too."""
    prompt = sdxl.tokenizer.encode("a my-mug", [Placeholder("my-mug", 0, 1)])
    plain = {"clip_l": torch.zeros(1, 64), "clip_g": torch.zeros(1, 96)}
    before = sdxl.encode_prompts([prompt], plain)
    for name, (features, pooled) in {"clip_l": (True, False), "clip_g": (True, True)}.items():
        after = sdxl.encode_prompts([prompt], plain | {name: torch.ones_like(plain[name])})
        assert torch.equal(before.encoder_hidden_states, after.encoder_hidden_states) != features
        assert torch.equal(before.pooled, after.pooled) != pooled


def test_repeated_prompts_are_encoded_once(sdxl):
    prompts = [sdxl.tokenizer.encode(text) for text in ("a mug", "a cup", "a mug")]
    result = sdxl.encode_prompts(prompts, sdxl.empty_vectors())
    assert torch.equal(result.encoder_hidden_states[0], result.encoder_hidden_states[2])
    alone = sdxl.encode_prompts(prompts[1:2], sdxl.empty_vectors())
    torch.testing.assert_close(result.pooled[1:2], alone.pooled)
    torch.testing.assert_close(result.encoder_hidden_states[1:2], alone.encoder_hidden_states)


def test_reference_encoders_differ(files):
    """Or the tests above would compare a thing with itself."""
    first, second = build(SIZES["sdxl"]).text, build(SIZES["sdxl"]).second
    assert first.hidden(torch.arange(5)[None])[0].shape[-1] != second(torch.arange(5)[None])[0][0].shape[-1]
