"""Inspecting a checkpoint without loading it agrees with opening it."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from reference.checkpoints import SIZES, config, write_checkpoint
from reference.folder import write_folder
from safetensors.torch import load_file, save_file
from test_refusals import OTHER_KINDS

from lib_ti.errors import UnusableFile
from lib_ti.model.checkpoint.embedding_widths import embedding_widths
from lib_ti.model.checkpoint.inspect import inspect_checkpoint
from lib_ti.model.checkpoint.open import open_checkpoint, with_vae

ROOT = Path(__file__).resolve().parent.parent
FEW = replace(SIZES["small"], vocabulary=500)


def assert_alike(path: Path) -> None:
    described, opened = inspect_checkpoint(path), open_checkpoint(path)
    assert described.family is opened.family
    assert described.resolution == opened.resolution


def assert_both_refuse(path: Path) -> None:
    with pytest.raises(UnusableFile) as opened:
        open_checkpoint(path)
    with pytest.raises(UnusableFile) as described:
        inspect_checkpoint(path)
    assert str(described.value) == str(opened.value)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("good") / "model.safetensors", FEW)


@pytest.fixture
def checkpoint(good, tmp_path) -> Path:
    """A copy of a good one, to be spoiled."""
    shutil.copyfile(good.with_suffix(".yaml"), tmp_path / "model.yaml")
    return Path(shutil.copyfile(good, tmp_path / "model.safetensors"))


@pytest.mark.parametrize("name", ["flat", "middle", "v"])
def test_checkpoints_of_any_size(tmp_path, name):
    assert_alike(write_checkpoint(tmp_path / "model.safetensors", replace(SIZES[name], vocabulary=500)))


@pytest.mark.parametrize(
    "otherwise", [{"ema_only": True}, {"old_text_names": True}, {"without_vae": True}, {"extra_keys": False}], ids=str
)
def test_checkpoints_with_more_or_fewer_keys(tmp_path, otherwise):
    assert_alike(write_checkpoint(tmp_path / "model.safetensors", FEW, **otherwise))


def test_a_pickle(tmp_path):
    assert_alike(write_checkpoint(tmp_path / "model.ckpt", FEW))


def test_the_yaml_s_resolution_is_reported(checkpoint):
    assert inspect_checkpoint(checkpoint).resolution == 64
    checkpoint.with_suffix(".yaml").write_text(yaml.safe_dump(config(replace(FEW, image_size=24))))
    assert inspect_checkpoint(checkpoint).resolution == 192
    assert_alike(checkpoint)


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds_of_file_are_refused_in_the_same_words(tmp_path, kind):
    shapes, _ = OTHER_KINDS[kind]
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    assert_both_refuse(tmp_path / "model.safetensors")


@pytest.mark.parametrize("part", [0, 0.00001, 0.5, 0.999])
def test_truncated_files_are_refused_in_the_same_words(checkpoint, part):
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data[: int(len(data) * part)])
    assert_both_refuse(checkpoint)


def test_unusual_sizes_without_a_configuration_are_refused(checkpoint):
    checkpoint.with_suffix(".yaml").unlink()
    with pytest.raises(UnusableFile, match=r"model\.yaml"):
        inspect_checkpoint(checkpoint)


@pytest.mark.parametrize("text", ["", "model: 5", "\0", "model: {params: {}}", "- " * 500])
def test_invalid_configurations_are_refused(checkpoint, text):
    checkpoint.with_suffix(".yaml").write_text(text)
    assert_both_refuse(checkpoint)


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(UnusableFile, match="no such file"):
        inspect_checkpoint(tmp_path / "model.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UnusableFile, match="diffusers folder"):
        inspect_checkpoint(tmp_path / "folder")


FOLDERS = {
    "SD3": ("model_index.json", {"text_encoder_3": ["transformers", "T5EncoderModel"]}),
    "Flux": (
        "model_index.json",
        {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]},
    ),
    "refiner": (
        "model_index.json",
        {
            "_class_name": "StableDiffusionXLImg2ImgPipeline",
            "text_encoder": [None, None],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        },
    ),
    "SDXL without CLIP-L": (
        "model_index.json",
        {"text_encoder": [None, None], "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]},
    ),
    "SDXL without CLIP-G": ("unet/config.json", {"addition_embed_type": "text_time"}),
    "inpainting": ("unet/config.json", {"in_channels": 9}),
}


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("folder") / "model", vocabulary=500).path


def test_a_diffusers_folder(good_folder):
    assert_alike(good_folder)


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders_of_other_models_are_refused_in_the_same_words(good_folder, tmp_path, kind):
    folder = shutil.copytree(good_folder, tmp_path / "model")
    file, changes = FOLDERS[kind]
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))
    assert_both_refuse(folder)


def imported(program: str, *unwanted: str) -> list[str]:
    """Which of the modules are there after a program."""
    ask = f"\nimport sys; print([name for name in {unwanted!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program + ask], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1].replace("'", '"'))


def test_inspection_needs_no_diffusers(tiny_checkpoint):
    program = f"""
import sys
from pathlib import Path
sys.modules["diffusers"] = sys.modules["transformers"] = None
from lib_ti.model.checkpoint.embedding_widths import embedding_widths
from lib_ti.model.checkpoint.inspect import inspect_checkpoint
assert inspect_checkpoint(Path({str(tiny_checkpoint)!r})).resolution == 64
del sys.modules["diffusers"], sys.modules["transformers"]
"""
    assert imported(program, "diffusers", "transformers", "gradio") == []


def test_the_service_imports_no_heavy_packages():
    """gradio is there in any host, and brings some of them itself: a stand-in takes its place."""
    program = """
import sys, types
sys.modules["gradio"] = types.ModuleType("gradio")
import lib_ti.webui.service
"""
    heavy = ("torch", "diffusers", "transformers", "PIL", "yaml", "safetensors", "numpy", "tqdm")
    assert imported(program, *heavy) == []


# --- what is around a checkpoint -----------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["state.", "module.", "model.inner."])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_one_more_prefix_is_left_out(checkpoint, prefix, suffix):
    tensors = {f"{prefix}{name}": value for name, value in load_file(checkpoint).items()}
    path = checkpoint.with_suffix(suffix)
    save_file(tensors, path) if suffix == ".safetensors" else torch.save({"state_dict": tensors}, path)
    assert_alike(path)
    assert open_checkpoint(path).widths == embedding_widths(path) == (64,)
    assert open_checkpoint(path).vae is not None


def test_a_vae_with_a_prefix_is_read(good, tmp_path):
    prefix = "first_stage_model."
    tensors = {k.removeprefix(prefix): v for k, v in load_file(good).items() if k.startswith(prefix)}
    save_file({f"vae.{name}": value for name, value in tensors.items()}, tmp_path / "vae.safetensors")
    assert with_vae(open_checkpoint(good), tmp_path / "vae.safetensors").vae is not None


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_named_safetensors_and_back(checkpoint, zipped):
    pickled = checkpoint.with_name("pickled.safetensors")
    torch.save({"state_dict": load_file(checkpoint)}, pickled, _use_new_zipfile_serialization=zipped)
    shutil.copyfile(checkpoint.with_suffix(".yaml"), pickled.with_suffix(".yaml"))
    assert_alike(pickled)
    renamed = checkpoint.rename(checkpoint.with_suffix(".ckpt"))
    assert_alike(renamed)


@pytest.mark.parametrize(("size", "resolution"), [(None, 512), ([8, 8], 64), ([8, 16], 128)])
def test_sample_sizes_of_a_folder(good_folder, tmp_path, size, resolution):
    folder = shutil.copytree(good_folder, tmp_path / "model")
    config_file = folder / "unet" / "config.json"
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {"sample_size": size}))
    assert_alike(folder)
    assert open_checkpoint(folder).resolution == resolution


class TestHuggingFaceCache:
    def cache(self, tmp_path: Path, good_folder: Path) -> Path:
        folder = tmp_path / "models--somebody--model"
        for revision in ("aaaa", "bbbb"):
            shutil.copytree(good_folder, folder / "snapshots" / revision)
        return folder

    def test_the_main_revision_is_used(self, tmp_path, good_folder):
        folder = self.cache(tmp_path, good_folder)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("aaaa")
        (folder / "snapshots" / "bbbb" / "unet" / "config.json").unlink()
        assert_alike(folder)
        assert embedding_widths(folder) == (64,)
        assert open_checkpoint(folder).path == folder, "metadata name it, not a revision"

    def test_a_revision_without_a_checkpoint_is_passed_over(self, tmp_path, good_folder):
        folder = self.cache(tmp_path, good_folder)
        (folder / "snapshots" / "bbbb" / "model_index.json").unlink()
        assert_alike(folder)

    def test_a_single_checkpoint_file(self, tmp_path, good):
        revision = tmp_path / "models--a--b" / "snapshots" / "cccc"
        revision.mkdir(parents=True)
        shutil.copyfile(good, revision / "model.safetensors")
        shutil.copyfile(good.with_suffix(".yaml"), revision / "model.yaml")
        assert_alike(tmp_path / "models--a--b")
        shutil.copyfile(good, revision / "another.safetensors")
        with pytest.raises(UnusableFile, match=r"several checkpoints \(another.safetensors, model.safetensors\)"):
            open_checkpoint(tmp_path / "models--a--b")

    def test_an_unfinished_download(self, tmp_path):
        (tmp_path / "models--a--b" / "snapshots" / "cccc").mkdir(parents=True)
        with pytest.raises(UnusableFile, match="not finished"):
            open_checkpoint(tmp_path / "models--a--b")


@pytest.mark.parametrize(
    "change",
    [
        {"unet_config": {"num_res_blocks": 60_000}}, {"unet_config": {"channel_mult": [1] * 3000}},
        {"unet_config": {"channel_mult": [1, 1], "num_res_blocks": [2, 60_000]}},
        {"unet_config": {"transformer_depth": [1, 60_000]}}, {"first_stage_config": {"num_res_blocks": 60_000}},
        {"first_stage_config": {"ch_mult": [1] * 3000}},
    ],
    ids=str,
)  # fmt: skip
def test_configurations_without_end_are_refused_promptly(checkpoint, change):
    whole = config(FEW)
    for part, values in change.items():
        parameters = whole["model"]["params"][part]["params"]
        (parameters if part == "unet_config" else parameters["ddconfig"]).update(values)
    checkpoint.with_suffix(".yaml").write_text(yaml.safe_dump(whole))
    started = time.process_time()
    with pytest.raises(UnusableFile, match=r"blocks|levels|lists of sizes"):
        open_checkpoint(checkpoint)
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("unet/config.json", {"layers_per_block": 60_000}), ("unet/config.json", {"layers_per_block": [1, 60_000]}),
        ("unet/config.json", {"transformer_layers_per_block": [[1], [60_000]]}),
        ("unet/config.json", {"block_out_channels": [32] * 3000}),
        ("text_encoder/config.json", {"num_hidden_layers": 60_000}), ("vae/config.json", {"layers_per_block": 60_000}),
    ],
    ids=str,
)  # fmt: skip
def test_folders_without_end_are_refused_promptly(good_folder, tmp_path, file, values):
    folder = shutil.copytree(good_folder, tmp_path / "model")
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))
    with pytest.raises(UnusableFile, match="more than any network has"):
        open_checkpoint(folder)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize("target", ["/dev/zero", None])
def test_a_configuration_that_is_no_file_is_refused_at_once(checkpoint, target):
    path = checkpoint.with_suffix(".yaml")
    path.unlink()
    path.symlink_to(target) if target else os.mkfifo(path)
    with pytest.raises(UnusableFile, match="a device or a pipe"):
        open_checkpoint(checkpoint)


def test_a_huge_configuration_is_not_read(checkpoint):
    checkpoint.with_suffix(".yaml").write_bytes(b"a: [" + b"1," * (1 << 20))
    with pytest.raises(UnusableFile, match="larger than 64 kB"):
        open_checkpoint(checkpoint)
