"""Whatever layout, container and precision a checkpoint has, the loaded networks compute what its weights say.

`reference.ldm` computes the same from the same weights, without anything of the package.
"""

import hashlib
import shutil
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from reference.checkpoints import SIZES, Networks, Sizes, build, empty, write_checkpoint
from reference.folder import Folder, write_folder
from safetensors.torch import load_file, save_file

from lib_ti.formats.weights import Weights, open_weights
from lib_ti.model.checkpoint import ldm
from lib_ti.model.checkpoint.checkpoint import Checkpoint
from lib_ti.model.checkpoint.noise_schedule import NoiseSchedule
from lib_ti.model.checkpoint.open import open_checkpoint, with_vae
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.prompt.placeholder import NO_VECTOR, TokenizedPrompt
from lib_ti.model.prompt.text_encoder import Context, PromptEncoder, TextEncoder

CPU = torch.device("cpu")
FEW = replace(SIZES["small"], vocabulary=500)  # no test here writes a prompt
OF_SD1 = [name for name, sizes in SIZES.items() if sizes.family == "sd1"]
TIMES = torch.tensor([3, 981])
OF_SD15 = "21503364ca61d806acb658b579a19b5a1c418f8496f5647379e151adfab3c318"  # sha256 of its names and shapes


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def load(checkpoint: Checkpoint) -> StableDiffusion:
    return StableDiffusion.load(checkpoint, torch.float32, CPU)


def computed(model: StableDiffusion) -> dict[str, torch.Tensor]:
    """What every part of a loaded model makes of some inputs, their sides unequal."""
    (width,) = (table.shape[1] for table in model.token_embeddings().values())
    prompt = TokenizedPrompt(tuple(range(77)), (NO_VECTOR,) * 77)
    mean, deviation = model.encode_images(noise(1, 3, 32, 64))
    return {
        "prediction": model.predict(noise(2, 4, 16, 8), TIMES, Context(noise(2, 77, width).to(model.dtype))),
        "mean": mean,
        "deviation": deviation,
        "pixels": model.decode_latents(noise(1, 4, 6, 4)),
        "features": model.encode_prompts([prompt], model.empty_vectors()).encoder_hidden_states,
    }


def expected(networks: Networks, sizes: Sizes) -> dict[str, torch.Tensor]:
    """The same of the reference's networks."""
    unet, vae, text, _ = networks
    mean, log_variance = vae.encode(noise(1, 3, 32, 64))
    return {
        "prediction": unet(noise(2, 4, 16, 8), TIMES, noise(2, 77, sizes.width)),
        "mean": mean * sizes.scale_factor,
        "deviation": (log_variance / 2).exp() * sizes.scale_factor,
        "pixels": vae.decode(noise(1, 4, 6, 4) / sizes.scale_factor).clamp(-1, 1),
        "features": text(torch.arange(77)[None]),
    }


def assert_close(actual: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(actual, reference, rtol=1e-5, atol=2e-5)


@cache
def expected_of_few(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return expected(build(FEW).rounded(dtype), FEW)


def assert_loads(path: Path, dtype: torch.dtype = torch.float16) -> None:
    """That the checkpoint is one of `FEW`."""
    assert_close(computed(load(open_checkpoint(path))), expected_of_few(dtype))


# --- LDM layout ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.smoke] * (name == "small")) for name in OF_SD1])
def test_a_checkpoint_of_any_size_matches_the_reference_networks(tmp_path, name):
    sizes = replace(SIZES[name], vocabulary=500)
    path = write_checkpoint(tmp_path / "model.safetensors", sizes)
    assert_close(computed(load(open_checkpoint(path))), expected(build(sizes).rounded(torch.float16), sizes))


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_any_container_and_precision_loads(tmp_path, suffix, dtype):
    assert_loads(write_checkpoint(tmp_path / f"model{suffix}", FEW, dtype=dtype), dtype=dtype)


@pytest.mark.parametrize(
    "otherwise",
    [{"extra_keys": False}, {"old_text_names": True}, {"ema_only": True}, {"ema_only": True, "extra_keys": False}],
    ids=lambda otherwise: "-".join(otherwise),
)
def test_additional_missing_and_alternative_keys_load(tmp_path, otherwise):
    assert_loads(write_checkpoint(tmp_path / "model.safetensors", FEW, **otherwise))


@pytest.mark.parametrize("length", [0x580, 0x4B50], ids=["like a pickle", "like a zip"])
def test_a_header_s_length_may_look_like_another_format(tmp_path, length):
    """The length is what the file begins with."""
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(2)}, path, {"told": "here"})
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    path.write_bytes(length.to_bytes(8, "little") + data[8:end].ljust(length) + data[end:])
    weights = open_weights(path)
    assert (weights.shapes, weights.metadata) == ({"a": (2,)}, {"told": "here"})
    assert weights.read("a").tolist() == [1, 1]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old container"])
@pytest.mark.parametrize("nested", ["", "state_dict", "model"])
def test_a_ckpt_holds_its_weights_at_any_usual_place(tmp_path, zipped, nested):
    state = load_file(write_checkpoint(tmp_path / "model.safetensors", FEW))
    record = {nested: state, "epoch": 3} if nested else state
    torch.save(record, tmp_path / "model.ckpt", _use_new_zipfile_serialization=zipped)
    assert_loads(tmp_path / "model.ckpt")


@pytest.mark.smoke
def test_a_ckpt_of_lightning_loads_where_lightning_is_not_installed(tmp_path, monkeypatch):
    vanished = ModuleType("lightning_gone")
    monkeypatch.setitem(sys.modules, vanished.__name__, vanished)
    for base in (object, dict, list):  # each is pickled by other means
        name = f"Of{base.__name__.title()}"
        setattr(vanished, name, type(name, (base,), {"__module__": vanished.__name__}))
    callback, options, history = (
        vanished.OfObject(),
        vanished.OfDict(rate=1e-4),
        vanished.OfList([0.5, 0.25]),
    )
    callback.best = np.float64(0.1)
    record = {
        "pytorch-lightning_version": "1.4.2",
        "callbacks": {vanished.OfObject: {"state": callback, "scores": np.zeros(3)}},
        "hyper_parameters": options,
        "history": history,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
    }
    path = write_checkpoint(tmp_path / "model.ckpt", FEW, beside=record)
    monkeypatch.delitem(sys.modules, vanished.__name__)
    assert_loads(path)


def test_the_yaml_states_architecture_and_noise_schedule(tmp_path):
    sizes = replace(FEW, parameterization="v", image_size=16)
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "model.safetensors", sizes))
    assert (checkpoint.family.name, checkpoint.widths, checkpoint.prompt_length) == ("sd1", (64,), 77)
    assert checkpoint.resolution == 8 * 16
    assert checkpoint.noise_schedule == NoiseSchedule(1000, 0.00085, 0.012, "v")
    assert checkpoint.with_overrides().noise_schedule.prediction_type == "v"
    assert checkpoint.with_overrides("epsilon").noise_schedule.prediction_type == "epsilon"


def test_loaded_networks_are_frozen_and_in_the_requested_dtype(tiny_checkpoint):
    model = StableDiffusion.load(open_checkpoint(tiny_checkpoint), torch.bfloat16, CPU)
    for network in model.networks:
        assert not network.training
        assert {(p.dtype, p.requires_grad) for p in network.parameters()} == {(torch.bfloat16, False)}
    prediction = computed(model)["prediction"]
    assert prediction.dtype == torch.float32  # and so is all else that comes out
    reference = expected(build(SIZES["small"]), SIZES["small"])["prediction"]
    torch.testing.assert_close(prediction, reference, rtol=0, atol=0.1)


def test_the_released_checkpoint_opens_from_its_header_alone(monkeypatch):
    real = Sizes(
        unet={
            "in_channels": 4, "out_channels": 4, "model_channels": 320, "channel_mult": [1, 2, 4, 4], "num_res_blocks": 2,
            "attention_resolutions": [4, 2, 1], "num_heads": 8, "context_dim": 768,
        },
        vae={
            "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "z_channels": 4,
            "resolution": 256, "in_channels": 3, "out_ch": 3,
        },
        text_layers=12,
        image_size=64,
    )  # fmt: skip
    shapes = {name: tuple(value.shape) for name, value in empty(real).state().items()}
    listing = "\n".join(f"{name} {shape}" for name, shape in sorted(shapes.items()))
    assert hashlib.sha256(listing.encode()).hexdigest() == OF_SD15, "these are not the names of v1-5-pruned-emaonly"

    monkeypatch.setattr(ldm, "open_checkpoint_file", lambda path: Weights(path, shapes, pytest.fail))
    checkpoint = open_checkpoint(Path("v1-5-pruned-emaonly.safetensors"))
    parts = checkpoint.unet, checkpoint.vae, checkpoint.text_encoders["clip_l"]
    assert [len(part.weights.shapes) for part in parts] == [686, 248, 196]
    assert (checkpoint.widths, checkpoint.resolution, checkpoint.noise_schedule) == ((768,), 512, NoiseSchedule())


# --- another VAE ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_vae(tmp_path_factory) -> Path:
    """A checkpoint with a VAE of other weights."""
    return write_checkpoint(tmp_path_factory.mktemp("other") / "other.safetensors", FEW, seed=1)


@pytest.fixture(scope="module")
def without_vae(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("without") / "model.safetensors", FEW, without_vae=True)


def assert_has_other_vae(checkpoint: Checkpoint) -> None:
    networks = build(FEW)._replace(vae=build(FEW, seed=1).vae).rounded(torch.float16)
    assert_close(computed(load(checkpoint)), expected(networks, FEW))


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("prefix", ["first_stage_model.", ""], ids=["prefixed", "bare"])
def test_a_vae_file_in_ldm_layout_loads(without_vae, other_vae, tmp_path, prefix, suffix):
    vae = {
        prefix + name.removeprefix("first_stage_model."): value
        for name, value in load_file(other_vae).items()
        if name.startswith("first_stage_model.")
    }
    path = tmp_path / f"vae{suffix}"
    save_file(vae, path) if suffix == ".safetensors" else torch.save({"state_dict": vae}, path)
    assert_has_other_vae(with_vae(open_checkpoint(without_vae), path))


@pytest.mark.parametrize("names", ["new", "old"])
@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_vae_in_diffusers_layout_loads(without_vae, other_vae, tmp_path, names, place):
    vae = open_checkpoint(other_vae).vae.load(torch.float32, CPU)
    folder = tmp_path / "vae"
    vae.save_pretrained(folder)
    file = folder / "diffusion_pytorch_model.safetensors"
    if names == "old":  # those of diffusers before 0.13, which the files of many VAEs still have
        save_file({old_attention_names(name): value for name, value in vae.state_dict().items()}, file)
    assert_has_other_vae(with_vae(open_checkpoint(without_vae), folder if place == "folder" else file))


def old_attention_names(name: str) -> str:
    for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        name = name.replace(f".{new}.", f".{old}.")
    return name


def test_a_checkpoint_may_lack_a_vae(without_vae):
    assert open_checkpoint(without_vae).vae is None


def test_another_vae_replaces_the_checkpoint_s_own(other_vae, tmp_path):
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "model.safetensors", FEW))
    assert_has_other_vae(with_vae(checkpoint, other_vae))


# --- diffusers folders ---------------------------------------------------------------------------------------------


def assert_folder_loads(folder: Folder) -> None:
    model = load(open_checkpoint(folder.path))
    reference = replace(
        model, unet=folder.unet, vae=folder.vae, prompt_encoder=PromptEncoder({"clip_l": TextEncoder(folder.text)})
    )
    assert_close(computed(model), computed(reference))


@pytest.mark.parametrize(
    "saving",
    [
        {},
        {"variant": "fp16", "dtype": torch.float16},
        {"safe_serialization": False},
        {"safe_serialization": False, "variant": "fp16", "dtype": torch.float16},
        {"max_shard_size": "200KB"},
        {"max_shard_size": "200KB", "variant": "fp16", "dtype": torch.float16},
        {"max_shard_size": "200KB", "safe_serialization": False},
    ],
    ids=["plain", "fp16", "bin", "fp16 bin", "sharded", "sharded fp16", "sharded bin"],
)
def test_a_folder_matches_the_networks_diffusers_saved(tmp_path, saving):
    folder = write_folder(tmp_path / "model", vocabulary=5000, **saving)
    assert ("max_shard_size" in saving) == any(tmp_path.rglob("*.index*.json"))
    assert_folder_loads(folder)


def test_a_text_encoder_saved_by_transformers_5(tmp_path):
    """Its tensors' names lack a level, the projection's aside."""
    folder = write_folder(tmp_path, vocabulary=500)
    file = folder.path / "text_encoder" / "model.safetensors"
    tensors = {name.removeprefix("text_model."): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file)
    assert_folder_loads(folder)


def test_a_folder_states_its_prediction_type(tmp_path):
    folder = write_folder(tmp_path, vocabulary=500, scheduler={"prediction_type": "v_prediction"})
    checkpoint = open_checkpoint(folder.path)
    assert checkpoint.noise_schedule == NoiseSchedule(prediction_type="v")
    assert (checkpoint.widths, checkpoint.resolution) == ((64,), 64)


def test_a_folder_without_a_vae_uses_another(tmp_path, other_vae):
    folder = write_folder(tmp_path / "model", vocabulary=500)
    shutil.move(folder.path / "vae", tmp_path / "vae")
    checkpoint = open_checkpoint(folder.path)
    assert checkpoint.vae is None
    actual = computed(load(with_vae(checkpoint, tmp_path / "vae")))
    torch.testing.assert_close(actual["mean"], folder.vae.encode(noise(1, 3, 32, 64)).latent_dist.mean * 0.18215)
