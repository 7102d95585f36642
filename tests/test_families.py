"""Stable Diffusion 2 and SDXL: loaded networks match the reference networks, diffusers and other programs."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from reference.checkpoints import SIZES, Networks, Sizes, build, config, empty, write_checkpoint
from reference.folder import write_sd2_folder, write_sdxl_folder
from safetensors.torch import load_file, save_file

from lib_ti.errors import UnusableFile
from lib_ti.formats.weights import Weights
from lib_ti.model.checkpoint import detect, ldm
from lib_ti.model.checkpoint.checkpoint import TOKEN_EMBEDDING
from lib_ti.model.checkpoint.inspect import inspect_checkpoint
from lib_ti.model.checkpoint.noise_schedule import NoiseSchedule
from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer
from lib_ti.model.prompt.text_encoder import Context
from lib_ti.model.speed.device import choose_precision

CPU = torch.device("cpu")
SD2, SDXL = SIZES["sd2"], SIZES["sdxl"]
BOTH = {"sd2": SD2, "sdxl": SDXL}
START, END = 49406, 49407
TEXT = "a photo of a red mug on a table"
OF_REAL = {  # sha256 of the names and shapes of v2-1_768-ema-pruned and of sd_xl_base_1.0
    "sd2": "9ead00576b208d09c432510a038f38fe9255e2771ff6069d377874fdeddcc3a4",
    "sdxl": "0e7097ed9dccb5ed61425a5c85431991af68b5237dd23b128f6c5c0d992d71eb",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    return {name: write_checkpoint(folder / f"{name}.safetensors", sizes) for name, sizes in BOTH.items()}


@pytest.fixture(scope="module")
def networks() -> dict[str, Networks]:
    return {name: build(sizes).rounded(torch.float16) for name, sizes in BOTH.items()}


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def load(path: Path, dtype: torch.dtype = torch.float32) -> StableDiffusion:
    return StableDiffusion.load(open_checkpoint(path), dtype, CPU)


def context_of(model: StableDiffusion, text: str = TEXT) -> Context:
    return model.encode_prompts([model.tokenizer.encode(text)], model.empty_vectors())


def padded(padding: int, text: str = TEXT) -> torch.Tensor:
    ids = [START, *PromptTokenizer().token_ids(text), END]
    return torch.tensor([ids + [padding] * (77 - len(ids))])


def assert_close(actual: torch.Tensor | None, reference: torch.Tensor | None) -> None:
    torch.testing.assert_close(actual, reference, rtol=1e-5, atol=2e-5)


# --- against the architecture -------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_sd2_uses_the_penultimate_layer_and_the_final_layer_norm(files, networks):
    text = networks["sd2"].text
    actual = context_of(load(files["sd2"]))
    assert actual.pooled is None
    assert_close(actual.encoder_hidden_states, text.ln_final(text(padded(0))[0][-2]))


@pytest.mark.smoke
def test_sdxl_concatenates_both_encoders_and_pools_the_second(files, networks):
    _, _, first, second = networks["sdxl"]
    actual = context_of(load(files["sdxl"]))
    hidden, pooled = second(padded(0))
    assert_close(actual.encoder_hidden_states, torch.cat([first.hidden(padded(END))[-2], hidden[-2]], dim=-1))
    assert_close(actual.pooled, pooled)


@pytest.mark.parametrize(("family", "skip"), [("sd2", 3), ("sdxl", 2), ("sdxl", 3)])
def test_clip_skip_selects_an_earlier_layer_but_never_a_later_one(files, networks, family, skip):
    checkpoint = open_checkpoint(files[family]).with_overrides(clip_skip=skip)
    actual = context_of(StableDiffusion.load(checkpoint, torch.float32, CPU)).encoder_hidden_states
    for too_late in (1, 2):
        overridden = open_checkpoint(files[family]).with_overrides(clip_skip=too_late)
        usual = context_of(StableDiffusion.load(overridden, torch.float32, CPU)).encoder_hidden_states
        assert torch.equal(usual, actual) == (skip == 2)
    if family == "sd2":
        text = networks["sd2"].text
        assert_close(actual, text.ln_final(text(padded(0))[0][-skip]))
    else:
        _, _, first, second = networks["sdxl"]
        assert_close(actual, torch.cat([first.hidden(padded(END))[-skip], second(padded(0))[0][-skip]], dim=-1))


def test_clip_skip_of_sd1_applies_the_final_layer_norm(tiny_checkpoint):
    model = StableDiffusion.load(open_checkpoint(tiny_checkpoint).with_overrides(clip_skip=2), torch.float32, CPU)
    text = build(SIZES["small"]).rounded(torch.float16).text
    assert_close(
        context_of(model).encoder_hidden_states, text.text_model["final_layer_norm"](text.hidden(padded(END))[-2])
    )


@pytest.mark.parametrize("family", BOTH)
def test_unet_and_vae_match_the_reference_networks(files, networks, family):
    model, (unet, vae, *_) = load(files[family]), networks[family]
    sizes, t = BOTH[family], torch.tensor([3, 981])
    features = noise(2, 77, sizes.unet["context_dim"])
    time_ids = torch.tensor([[512, 384, 0, 64, 128, 96], [2048, 1024, 17, 0, 96, 128]], dtype=torch.float32)
    pooled, beside = (noise(2, sizes.second[2]), embedded_time_ids(time_ids)) if sizes.second else (None, None)
    added_cond = None if pooled is None else torch.cat([pooled, beside], dim=-1)
    actual = model.predict(noise(2, 4, 16, 8), t, Context(features, pooled), time_ids)
    assert_close(actual, unet(noise(2, 4, 16, 8), t, features, added_cond))
    mean, deviation = model.encode_images(noise(1, 3, 32, 64))
    wanted_mean, log_variance = vae.encode(noise(1, 3, 32, 64))
    assert_close(mean, wanted_mean * sizes.scale_factor)
    assert_close(deviation, (log_variance / 2).exp() * sizes.scale_factor)


def embedded_time_ids(time_ids: torch.Tensor, width: int = 32) -> torch.Tensor:
    """The sinusoidal embeddings of the six time ids."""
    from reference.ldm import sinusoids

    return sinusoids(time_ids.flatten(), width).view(len(time_ids), -1)


def test_time_ids_default_to_an_uncropped_image(files):
    model = load(files["sdxl"])
    context, t = context_of(model), torch.tensor([500])
    whole = torch.tensor([[64.0, 128, 0, 0, 64, 128]])
    assert torch.equal(
        model.predict(noise(1, 4, 8, 16), t, context), model.predict(noise(1, 4, 8, 16), t, context, whole)
    )
    other = torch.tensor([[64.0, 128, 9, 0, 64, 128]])
    assert not torch.equal(
        model.predict(noise(1, 4, 8, 16), t, context), model.predict(noise(1, 4, 8, 16), t, context, other)
    )


# --- against diffusers' pipelines ---------------------------------------------------------------------------------


def test_hidden_states_of_an_sd2_folder_match_diffusers(tmp_path):
    folder = write_sd2_folder(tmp_path / "model")
    model = load(folder.path)
    reference, _ = folder.pipeline().encode_prompt(TEXT, CPU, 1, False)
    torch.testing.assert_close(context_of(model).encoder_hidden_states, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.smoke
@pytest.mark.parametrize("skip", [None, 1])
def test_hidden_states_of_an_sdxl_folder_match_diffusers(tmp_path, skip):
    folder = write_sdxl_folder(tmp_path / "model")
    checkpoint = open_checkpoint(folder.path).with_overrides(clip_skip=skip and skip + 2)
    model = StableDiffusion.load(checkpoint, torch.float32, CPU)
    pipeline = folder.pipeline()
    reference, nothing, pooled, nothing_pooled = pipeline.encode_prompt(TEXT, device=CPU, clip_skip=skip)
    actual = context_of(model)
    torch.testing.assert_close(actual.encoder_hidden_states, reference, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(actual.pooled, pooled, rtol=1e-5, atol=1e-5)
    assert not nothing.any()
    assert not nothing_pooled.any()
    blank = context_of(model, "").zeros_like()
    assert model.force_zeros_for_empty_prompt
    assert not blank.encoder_hidden_states.any()
    assert not blank.pooled.any()


def test_added_condition_of_a_folder_matches_diffusers(tmp_path):
    folder = write_sdxl_folder(tmp_path / "model")
    model, pipeline = load(folder.path), folder.pipeline()
    context, t = context_of(model), torch.tensor([400])
    ids = pipeline._get_add_time_ids((64, 128), (0, 0), (64, 128), torch.float32, context.pooled.shape[-1])
    added_cond = {"text_embeds": context.pooled, "time_ids": ids}
    reference = pipeline.unet(noise(1, 4, 8, 16), t, context.encoder_hidden_states, added_cond_kwargs=added_cond).sample
    assert_close(model.predict(noise(1, 4, 8, 16), t, context), reference)


@pytest.mark.parametrize("family", BOTH)
def test_a_folder_and_a_file_of_the_same_weights_compute_the_same(files, tmp_path, family):
    """diffusers' own names on the way out, ours on the way in."""
    write = {"sd2": write_sd2_folder, "sdxl": write_sdxl_folder}[family]
    folder = write(tmp_path / "model", networks=load(files[family]))
    again, model = load(folder.path), load(files[family])
    actual, reference = context_of(again), context_of(model)
    assert_close(actual.encoder_hidden_states, reference.encoder_hidden_states)
    assert_close(actual.pooled, reference.pooled)
    t = torch.tensor([77])
    assert_close(again.predict(noise(1, 4, 8, 8), t, actual), model.predict(noise(1, 4, 8, 8), t, reference))


# --- what files state ---------------------------------------------------------------------------------------------


def real(family: str) -> Sizes:
    shipped = yaml.safe_load((Path(ldm.__file__).parent / "configs" / f"{family}.yaml").read_text())["model"]["params"]
    unet = {k: v for k, v in shipped["unet_config"]["params"].items() if k != "use_spatial_transformer"}
    vae = {k: v for k, v in shipped["first_stage_config"]["params"]["ddconfig"].items() if k != "double_z"}
    more = {"text_layers": 24} if family == "sd2" else {"text_layers": 12, "second": (1280, 32, 1280)}
    return Sizes(unet=unet, vae=vae, image_size=64, family=family, **more)


@pytest.mark.parametrize(
    ("family", "counts", "widths", "resolution"),
    [("sd2", [686, 248, 388], (1024,), 512), ("sdxl", [1680, 248, 196, 517], (768, 1280), 1024)],
)
def test_the_released_checkpoint_opens_from_its_header_alone(monkeypatch, family, counts, widths, resolution):
    shapes = {name: tuple(value.shape) for name, value in empty(real(family)).state(family).items()}
    listing = "\n".join(f"{name} {shape}" for name, shape in sorted(shapes.items()))
    assert hashlib.sha256(listing.encode()).hexdigest() == OF_REAL[family], "these are not the real one's names"

    monkeypatch.setattr(detect, "open_weights", lambda path: Weights(path, shapes, pytest.fail))
    checkpoint = open_checkpoint(Path("model.safetensors"))
    parts = checkpoint.unet, checkpoint.vae, *checkpoint.text_encoders.values()
    assert [len(part.weights.shapes) for part in parts] == counts
    assert (checkpoint.widths, checkpoint.resolution) == (widths, resolution)
    assert checkpoint.noise_schedule == NoiseSchedule()
    assert checkpoint.prediction_known == (family == "sdxl")
    assert inspect_checkpoint(Path("model.safetensors")).resolution == resolution
    wide = open_checkpoint(Path("model-768-ema.safetensors"))
    assert wide.resolution == (768 if family == "sd2" else 1024)


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_a_yaml_states_the_prediction_type(tmp_path, family, parameterization):
    sizes = replace(BOTH[family], vocabulary=500, parameterization=parameterization)
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "model.safetensors", sizes))
    assert checkpoint.family.name == family
    assert checkpoint.noise_schedule == NoiseSchedule(prediction_type={"eps": "epsilon", "v": "v"}[parameterization])
    assert checkpoint.prediction_known
    assert checkpoint.resolution == inspect_checkpoint(tmp_path / "model.safetensors").resolution == 64


MARKS = {
    "key": ({"v_pred": torch.zeros(0)}, {}, "v", False),
    "keys": ({"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, {}, "v", True),
    "modelspec": ({}, {"modelspec.prediction_type": "v"}, "v", False),
    "ComfyUI": ({}, {"modelspec.predict_key": "epsilon"}, "epsilon", False),
    "kohya": ({}, {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}, "v", True),
}


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("family", BOTH)
def test_keys_and_metadata_state_the_noise_schedule(tmp_path, family, mark):
    keys, metadata, prediction, ends = MARKS[mark]
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, replace(BOTH[family], vocabulary=500))
    params = config(BOTH[family])
    if family == "sdxl":  # whose notation always tells; the other one may be used as well
        params["model"]["params"].pop("denoiser_config")
        params["model"]["params"] |= {"linear_start": 0.00085, "linear_end": 0.012}
    path.with_suffix(".yaml").write_text(yaml.safe_dump(params))
    save_file(load_file(path) | keys, path, metadata)
    assert open_checkpoint(path).noise_schedule == NoiseSchedule(prediction_type=prediction, zero_terminal_snr=ends)
    by_hand = open_checkpoint(path).with_overrides("epsilon", "no").noise_schedule
    assert by_hand == NoiseSchedule()


def test_a_folder_states_its_noise_schedule(tmp_path):
    added_cond = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    folder = write_sdxl_folder(tmp_path, scheduler=added_cond)
    checkpoint = open_checkpoint(folder.path)
    assert checkpoint.noise_schedule == NoiseSchedule(prediction_type="v", zero_terminal_snr=True)
    assert (checkpoint.family.name, checkpoint.resolution) == ("sdxl", 64)
    assert inspect_checkpoint(folder.path).family is checkpoint.family


@pytest.mark.parametrize("predicts_v", [False, True])
def test_unknown_prediction_type_of_sd2_is_detected_from_the_unet(files, predicts_v):
    """A UNet that returns its input predicts the noise, one that returns the opposite of a picture v."""
    checkpoint = replace(open_checkpoint(files["sd2"]), prediction_known=False)
    entry = checkpoint.unet.module.conv_out

    def read(name: str) -> torch.Tensor:
        if name == "conv_out.bias":
            return torch.full(entry.bias.shape, -2.0 if predicts_v else 0.5)
        if name == "conv_out.weight":
            return torch.zeros(entry.weight.shape)
        return files_weights.read(name)

    files_weights = checkpoint.unet.weights
    unet = replace(checkpoint.unet, weights=replace(files_weights, read=read))
    model = StableDiffusion.load(replace(checkpoint, unet=unet), torch.float32, CPU)
    assert model.noise_schedule.prediction_type == ("v" if predicts_v else "epsilon")


def test_zero_terminal_snr_ends_in_pure_noise():
    plain, stretched = NoiseSchedule(), NoiseSchedule(zero_terminal_snr=True)
    assert float(stretched.alphas_cumprod[-1]) == 0
    assert float(stretched.alphas_cumprod[0]) == pytest.approx(float(plain.alphas_cumprod[0]))
    picture, dots = noise(1, 4, 8, 8), noise(1, 4, 8, 9)[..., :8]
    last = torch.tensor([999])
    assert torch.equal(stretched.add_noise(picture, dots, last), dots)
    v = replace(stretched, prediction_type="v").target(picture, dots, last)
    assert torch.equal(v, -picture)
    diffusers = __import__("diffusers").DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True
    )
    torch.testing.assert_close(stretched.alphas_cumprod.float(), diffusers.alphas_cumprod, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", BOTH)
def test_a_missing_text_encoder_weight_is_named(files, tmp_path, family):
    state = load_file(files[family])
    lost = next(name for name in state if name.endswith("resblocks.1.attn.in_proj_bias"))
    del state[lost]
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "model.yaml").write_bytes(files[family].with_suffix(".yaml").read_bytes())
    with pytest.raises(UnusableFile, match=f"text encoder lacks {lost}$"):
        open_checkpoint(tmp_path / "model.safetensors")


def test_a_yaml_may_omit_adm_in_channels(files, tmp_path):
    params = config(SDXL)
    params["model"]["params"]["network_config"]["params"].pop("adm_in_channels")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "model.safetensors").write_bytes(files["sdxl"].read_bytes())
    taken = open_checkpoint(tmp_path / "model.safetensors").unet.module.config
    assert (taken.projection_class_embeddings_input_dim, taken.addition_time_embed_dim) == (80 + 6 * 32, 32)


def test_text_projection_may_be_stored_as_a_linear_layer(files, tmp_path):
    state = load_file(files["sdxl"])
    name = "conditioner.embedders.1.model.text_projection"
    state[f"{name}.weight"] = state.pop(name).T.contiguous()
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "model.yaml").write_bytes(files["sdxl"].with_suffix(".yaml").read_bytes())
    assert_close(context_of(load(tmp_path / "model.safetensors")).pooled, context_of(load(files["sdxl"])).pooled)


def test_a_vae_that_overflows_in_fp16_is_cast_to_fp32(files):
    try:
        choose_precision("fp16", CPU, 0)
    except ValueError as error:
        pytest.skip(str(error))
    model = load(files["sdxl"], torch.float16)
    model.encode_images(noise(1, 3, 32, 32))
    assert model.vae.dtype == torch.float16  # nothing overflowed
    reference, _ = load(files["sdxl"]).encode_images(noise(1, 3, 32, 32))
    blown = model.vae.encoder.down_blocks[0].resnets[0]
    blown.conv1.weight.data *= 1e5
    mean, _ = model.encode_images(noise(1, 3, 32, 32))
    assert torch.isfinite(mean).all()
    assert model.vae.dtype == torch.float32
    assert torch.isfinite(model.decode_latents(mean)).all()
    assert mean.shape == reference.shape


def test_each_encoder_has_its_own_token_embeddings(files):
    checkpoint = open_checkpoint(files["sdxl"])
    tables = checkpoint.token_embeddings()
    assert {name: tuple(table.shape) for name, table in tables.items()} == {
        "clip_l": (49408, 64),
        "clip_g": (49408, 96),
    }
    assert torch.equal(tables["clip_g"], checkpoint.text_encoders["clip_g"].weights.read(TOKEN_EMBEDDING).float())
    assert json.loads(json.dumps(checkpoint.widths)) == [64, 96]
