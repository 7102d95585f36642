"""The selected checkpoint on the page: its family, what "auto" means for it, and embeddings to start from."""

import shutil
from pathlib import Path

import pytest
import torch
from reference.checkpoints import SIZES, write_checkpoint
from reference.folder import write_sdxl_folder
from test_embedding_index import Host

from lib_ti.formats.safetensors_tensors import safetensors_bytes
from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.settings.lr_schedule import auto_learning_rate
from lib_ti.settings.parsing import parse
from lib_ti.training.preflight.preflight import preflight
from lib_ti.training.preflight.resolve_auto import auto_values
from lib_ti.webui.forms.selected_checkpoint import DETECTED_ON_START, SelectedCheckpoint

GOLDEN = Path(__file__).parent / "golden"
AUTO_RATE = {"sdxl": f"{auto_learning_rate(64, 500):g}"}
GIVEN = {"images": "p", "name": "n", "model": "m", "out": "o"}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    return {
        name: write_checkpoint(folder / f"{name}.safetensors", SIZES[size])
        for name, size in {"sd1": "small", "sd2": "sd2", "sdxl": "sdxl", "v": "v"}.items()
    }


def settings(**raw):
    parsed, problems = parse({**GIVEN, **raw})
    assert not problems
    return parsed


def selected(checkpoint, folder=Path()):
    return SelectedCheckpoint(Host(folder, checkpoint))


def test_families(checkpoints):
    summaries = {name: selected(path).summary() for name, path in checkpoints.items()}
    assert {name: summary["family"] for name, summary in summaries.items()} == {
        "sd1": "sd1", "sd2": "sd2", "sdxl": "sdxl", "v": "sd1",
    }  # fmt: skip
    assert summaries["sdxl"]["family_title"] == "SDXL"
    assert not any(summary["problem"] for summary in summaries.values())


def test_no_checkpoint_and_an_unusable_one(tmp_path):
    assert selected(None).summary() is None
    assert selected(None).auto_texts(settings()) == {}
    (tmp_path / "odd.safetensors").write_bytes(b"odd")
    odd = selected(tmp_path / "odd.safetensors")
    assert odd.summary()["family"] is None
    assert "this is a text, not a checkpoint" in odd.summary()["problem"]
    assert (odd.auto_texts(settings()), odd.check_initial_embedding(settings(init_embedding="x.pt"), list)) == (
        {},
        (None, ""),
    )


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "v"])
@pytest.mark.parametrize(
    "options",
    [{}, {"learning_rate": "0.01"}, {"learning_rate": "0.01:5, 0.1"}, {"resolution": "128"},
     {"learning_rate": "0.02", "resolution": "192", "preview_width": "64", "clip_skip": "1"},
     {"learning_rate_2": "0.3", "lr_schedule": "linear"}],
    ids=str,
)  # fmt: skip
def test_form_shows_the_values_that_preflight_resolves(checkpoints, pictures, tmp_path, name, options):
    """Both derive from `resolve_auto.auto_values`, on a description of the file and on the checkpoint itself."""
    paths = {
        "model": str(checkpoints[name]), "images": str(pictures), "name": "my-mug", "out": str(tmp_path / "out"),
        "runs_dir": str(tmp_path / "runs"), "preview_every": "0",
    }  # fmt: skip
    requested = settings(**paths, **options)
    resolved = preflight(requested).settings
    texts = selected(checkpoints[name]).auto_texts(requested)
    options_resolved = ["learning_rate", "lr_schedule", "resolution", *(["learning_rate_2"] if name == "sdxl" else [])]
    for option in options_resolved:
        is_auto = getattr(requested, option) in ("auto", None)
        assert str(getattr(resolved, option)) == (texts[option] if is_auto else str(getattr(requested, option)))
    checkpoint = open_checkpoint(checkpoints[name])
    values = auto_values(checkpoint, requested)
    assert {option: str(value) for option, value in values.items()} == {
        **texts, "clip_skip": texts["clip_skip"].removesuffix(", and 1 is the same"),
    }  # fmt: skip
    previews = auto_values(checkpoint, resolved)
    assert previews["preview_width"] == previews["preview_height"] == resolved.resolution


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "v"])
def test_auto_texts(checkpoints, name):
    auto = selected(checkpoints[name]).auto_texts(settings())
    assert auto["clip_skip"] == ("1" if name in ("sd1", "v") else "2, and 1 is the same")
    assert auto["prediction"] == ("v" if name == "v" else "epsilon")
    assert auto["preview_width"] == auto["resolution"]


def test_auto_depends_on_other_settings(checkpoints):
    auto = selected(checkpoints["sdxl"]).auto_texts(settings(learning_rate="0.01:5, 0.1", resolution="128"))
    assert (auto["learning_rate"], auto["learning_rate_2"], auto["lr_schedule"]) == (
        AUTO_RATE["sdxl"],
        "0.01:5, 0.1",
        "constant",
    )
    assert (auto["resolution"], auto["preview_height"]) == ("64", "128")


def test_unknown_prediction_type_is_detected_on_start(checkpoints, tmp_path, monkeypatch):
    import dataclasses

    from lib_ti.model.checkpoint import inspect

    parsed = inspect.inspect_checkpoint(checkpoints["sd2"])
    monkeypatch.setattr(inspect, "inspect_checkpoint", lambda path: dataclasses.replace(parsed, prediction_known=False))
    assert selected(checkpoints["sd2"]).auto_texts(settings())["prediction"] == DETECTED_ON_START


def test_diffusers_folder(tmp_path):
    write_sdxl_folder(tmp_path / "model", {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True})
    summary, auto = selected(tmp_path / "model").summary(), selected(tmp_path / "model").auto_texts(settings())
    assert (summary["family"], summary["problem"]) == ("sdxl", "")
    assert (auto["prediction"], auto["zero_terminal_snr"], auto["learning_rate"]) == ("v", "yes", AUTO_RATE["sdxl"])


def test_replaced_checkpoint_is_read_again(checkpoints, tmp_path):
    for suffix in (".safetensors", ".yaml"):
        shutil.copy(checkpoints["sd1"].with_suffix(suffix), tmp_path / f"model{suffix}")
    replaced = selected(tmp_path / "model.safetensors")
    assert replaced.summary()["family"] == "sd1"
    for suffix in (".safetensors", ".yaml"):
        shutil.copy(checkpoints["sdxl"].with_suffix(suffix), tmp_path / f"model{suffix}")
    assert replaced.summary()["family"] == "sdxl"


def test_the_hosts_clip_skip_is_offered_where_hosts_apply_it(checkpoints):
    def offer(family, host_layer, **raw):
        host = Host(Path(), checkpoints[family])
        host.clip_skip = lambda: host_layer
        return SelectedCheckpoint(host).clip_skip_offer(settings(**raw))

    assert offer("sd1", 2) == 2
    assert offer("sd1", 1) is None
    assert offer("sd1", 2, clip_skip="2") is None
    assert offer("sd1", 1, clip_skip="2") == 1
    assert [offer(family, 2) for family in ("sd2", "sdxl")] == [None, None]


def test_initial_embedding(checkpoints, tmp_path):
    files = {"one": {"emb_params": torch.ones(2, 64)}, "xl": {"clip_l": torch.ones(4, 64), "clip_g": torch.ones(4, 96)}}
    for name, tensors in files.items():
        (tmp_path / f"{name}.safetensors").write_bytes(safetensors_bytes(tensors, {}))

    def start(family, file, words=list, **more):
        requested = settings(**{"init_embedding": str(tmp_path / file), "init_text": "mug", "vectors": "2", **more})
        problem, remark = selected(checkpoints[family]).check_initial_embedding(requested, words)
        return (problem.option, problem.message) if problem else remark

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


@pytest.mark.parametrize(
    ("raw", "sampling"),
    [
        ({"steps": "50"}, "logit-normal"),
        ({"steps": "199"}, "logit-normal"),
        ({"steps": "200"}, "uniform"),
        ({"steps": "50", "batch_size": "2", "gradient_accumulation": "2"}, "uniform"),
        ({"steps": "50", "kind": "style"}, "uniform"),
        ({"steps": "50", "kind": "negative"}, "uniform"),
    ],
)
def test_timesteps_of_short_and_long_trainings(checkpoints, raw, sampling):
    description = selected(checkpoints["sd1"]).description()
    assert auto_values(description, settings(**raw))["timestep_sampling"] == sampling
