"""What is no Stable Diffusion 1 checkpoint, or a broken one, is refused by its headers, in a sentence that says why."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from reference.checkpoints import SIZES, config, write_checkpoint
from reference.folder import write_folder
from safetensors.torch import load_file, save_file

from lib_ti.errors import UnusableFile
from lib_ti.formats.weights import open_weights
from lib_ti.model.checkpoint import yaml_config as configs
from lib_ti.model.checkpoint.open import open_checkpoint, with_vae

FEW = replace(SIZES["small"], vocabulary=500)
UNET_ENTRY = "model.diffusion_model.input_blocks.0.0.weight"
SD1 = {UNET_ENTRY: (320, 4, 3, 3), "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77)}


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A file that nothing is wrong with. Tests leave it as it is."""
    return write_checkpoint(tmp_path_factory.mktemp("good") / "model.safetensors", FEW)


def refusal(path: Path) -> str:
    with pytest.raises(UnusableFile) as raised:
        open_checkpoint(path)
    message = str(raised.value)
    assert str(path.name) in message
    assert "\n" not in message
    return message


# --- other kinds of file -------------------------------------------------------------------------------------------

OTHER_KINDS = {
    "kohya's LoRA": ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 320)}, "is a LoRA"),
    "peft's LoRA": ({"unet.down_blocks.0.attentions.0.to_q.lora_A.weight": (4, 320)}, "is a LoRA"),
    "LoHa": ({"lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w1_a": (4, 320)}, "is a LoRA"),
    "LoKr": ({"lycoris_unet_mid_block.lokr_w1": (4, 4)}, "is a LoRA"),
    "SDXL without CLIP-G": (
        {UNET_ENTRY: (320, 4, 3, 3), "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias": (768,)},
        "SDXL checkpoint without CLIP-G",
    ),
    "SDXL without CLIP-L": (
        {UNET_ENTRY: (320, 4, 3, 3), "conditioner.embedders.1.model.ln_final.bias": (1280,)},
        "SDXL checkpoint without CLIP-L",
    ),
    "SDXL refiner": (
        {UNET_ENTRY: (384, 4, 3, 3), "conditioner.embedders.0.model.ln_final.bias": (1280,)},
        "is an SDXL refiner",
    ),
    "SD2's unCLIP": (
        {
            UNET_ENTRY: (320, 4, 3, 3),
            "cond_stage_model.model.ln_final.bias": (1024,),
            "model.diffusion_model.label_emb.0.0.weight": (1280, 2048),
        },
        "wants more than a prompt",
    ),
    "SD2's depth": (SD1 | {UNET_ENTRY: (320, 5, 3, 3)}, "takes 5 channels"),
    "Playground 2.5": (SD1 | {"edm_mean": (4,)}, "EDM"),
    "SD3": ({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4, 4)}, "is a Stable Diffusion 3"),
    "Flux": ({"double_blocks.0.img_attn.qkv.weight": (4, 4), "single_blocks.0.linear1.weight": (4, 4)}, "is a Flux"),
    "Flux of diffusers": ({"single_transformer_blocks.0.attn.to_q.weight": (4, 4)}, "is a Flux"),
    "inpainting": (SD1 | {UNET_ENTRY: (320, 9, 3, 3)}, "is an inpainting checkpoint"),
    "SD2 inpainting": (
        {UNET_ENTRY: (320, 9, 3, 3), "cond_stage_model.model.ln_final.bias": (1024,)},
        "is an inpainting checkpoint",
    ),
    "pix2pix": (SD1 | {UNET_ENTRY: (320, 8, 3, 3)}, "is an image-editing checkpoint"),
    "ControlNet": ({"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, "is a ControlNet"),
    "ControlNet of diffusers": ({"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)}, "is a ControlNet"),
    "VAE": ({"encoder.down.0.block.0.conv1.weight": (128, 128, 3, 3)}, "is a VAE"),
    "VAE of diffusers": ({"encoder.down_blocks.0.resnets.0.conv1.weight": (128, 128, 3, 3)}, "is a VAE"),
    "UNet of diffusers": ({"down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3)}, "one part of a diffusers folder"),
    "embedding": ({"emb_params": (2, 768)}, "is an embedding"),
    "SDXL embedding": ({"clip_l": (2, 768), "clip_g": (2, 1280)}, "is an embedding"),
    "bitsandbytes": (SD1 | {"model.diffusion_model.out.2.weight.absmax": (4,)}, "are quantised"),
    "no text encoder": ({UNET_ENTRY: (320, 4, 3, 3)}, "text encoder is missing"),
    "anything else": ({"model.embed_tokens.weight": (8, 8)}, "is not a Stable Diffusion checkpoint"),
    "one-dimensional": (SD1 | {UNET_ENTRY: (320,)}, "is not a Stable Diffusion checkpoint"),
    "nothing": ({}, "is not a Stable Diffusion checkpoint"),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds_of_file_are_named(tmp_path, kind):
    shapes, reason = OTHER_KINDS[kind]
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    assert reason in refusal(tmp_path / "model.safetensors")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8], ids=str)
def test_quantised_weights_are_refused(tmp_path, good, dtype):
    path = tmp_path / "model.safetensors"
    save_file(load_file(good) | {UNET_ENTRY: torch.zeros(32, 4, 3, 3).to(dtype)}, path)
    assert "quantised" in refusal(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"GGUF\3\0\0\0", "a gguf file, not a checkpoint; its weights are quantised"),
        (b"<!DOCTYPE html><html>Log in to download", "a web page (HTML), not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "a Git LFS pointer"),
        (b"PK\3\4", "not a PyTorch file"),
        (b"\x80\2}q\0.", "not a PyTorch file"),
    ],
)
def test_files_without_weights(tmp_path, content, reason):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert reason in refusal(tmp_path / "model.safetensors")


def test_missing_file_or_folder(tmp_path):
    assert "no such file" in refusal(tmp_path / "model.safetensors")
    assert "no model_index.json" in refusal(tmp_path)


@pytest.mark.parametrize("record", [[1, 2], {"state_dict": {"epoch": 3}}, {}], ids=str)
def test_pickle_without_weights(tmp_path, record):
    torch.save(record, tmp_path / "model.ckpt")
    assert "no weights" in refusal(tmp_path / "model.ckpt")


def test_recursive_pickle(tmp_path):
    record = {}
    record["state_dict"] = record
    torch.save(record, tmp_path / "model.ckpt")
    assert "no weights" in refusal(tmp_path / "model.ckpt")


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("fraction", [0.00001, 0.001, 0.5, 0.99999])
def test_truncated_file(tmp_path, good, suffix, fraction):
    path = tmp_path / f"model{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": load_file(good)}, path)
    data = (good if suffix == ".safetensors" else path).read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    message = refusal(path)
    assert "truncated" in message or "damaged" in message
    assert "truncated" in message or suffix == ".ckpt" or fraction < 0.01  # before its end, a header is just unreadable


@given(st.sampled_from([b"", b"\x80\2", b"\x80\4", b"PK\3\4", b"\x40" + bytes(7) + b"{"]), st.binary(max_size=200))
@example(b"\x08" + bytes(7), b"{}      ")
def test_any_bytes_are_opened_or_refused(tmp_path_factory, start, rest):
    path = tmp_path_factory.getbasetemp() / "any.ckpt"
    path.write_bytes(start + rest)
    with suppress(UnusableFile):
        assert not open_weights(path).shapes


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("model.diffusion_model.middle_block.1.proj_in.weight", "its UNet lacks"),
        ("first_stage_model.decoder.mid.attn_1.k.bias", "its VAE lacks"),
        ("cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc2.bias", "its text encoder lacks"),
        ("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight", "its text encoder lacks"),
    ],
)
def test_missing_weight_is_named(tmp_path, good, lost, named):
    state = load_file(good)
    del state[lost]
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "model.yaml").write_bytes(good.with_suffix(".yaml").read_bytes())
    message = refusal(tmp_path / "model.safetensors")
    assert named in message
    assert lost in message


@pytest.mark.parametrize(
    "name",
    ["model.diffusion_model.out.2.weight", "first_stage_model.quant_conv.weight",
     "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"],
)  # fmt: skip
def test_weight_of_another_shape_is_named(tmp_path, good, name):
    state = load_file(good)
    shape = tuple(state[name].shape)
    state[name] = torch.zeros(shape[0], 7, *shape[2:])
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "model.yaml").write_bytes(good.with_suffix(".yaml").read_bytes())
    message = refusal(tmp_path / "model.safetensors")
    assert str(tuple(state[name].shape)) in message
    assert f"{shape} was expected" in message


# --- the configuration beside the file -----------------------------------------------------------------------------


def test_unusual_sizes_need_a_configuration(tmp_path):
    path = write_checkpoint(tmp_path / "model.safetensors", FEW, with_yaml=False)
    assert "put its configuration beside it, as model.yaml" in refusal(path)


def test_configuration_of_another_model(tmp_path, good):
    path = write_checkpoint(tmp_path / "model.safetensors", FEW)
    path.with_suffix(".yaml").write_text(yaml.safe_dump(config(SIZES["deep"])))
    assert "model.safetensors: its UNet" in refusal(path)


def test_text_encoder_of_another_width_than_the_unet(tmp_path, good):
    wider = write_checkpoint(tmp_path / "wider.safetensors", replace(SIZES["v"], vocabulary=500))
    text = {k: v for k, v in load_file(wider).items() if k.startswith("cond_stage_model.")}
    rest = {k: v for k, v in load_file(good).items() if not k.startswith("cond_stage_model.")}
    path = tmp_path / "model.safetensors"
    save_file(rest | text, path)
    path.with_suffix(".yaml").write_bytes(good.with_suffix(".yaml").read_bytes())
    message = refusal(path)
    assert "96" in message
    assert "64" in message


def edited_config(*place: str, to: object) -> str:
    """A configuration with another value at one place below `model.params`; None takes it away."""
    whole = config(FEW)
    at = whole["model"]["params"]
    for name in place[:-1]:
        at = at[name]
    at[place[-1]] = to
    if to is None:
        del at[place[-1]]
    return yaml.safe_dump(whole)


BAD_CONFIGURATIONS = {
    "empty": ("", "not a Stable Diffusion configuration"),
    "words": ("just words", "not a Stable Diffusion configuration"),
    "unclosed": ("model: [unclosed", "not a Stable Diffusion configuration"),
    "code": ("!!python/object/apply:os.system ['exit 1']", "not a Stable Diffusion configuration"),
    "hollow": ("model: {params: {}}", "lacks 'unet_config'"),
    "no multipliers": (edited_config("unet_config", "params", "channel_mult", to=None), "lacks 'channel_mult'"),
    "no heads": (edited_config("unet_config", "params", "num_heads", to=None), "lacks 'num_heads'"),
    "word for list": (edited_config("unet_config", "params", "channel_mult", to="wide"), "not a Stable Diffusion"),
    "word for number": (edited_config("scale_factor", to="small"), "not a Stable Diffusion configuration"),
    "levels that disagree": (edited_config("unet_config", "params", "num_res_blocks", to=[1, 1, 1]), "sizes"),
    "odd width": (edited_config("unet_config", "params", "model_channels", to=20), "sizes"),
    "odd width of the VAE": (edited_config("first_stage_config", "params", "ddconfig", "ch", to=20), "sizes"),
    "two latent widths": (edited_config("first_stage_config", "params", "embed_dim", to=3), "embed_dim"),
    "another schedule": (edited_config("beta_schedule", to="cosine"), "'cosine' is not supported"),
    "another prediction": (edited_config("parameterization", to="x0"), "'x0' is not supported"),
}


@pytest.mark.parametrize("kind", BAD_CONFIGURATIONS)
def test_unusable_configurations(tmp_path, good, kind):
    text, reason = BAD_CONFIGURATIONS[kind]
    path = tmp_path / "model.safetensors"
    path.write_bytes(good.read_bytes())
    path.with_suffix(".yaml").write_text(text)
    with pytest.raises(UnusableFile) as raised:
        open_checkpoint(path)
    message = str(raised.value)
    assert "model." in message
    assert reason in message
    assert "\n" not in message


def test_binary_configuration(tmp_path):
    (tmp_path / "model.yaml").write_bytes(b"\xff\xfe\0\0")
    with pytest.raises(UnusableFile):
        configs.read_config(tmp_path / "model.yaml")


# --- another VAE ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["anything else", "VAE of diffusers", "VAE"])
def test_unusable_vae(tmp_path, good, kind):
    shapes, _ = OTHER_KINDS[kind]
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "vae.safetensors")
    with pytest.raises(UnusableFile, match=r"vae\.safetensors"):
        with_vae(open_checkpoint(good), tmp_path / "vae.safetensors")


# --- diffusers folders ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_folder(tmp_path / "model", vocabulary=500).path


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("file", "values", "reason"),
    [
        ("model_index.json", {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}, "text_encoder_2"),
        ("model_index.json", {"text_encoder_3": ["transformers", "T5EncoderModel"]}, "is not supported"),
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("text_encoder/config.json", {"num_hidden_layers": 3}, "its text encoder lacks"),
        ("text_encoder/config.json", {"intermediate_size": 128}, "was expected"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "squaredcos_cap_v2"}, "is not supported"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "is not supported"),
        ("unet/config.json", {"block_out_channels": [32, 64, 64]}, "sizes"),
        ("unet/config.json", {"block_out_channels": "wide"}, "sizes"),
        ("vae/config.json", {"down_block_types": ["NoSuchBlock"]}, "sizes"),
    ],
)
def test_unsupported_folders(folder, file, values, reason):
    edit(folder / file, **values)
    with pytest.raises(UnusableFile) as raised:
        open_checkpoint(folder)
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    "file",
    ["unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json", "text_encoder/config.json",
     "text_encoder/model.safetensors", "scheduler/scheduler_config.json"],
)  # fmt: skip
@pytest.mark.parametrize("damage", ["gone", "broken"])
def test_incomplete_folders(folder, file, damage):
    if damage == "gone":
        (folder / file).unlink()
    else:
        (folder / file).write_text("[1, 2")
    with pytest.raises(UnusableFile, match=file.split("/")[0]):
        open_checkpoint(folder)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8], ids=str)
def test_quantised_folder(folder, dtype):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state["conv_in.weight"] = state["conv_in.weight"].to(dtype)
    save_file(state, weights)
    with pytest.raises(UnusableFile, match="quantised"):
        open_checkpoint(folder)


def test_inconsistent_shards(tmp_path):
    path = write_folder(tmp_path, vocabulary=5000, max_shard_size="200KB").path
    index = path / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    for broken in (
        {},
        {"weight_map": ["conv_in.weight"]},
        {"weight_map": {name: place for name, place in places.items() if name != "conv_in.weight"}},
        {"weight_map": places | {"conv_in.weight": "gone.safetensors"}},
    ):
        index.write_text(json.dumps(broken))
        with pytest.raises(UnusableFile):
            open_checkpoint(path)
