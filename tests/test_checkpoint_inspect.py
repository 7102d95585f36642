"""Inspecting a checkpoint without loading it agrees with opening it."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from reference.checkpoints import SIZES, config, write_checkpoint
from reference.folder import write_folder
from safetensors.torch import save_file
from test_refusals import OTHER_KINDS

from lib_ti.errors import UnusableFile
from lib_ti.model.checkpoint.inspect import inspect_checkpoint
from lib_ti.model.checkpoint.open import open_checkpoint

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
