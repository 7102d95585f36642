"""What the page is told of the selected checkpoint: its family, what "auto" means there, and what can be started from."""

import shutil
from pathlib import Path

import pytest
import torch
from reference.checkpoints import SIZES, write_checkpoint
from reference.folder import write_sdxl_folder
from test_embedding_index import Host

from lib_ti.formats.safetensors_tensors import safetensors_bytes
from lib_ti.settings.train_settings import parse
from lib_ti.training.preflight.preflight import preflight
from lib_ti.webui.forms.selected_checkpoint import FOUND_OUT, Selected

GOLDEN = Path(__file__).parent / "golden"
GIVEN = {"images": "p", "name": "n", "model": "m", "out": "o"}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    return {
        name: write_checkpoint(folder / f"{name}.safetensors", SIZES[size])
        for name, size in {"sd1": "small", "sd2": "sd2", "sdxl": "sdxl", "v": "v"}.items()
    }


def settings(**raw):
    found, problems = parse({**GIVEN, **raw})
    assert not problems
    return found


def selected(checkpoint, folder=Path()):
    return Selected(Host(folder, checkpoint))


def test_the_family_and_its_rate(checkpoints):
    told = {name: selected(path).told() for name, path in checkpoints.items()}
    assert {name: about["family"] for name, about in told.items()} == {
        "sd1": "sd1", "sd2": "sd2", "sdxl": "sdxl", "v": "sd1",
    }  # fmt: skip
    assert (told["sdxl"]["family_title"], told["sdxl"]["learning_rate"]) == ("SDXL", 0.0025)
    assert told["sd2"]["learning_rate"] == 0.005
    assert not any(about["problem"] for about in told.values())


def test_no_checkpoint_and_one_that_is_none(tmp_path):
    assert selected(None).told() is None
    assert selected(None).auto(settings()) == {}
    (tmp_path / "odd.safetensors").write_bytes(b"odd")
    odd = selected(tmp_path / "odd.safetensors")
    assert odd.told()["family"] is None
    assert "not a safetensors file" in odd.told()["problem"]
    assert (odd.auto(settings()), odd.start(settings(init_embedding="x.pt"), list)) == ({}, (None, ""))


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "v"])
def test_auto_is_what_a_training_makes_of_it(checkpoints, pictures, tmp_path, name):
    asked = {
        "model": str(checkpoints[name]), "images": str(pictures), "name": "my-mug", "out": str(tmp_path / "out"),
        "runs_dir": str(tmp_path / "runs"), "preview_every": "0",
    }  # fmt: skip
    became = preflight(settings(**asked)).settings
    auto = selected(checkpoints[name]).auto(settings())
    for option in ("learning_rate", "lr_schedule", "resolution"):
        assert auto[option] == str(getattr(became, option))
    if name == "sdxl":
        assert auto["learning_rate_2"] == became.learning_rate_2
    assert auto["clip_skip"] == ("1" if name in ("sd1", "v") else "2, and 1 is the same")
    assert auto["prediction"] == ("v" if name == "v" else "epsilon")
    assert auto["preview_width"] == auto["resolution"]


def test_auto_follows_the_other_settings(checkpoints):
    auto = selected(checkpoints["sdxl"]).auto(settings(learning_rate="0.01:5, 0.1", resolution="128"))
    assert (auto["learning_rate"], auto["learning_rate_2"], auto["lr_schedule"]) == (
        "0.0025",
        "0.01:5, 0.1",
        "constant",
    )
    assert (auto["resolution"], auto["preview_height"]) == ("64", "128")


def test_what_nothing_tells_is_found_out(checkpoints, tmp_path, monkeypatch):
    import dataclasses

    from lib_ti.model.checkpoint import inspect

    found = inspect.inspect_checkpoint(checkpoints["sd2"])
    monkeypatch.setattr(inspect, "inspect_checkpoint", lambda path: dataclasses.replace(found, prediction_known=False))
    assert selected(checkpoints["sd2"]).auto(settings())["prediction"] == FOUND_OUT


def test_folders_tell_as_much(tmp_path):
    write_sdxl_folder(tmp_path / "model", {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True})
    told, auto = selected(tmp_path / "model").told(), selected(tmp_path / "model").auto(settings())
    assert (told["family"], told["problem"]) == ("sdxl", "")
    assert (auto["prediction"], auto["zero_terminal_snr"], auto["learning_rate"]) == ("v", "yes", "0.0025")


def test_another_checkpoint_by_the_same_name_is_looked_at_again(checkpoints, tmp_path):
    for suffix in (".safetensors", ".yaml"):
        shutil.copy(checkpoints["sd1"].with_suffix(suffix), tmp_path / f"model{suffix}")
    looks = selected(tmp_path / "model.safetensors")
    assert looks.told()["family"] == "sd1"
    for suffix in (".safetensors", ".yaml"):
        shutil.copy(checkpoints["sdxl"].with_suffix(suffix), tmp_path / f"model{suffix}")
    assert looks.told()["family"] == "sdxl"


def test_an_embedding_to_start_from(checkpoints, tmp_path):
    files = {"one": {"emb_params": torch.ones(2, 64)}, "xl": {"clip_l": torch.ones(4, 64), "clip_g": torch.ones(4, 96)}}
    for name, tensors in files.items():
        (tmp_path / f"{name}.safetensors").write_bytes(safetensors_bytes(tensors, {}))

    def start(family, file, words=list, **more):
        asked = settings(init_embedding=str(tmp_path / file), init_text="mug", **more)
        problem, told = selected(checkpoints[family]).start(asked, words)
        return (problem.option, problem.message) if problem else told

    assert start("sd1", "one.safetensors") == ""
    assert start("sdxl", "one.safetensors") == "'one' starts CLIP-L; CLIP-G starts from 'mug'"
    assert start("sdxl", "one.safetensors", words=lambda text: []) == (
        "init_text", "'one' starts CLIP-L only; name a word for CLIP-G",
    )  # fmt: skip
    assert start("sdxl", "xl.safetensors") == "'xl' has 4 vectors, the word 2; the rest is left out"
    assert start("sdxl", "xl.safetensors", vectors="5") == "'xl' has 4 vectors, the word 5; the last one is repeated"
    option, message = start("sd1", "xl.safetensors")
    assert (option, message) == (
        "init_embedding",
        "'xl' is an embedding for models of width 64 + 96, but this Stable Diffusion 1.x checkpoint takes vectors of width 64; "
        "it fits only checkpoints of its width",
    )
    (tmp_path / "plain.png").write_bytes((GOLDEN / "a1111-text.png").read_bytes()[:33])
    assert "damaged" in start("sd1", "plain.png")[1] or "no embedding" in start("sd1", "plain.png")[1]
    assert "no such file" in start("sd1", "gone.safetensors")[1]
    assert start("sd1", "gone.png")[0] == "init_embedding"
