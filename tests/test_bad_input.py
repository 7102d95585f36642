"""Whatever is wrong with a request is said in one clear line for each fault, and nothing is written or changed."""

import io
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from reference.checkpoints import SIZES, config
from safetensors.torch import save_file
from test_images import png_header

from lib_ti.cli import COMMANDS, main
from lib_ti.formats.weights import open_weights
from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.model.speed import device
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.lock import RunLock
from lib_ti.settings.names import FORBIDDEN_CHARACTERS
from lib_ti.settings.train_settings import OPTIONS, TYPES
from lib_ti.text import option_flag
from lib_ti.training.dataloader import DataLoader
from lib_ti.training.import_images import load_examples
from lib_ti.training.preflight import preflight, training_images

ROOT = Path(__file__).resolve().parent.parent
MessageOf = Callable[..., str]
LinesOf = Callable[..., list[str]]


@pytest.fixture(scope="module", autouse=True)
def _cached_checkpoint(tiny_checkpoint) -> Iterator[None]:
    """Read the checkpoint once; reading it takes most of the time of a test."""
    checkpoint = open_checkpoint(tiny_checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        known = {tiny_checkpoint: checkpoint}
        patch.setattr(preflight, "open_checkpoint", lambda path: known.get(path) or open_checkpoint(path))
        yield


@pytest.fixture
def workdir(tmp_path, monkeypatch, pictures) -> Path:
    """A working directory with images and a WebUI without an embeddings folder."""
    shutil.copytree(pictures, tmp_path / "pictures")
    (tmp_path / "webui").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(checkpoint: Path, **changes: object) -> list[str]:
    """The command line of a valid training of one step, with changes; None leaves an option out."""
    options = {"images": "pictures", "name": "my-mug", "model": checkpoint, "out": "webui/embeddings", "steps": 1,
              "preview_every": 0, "snapshot_every": 0, **changes}  # fmt: skip
    return ["train", *(_argument(name, value) for name, value in options.items() if value is not None)]


def _argument(name: str, value: object) -> str:
    return option_flag(name) if value is True else f"{option_flag(name)}={value}"


def contents(folder: Path) -> dict[str, bytes | None]:
    """All paths below a folder: the bytes of files, None for folders."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def error_lines(workdir, capsys, tiny_checkpoint) -> LinesOf:
    """Runs a command line that is bad input, and asserts that it leaves no trace; its lines on stderr."""

    def file_states() -> tuple[object, ...]:
        return contents(workdir), sorted((p.name, p.stat().st_mtime_ns) for p in tiny_checkpoint.parent.iterdir())

    def run(*arguments: object) -> list[str]:
        before = file_states()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert code == 2, err
        assert not out
        assert file_states() == before
        assert "Traceback" not in err
        return err.splitlines()

    return run


@pytest.fixture
def error_message(error_lines, tiny_checkpoint) -> MessageOf:
    """Runs a training whose only problem is with `option`; the message without the option's name."""

    def find(option: str, **changes: object) -> str:
        (line,) = error_lines(*train(tiny_checkpoint, **changes))
        assert line.startswith(f"{option_flag(option)}: ")
        return line.removeprefix(f"{option_flag(option)}: ")

    return find


@pytest.fixture
def training_output(workdir, capsys, tiny_checkpoint) -> MessageOf:
    """Runs a valid training; its output on stdout."""

    def run(**changes: object) -> str:
        assert main(train(tiny_checkpoint, **changes)) == 0
        assert (workdir / "webui" / "embeddings" / f"{changes.get('name', 'my-mug')}.safetensors").stat().st_size > 100
        out: str = capsys.readouterr().out
        return out

    return run


def half(path: Path) -> bytes:
    return path.read_bytes()[: path.stat().st_size // 2]


class TestImages:
    @pytest.fixture
    def folder(self, workdir) -> Path:
        (workdir / "few").mkdir()
        return workdir / "few"

    def test_no_folder(self, error_message):
        assert error_message("images", images="nowhere") == "there is no folder nowhere"

    def test_file_instead_of_a_folder(self, error_message):
        assert "is not a folder" in error_message("images", images="pictures/0.png")

    @pytest.mark.usefixtures("folder")
    def test_empty_folder(self, error_message):
        assert error_message("images", images="few") == "there is no picture in few that can be used"

    def test_only_captions(self, folder, error_message):
        (folder / "a.txt").write_text("a mug")
        assert error_message("images", images="few") == "there is no picture in few that can be used"

    @pytest.mark.parametrize(
        ("data", "reason"),
        [(b"", "is empty"), (b"Dear Sir", "not a picture"), (png_header(40_000, 40_000), "far too large")],
        ids=["empty", "text", "bomb"],
    )
    def test_only_unreadable_files(self, folder, error_message, data, reason):
        (folder / "a.png").write_bytes(data)
        assert reason in error_message("images", images="few")

    def test_only_a_truncated_image(self, folder, error_message):
        (folder / "a.png").write_bytes(half(Path("pictures/0.png")))
        why = f"{Path('few/a.png')}: truncated"
        assert error_message("images", images="few") == f"there is no picture in few that can be used: {why}"

    def test_unreadable_images_are_skipped_with_a_warning(self, workdir, training_output):
        (workdir / "pictures" / "broken.png").write_bytes(half(workdir / "pictures" / "0.png"))
        (workdir / "pictures" / "3.mask.png").write_bytes(b"no mask")
        output = training_output()
        assert f"Note: picture skipped: {Path('pictures/broken.png')}: truncated" in output
        assert f"Note: picture skipped: {Path('pictures/3.mask.png')}: this is a text, not a picture" in output
        assert "In pictures: 3 pictures; not used: 3.png, broken.png\n" in output
        (run,) = workdir.glob("textual_inversion/my-mug/*")
        assert sorted(p.name for p in (run / "images").iterdir()) == ["0000.png", "0001.png", "0002.png"]
        messages = [event.data["message"] for event in RunFolder(run).history().warnings]
        assert sum("picture skipped" in message for message in messages) == 2

    def test_too_many_images(self, error_message, monkeypatch):
        monkeypatch.setattr(training_images, "MAX_IMAGES", 3)
        assert error_message("images") == "4 pictures are too many; 3 is the most"


class TestName:
    @pytest.mark.parametrize(
        "name",
        ["", " ", *(f"my{c}mug" for c in FORBIDDEN_CHARACTERS), *(f"my{c}mug" for c in "\0\a\t\n\r\x1b\x7f"), ".", "..", "../mug",
         "/etc/mug", "C:mug", "mug.", "mug ", " mug", ".mug", "AND", "BREAK", "my BREAK mug", "nul", "nul.txt", "CON",
         "Com1.mug", "lpt²", "mug.pt", "mug.safetensors", "m" * 101, "my\udcffmug"],
    )  # fmt: skip
    def test_invalid(self, error_message, name):
        assert error_message("name", name=name)

    def test_without_tokens(self, error_message):
        assert "no letters or digits" in error_message("name", name="&nbsp;")

    @pytest.mark.parametrize("existing", ["my-mug.safetensors", "My-MUG.safetensors", "my-mug.pt", "MY-mug.BIN"])
    def test_taken(self, workdir, error_message, existing):
        (workdir / "webui" / "embeddings").mkdir()
        (workdir / "webui" / "embeddings" / existing).write_bytes(b"earlier")
        assert error_message("name").startswith(f"there is {existing} in ")

    def test_taken_may_be_replaced(self, workdir, training_output):
        folder = workdir / "webui" / "embeddings"
        folder.mkdir()
        for name in ("my-mug.safetensors", "my-mug.pt", "other.pt"):
            (folder / name).write_bytes(b"earlier")
        output = training_output(overwrite=True)
        assert "Note: my-mug.pt also answers to 'my-mug'" in output
        assert {p.name for p in folder.iterdir() if p.read_bytes() == b"earlier"} == {"my-mug.pt", "other.pt"}

    def test_vocabulary_word_is_a_warning(self, training_output):
        assert "Note: 'cat' is an ordinary word of the vocabulary" in training_output(name="cat")


def zero_tensors(
    *names: str, shape: tuple[int, ...] = (4,), dtype: torch.dtype = torch.float16
) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape, dtype=dtype) for name in names}


UNET, CLIP = "model.diffusion_model.", "cond_stage_model.transformer.text_model."
ENTRY = f"{UNET}input_blocks.0.0.weight"

OTHER_FILES = {
    "LoRA": (zero_tensors("lora_unet_mid_block_proj_in.lora_up.weight"), "this is a LoRA"),
    "refiner": (
        zero_tensors(ENTRY, "conditioner.embedders.0.model.ln_final.bias", shape=(384, 4, 3, 3)),
        "SDXL refiner",
    ),
    "SD3": (zero_tensors(f"{UNET}joint_blocks.0.x_block.attn.qkv.weight"), "Stable Diffusion 3"),
    "Flux": (zero_tensors(f"{UNET}double_blocks.0.img_attn.qkv.weight"), "Flux"),
    "inpainting": (zero_tensors(ENTRY, f"{CLIP}final_layer_norm.bias", shape=(320, 9, 3, 3)), "inpainting"),
    "no known sizes": (
        zero_tensors(ENTRY, f"{CLIP}final_layer_norm.bias", shape=(96, 4, 3, 3)),
        "put its configuration",
    ),
    "something else": (zero_tensors("layer.weight", "layer.bias"), "not a Stable Diffusion checkpoint"),
}


class TestCheckpoint:
    def test_missing(self, error_message):
        assert error_message("model", model="none.safetensors") == "none.safetensors: there is no such file"

    @pytest.mark.parametrize("kind", OTHER_FILES)
    def test_other_kind_of_file(self, workdir, error_message, kind):
        tensors, reason = OTHER_FILES[kind]
        save_file(tensors, workdir / "sd.safetensors")
        assert reason in error_message("model", model="sd.safetensors")

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "the file is empty"),
            (b"GGUF\x03\0\0\0" + bytes(100), "gguf"),
            (b"<!doctype html><title>Sign in to go on</title>", "a web page"),
            (b"PK\x03\x04" + bytes(100), "not a PyTorch file"),
            (b"\x80\x02}q\0.", "not a PyTorch file"),
        ],
        ids=["empty", "gguf", "web page", "zip", "pickle"],
    )
    def test_file_without_weights(self, workdir, error_message, data, reason):
        (workdir / "sd.ckpt").write_bytes(data)
        assert reason in error_message("model", model="sd.ckpt")

    def test_truncated(self, workdir, tiny_checkpoint, error_message):
        (workdir / "sd.safetensors").write_bytes(half(tiny_checkpoint))
        assert error_message("model", model="sd.safetensors").endswith("the file is truncated; download it again")

    def test_truncated_ckpt(self, workdir, error_message):
        torch.save({"state_dict": zero_tensors("a", shape=(1000,))}, workdir / "whole.ckpt")
        (workdir / "sd.ckpt").write_bytes(half(workdir / "whole.ckpt"))
        assert "damaged" in error_message("model", model="sd.ckpt")

    def test_folder_without_a_checkpoint(self, error_message):
        assert "not a diffusers folder" in error_message("model", model="webui")

    @pytest.mark.parametrize(
        ("edited", "value"),
        [
            ("unet_config.params.num_heads", 0), ("unet_config.params.channel_mult", []),
            ("first_stage_config.params.ddconfig.ch_mult", []),
            ("timesteps", 0), ("timesteps", "x"), ("linear_start", -1), ("image_size", 0), ("image_size", 10**9),
            ("scale_factor", 0), ("scale_factor", float("nan")),
        ],
        ids=str,
    )  # fmt: skip
    def test_configuration_of_other_networks(self, workdir, tiny_checkpoint, error_message, edited, value):
        (workdir / "sd.safetensors").symlink_to(tiny_checkpoint)
        record = config(SIZES["small"])
        *way, last = edited.split(".")
        params = record["model"]["params"]
        for name in way:
            params = params[name]
        params[last] = value
        (workdir / "sd.yaml").write_text(yaml.safe_dump(record))
        assert error_message("model", model="sd.safetensors")

    @pytest.mark.parametrize("text", ["", "a: [", "\t", "a: b: c", "\0"], ids=repr)
    def test_unreadable_configuration(self, workdir, tiny_checkpoint, error_message, text):
        (workdir / "sd.safetensors").symlink_to(tiny_checkpoint)
        (workdir / "sd.yaml").write_text(text)
        assert "sd.yaml" in error_message("model", model="sd.safetensors")

    def test_without_a_vae(self, workdir, tiny_checkpoint, error_message):
        weights = open_weights(tiny_checkpoint)
        save_file({n: weights.read(n) for n in weights.shapes if "first_stage" not in n}, workdir / "sd.safetensors")
        shutil.copy(tiny_checkpoint.with_suffix(".yaml"), workdir / "sd.yaml")
        assert "has no VAE" in error_message("vae", model="sd.safetensors")

    def test_unusable_vae_file(self, workdir, error_message):
        assert "no such file" in error_message("vae", vae="none.pt")
        save_file(zero_tensors("emb_params"), workdir / "vae.safetensors")
        assert "not a VAE" in error_message("vae", vae="vae.safetensors")
        save_file(zero_tensors("decoder.up.0.block.0.conv1.weight"), workdir / "vae.safetensors")
        assert "its VAE lacks" in error_message("vae", vae="vae.safetensors")


class Call:
    """Unpickled by Python itself, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old container"])
def test_pickle_with_code_is_refused_and_not_run(workdir, error_lines, tiny_checkpoint, zipped):
    sentinel = workdir / "called"
    record = {"state_dict": zero_tensors("a"), "string_to_param": {"*": torch.zeros(1, 64)}, "call": Call(sentinel)}
    pickle.loads(pickle.dumps(record))
    sentinel.rmdir()  # it was there, or else what follows would prove nothing
    torch.save(record, "file.pt", _use_new_zipfile_serialization=zipped)
    generate = ["generate", "--prompt", "a", "--out", "new", "--embedding", "file.pt", "--model"]
    for command, options in (
        (train(Path("file.pt"), init_embedding="file.pt"), ["--model", "--init-embedding"]),
        (train(tiny_checkpoint, vae="file.pt"), ["--vae"]),
        ([*generate, tiny_checkpoint], ["--embedding"]),
        ([*generate, "file.pt"], ["--model", "--embedding"]),
        (["inspect", "file.pt"], ["file.pt"]),
        (["convert", "file.pt", "new.safetensors", "--to", "safetensors"], ["file.pt"]),
    ):
        lines = error_lines(*command)  # which sees that nothing new is there
        assert [line.partition(":")[0] for line in lines] == options
        assert all("this file contains code" in line for line in lines)


@pytest.mark.parametrize("rate", ["0", "-0.001", "nan", "inf", "abc", "0.1:10:20", "", "0.1,0.2", "0.1:10,0.2:5"])
def test_learning_rate(error_message, rate):
    assert error_message("learning_rate", learning_rate=rate)


@pytest.mark.parametrize(
    ("option", "value"),
    [("vectors", 76), ("vectors", 0), ("resolution", 500), ("resolution", 32), ("resolution", "x"), ("steps", 0),
     ("steps", "1" * 4000), ("batch_size", -1), ("seed", 1.5), ("kind", "object"), ("precision", "int8"), ("init_text", ""),
     ("init_text", "\x07"), ("caption_dropout", 2)],
)  # fmt: skip
def test_values_out_of_range(error_message, option, value):
    assert error_message(option, **{option: value})


class TestFileOptions:
    def test_templates_without_room_for_the_vectors(self, workdir, error_message):
        (workdir / "templates.txt").write_text("cat " * 70 + "[name]\n" + "cat " * 72 + "[name]\n")
        output = error_message("vectors", template_file="templates.txt", vectors=6)
        assert output == "6 vectors do not fit; the shortest template leaves room for 5"

    @pytest.mark.parametrize("data", [None, b"", b"# nothing\n", b"\xff\xfe\0"])
    def test_unreadable_templates(self, workdir, error_message, data):
        if data is not None:
            (workdir / "templates.txt").write_bytes(data)
        assert "templates.txt" in error_message("template_file", template_file="templates.txt")

    @pytest.mark.parametrize(
        ("name", "tensors", "reason"),
        [
            ("start.safetensors", None, "no such file"),
            ("start.png", zero_tensors("emb_params"), "all its vectors are zero"),
            ("start.safetensors", zero_tensors("a", "b"), "holds 2"),
            (
                "start.safetensors",
                {"emb_params": torch.ones(2, 768)},
                "Stable Diffusion 1.x (vectors of width 768), but this",
            ),
            ("start.safetensors", {"emb_params": torch.full((2, 64), torch.nan)}, "not numbers"),
            ("start.safetensors", zero_tensors("emb_params", shape=(76, 64)), "not an embedding"),
        ],
    )
    def test_unusable_initial_embedding(self, workdir, error_message, name, tensors, reason):
        if tensors:
            save_file(tensors, workdir / name)
        assert reason in error_message("init_embedding", init_embedding=name)

    @pytest.mark.parametrize("option", [name for name, kind in TYPES.items() if "Path" in str(kind)])
    @pytest.mark.parametrize("path", ["x" * 300, "pictures/0.png/below", "loop/below", "~nobody-of-that-name/x"])
    def test_missing_files(self, workdir, error_message, option, path):
        (workdir / "loop").symlink_to("loop")
        assert error_message(option, **{option: path})


class TestOutputPaths:
    def test_out_in_a_missing_folder(self, error_message):
        assert error_message("out", out="none/embeddings").startswith("there is no folder")

    def test_out_is_a_file(self, error_message):
        assert error_message("out", out="pictures/0.png") == "pictures/0.png is not a folder"

    @pytest.mark.parametrize("place", ["pictures/0.png", "pictures/0.png/runs"])
    def test_runs_dir_below_a_file(self, error_message, place):
        assert error_message("runs_dir", runs_dir=place).endswith("0.png is not a folder")

    def test_unwritable_folders(self, error_lines, tiny_checkpoint, monkeypatch):
        """Pretended: who runs tests as root may write anywhere."""

        def refuse(dir: Path) -> None:
            raise PermissionError(13, "Permission denied", str(dir))

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
        assert error_lines(*train(tiny_checkpoint)) == [
            f"--out: {Path('webui/embeddings')} cannot be written to (Permission denied)",
            "--runs-dir: textual_inversion cannot be written to (Permission denied)",
        ]

    @pytest.mark.parametrize(
        "place",
        [
            "webui/embeddings",
            "webui/embeddings/runs",
            "embeddings",
            "data/Embeddings/runs",
            "webui/../webui/embeddings/x",
        ],
    )
    def test_runs_dir_in_an_embeddings_folder(self, error_message, place):
        assert "inside an embeddings folder" in error_message("runs_dir", runs_dir=place)

    def test_runs_dir_in_an_embeddings_folder_by_a_link(self, workdir, error_message):
        (workdir / "webui" / "embeddings").mkdir()
        (workdir / "link").symlink_to(workdir / "webui" / "embeddings", target_is_directory=True)
        assert "inside an embeddings folder" in error_message("runs_dir", runs_dir="link/runs")

    def test_full_disk(self, error_lines, tiny_checkpoint, monkeypatch):
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 1000))
        lines = error_lines(*train(tiny_checkpoint))
        assert [line.partition(" is ")[0] for line in lines] == ["--runs-dir: the disk", "--out: the disk"]

    def test_disk_too_small_for_the_previews(self, error_message, monkeypatch):
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 1 << 30))
        output = error_message("runs_dir", steps=10_000, preview_every=1, resolution=512)
        assert "the disk is too full" in output
        assert "1024 MB are free" in output


class TestDevice:
    def test_no_gpu(self, error_message, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert "there is no CUDA device" in error_message("device", device="cuda:0")

    @pytest.mark.parametrize("name", ["cuda:1", "cuda:128", "cuda:99999999999"])
    def test_missing_gpu(self, error_message, monkeypatch, name):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        assert f"{name} is not there" in error_message("device", device=name)

    @pytest.mark.parametrize("name", ["mps", "cuda:-1", "CPU", "privateuseone:0", ""])
    def test_unknown_device(self, error_message, name):
        assert "not supported" in error_message("device", device=name)

    def test_unsupported_precision(self, error_message, monkeypatch):
        monkeypatch.setattr(device, "_supports", lambda dtype: False)
        assert "use bf16 or fp32" in error_message("precision", precision="fp16")


class TestCommandLine:
    def test_unknown_option_with_a_suggestion(self, error_lines, tiny_checkpoint):
        for wrong in (["--learing-rate", "0.1"], ["--learing-rate=0.1"]):
            (line,) = error_lines(*train(tiny_checkpoint), *wrong)
            assert line.startswith("unknown option --learing-rate")
            assert line.endswith("; did you mean --learning-rate?")

    def test_abbreviated_option_is_unknown(self, error_lines, tiny_checkpoint):
        (line,) = error_lines(*train(tiny_checkpoint), "--vector", "3")
        assert line == "unknown option --vector; did you mean --vectors?"

    def test_unknown_option_without_a_suggestion(self, error_lines, tiny_checkpoint):
        assert error_lines(*train(tiny_checkpoint), "--qqqq") == ["unknown option --qqqq"]

    def test_unexpected_argument(self, error_lines, tiny_checkpoint):
        assert error_lines(*train(tiny_checkpoint), "mug") == ["unexpected argument 'mug'"]

    def test_option_without_a_value(self, error_lines, tiny_checkpoint):
        (line,) = error_lines(*train(tiny_checkpoint), "--steps")
        assert line.startswith("--steps: ")

    def test_unknown_command_with_a_suggestion(self, error_lines):
        assert error_lines("trian") == ["unknown command trian; did you mean train?"]
        assert error_lines("qqqq") == ["unknown command qqqq"]

    def test_no_command(self, error_lines):
        assert len(error_lines("train")) == 4
        assert error_lines("resume")

    def test_all_problems_are_reported_at_once(self, workdir, error_lines):
        lines = error_lines(
            *train(Path("none.ckpt"), images="nowhere", name="a/b", out="no/where", runs_dir="pictures/0.png", vectors=99,
                   learning_rate="abc", resolution=500, device="tpu", precision="fp8", template_file="none.txt",
                   init_embedding="none.pt"),
            "--colour", "red", "--seed",
        )  # fmt: skip
        options = ["images", "name", "model", "out", "runs_dir", "vectors", "learning_rate", "resolution", "device",
                   "precision", "template_file", "init_embedding", "seed"]  # fmt: skip
        output = [line.partition(":")[0].partition(";")[0] for line in lines]
        assert sorted(output) == sorted([*map(option_flag, options), "unknown option --colour"])

    def test_exit_code_and_output_of_the_process(self, workdir, tiny_checkpoint):
        before = contents(workdir)
        command = [sys.executable, "-m", "lib_ti", *train(tiny_checkpoint, name="a/b", learning_rate=0)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(command, cwd=workdir, env=environment, capture_output=True, text=True)
        assert ended.returncode == 2
        assert ended.stdout == ""
        assert sorted(line.partition(":")[0] for line in ended.stderr.splitlines()) == ["--learning-rate", "--name"]
        assert contents(workdir) == before


FLAGS = st.sampled_from([*map(option_flag, OPTIONS), "--no-flip", "--what"])
HOSTILE = st.sampled_from(
    ["", " ", "-1", "--", "-", "=", "nan", "1e999", "1" * 5000, "~nobody/x", "\0", "\udcff", "x" * 5000, "/", "pictures",
     "/dev/null"]
)  # fmt: skip


@given(st.lists(st.tuples(FLAGS, HOSTILE | st.text()), max_size=6))
@example([("--images", "x" * 5000)])
@example([("--out", "\0")])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_any_command_line_gives_a_message(error_lines, pairs):
    lines = error_lines("train", *(f"{name}={value}" for name, value in pairs), "--model=none.safetensors")
    assert lines
    assert all(line.startswith(("--", "unknown option", "unexpected argument", "argument")) for line in lines)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_checkpoint, pictures) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("finished")
    places = {"images": pictures, "out": folder / "out", "runs_dir": folder / "runs"}
    assert main(train(tiny_checkpoint, steps=2, **places)) == 0
    (run,) = folder.glob("runs/my-mug/*")
    return run


class TestResume:
    @pytest.fixture
    def run(self, workdir, finished) -> Path:
        shutil.copytree(finished, workdir / "run")
        return workdir / "run"

    def test_folder_that_is_no_run(self, error_lines):
        assert "not a run folder" in error_lines("resume", "webui")[0]
        assert "not a run folder" in error_lines("resume", "nowhere")[0]

    @pytest.mark.parametrize(
        "text",
        ["", "{", "[]", "{}", '{"settings": 1}', '{"settings": {"steps": "x"}}', "\0", "[" * 9999],
        ids=lambda text: text[:30],
    )
    def test_damaged_settings(self, run, error_lines, text):
        (run / "settings.json").write_text(text)
        assert error_lines("resume", run)

    @pytest.mark.parametrize(
        ("steps", "reason"), [("x", "whole number"), ("0", "out of range"), ("1", "2 steps already")]
    )
    def test_steps(self, run, error_lines, steps, reason):
        (line,) = error_lines("resume", run, "--steps", steps)
        assert line.startswith("--steps: ")
        assert reason in line

    @pytest.mark.parametrize("more", [[], ["--steps", "9"]], ids=["", "further"])
    @pytest.mark.parametrize(
        ("now", "reason"),
        [(None, "put it back to go on"), (zero_tensors("layer.weight"), "this is not a Stable Diffusion checkpoint")],
        ids=["gone", "another"],
    )
    def test_missing_checkpoint(self, workdir, run, error_lines, now, reason, more):
        if now:
            save_file(now, workdir / "sd.safetensors")
        record = json.loads((run / "settings.json").read_text())
        record["settings"]["model"] = str(workdir / "sd.safetensors")
        (run / "settings.json").write_text(json.dumps(record))
        (line,) = error_lines("resume", run, *more)
        assert reason in line

    def test_run_in_training(self, run, error_lines):
        lock = RunLock(run / "lock")
        lock.acquire()
        try:
            (line,) = error_lines("resume", run, "--steps", "9")
        finally:
            lock.release()
        assert "being trained by another process" in line

    def test_options_that_a_resume_cannot_change(self, run, error_lines):
        assert error_lines("resume", run, "--vectors", "3")[0].startswith("unknown option --vectors")


class TestOtherCommands:
    @pytest.fixture
    def mug(self, workdir) -> Path:
        save_file({"emb_params": torch.ones(2, 768)}, workdir / "mug.safetensors")
        return workdir / "mug.safetensors"

    @pytest.fixture
    def xl(self, workdir) -> Path:
        save_file({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, workdir / "xl.safetensors")
        return workdir / "xl.safetensors"

    def test_runs(self, error_lines):
        assert error_lines("runs") == ["there is no folder textual_inversion"]
        assert error_lines("runs", "pictures/0.png") == [f"there is no folder {Path('pictures/0.png')}"]
        assert error_lines("runs", "--jsn") == ["unknown option --jsn; did you mean --json?"]

    def test_damaged_run_does_not_hide_the_others(self, workdir, capsys):
        for text in ("{", '{"settings": {}}', '{"settings": {"steps": -1}}'):
            folder = workdir / "runs" / "mug" / f"2026-01-0{len(text) % 9}"
            folder.mkdir(parents=True)
            (folder / "settings.json").write_text(text)
        good = {"images": "x", "name": "x-y", "model": "x", "out": "x"}
        (workdir / "runs" / "mug" / "2025-01-01").mkdir()
        (workdir / "runs" / "mug" / "2025-01-01" / "settings.json").write_text(json.dumps({"settings": good}))
        assert main(["runs", "runs", "--json"]) == 0
        out, err = capsys.readouterr()
        assert [json.loads(line)["name"] for line in out.splitlines()] == ["x-y"]
        assert "Traceback" not in err
        assert len(err.splitlines()) >= 3

    def test_inspect(self, workdir, mug, error_lines, tiny_checkpoint):
        (workdir / "torn.safetensors").write_bytes(half(mug))
        (workdir / "text.pt").write_text("no embedding")
        assert "no such file" in error_lines("inspect", "none.pt")[0]
        assert "truncated" in error_lines("inspect", "torn.safetensors")[0]
        assert "this is a text, not an embedding" in error_lines("inspect", "text.pt")[0]
        assert "this file holds" in error_lines("inspect", tiny_checkpoint)[0]
        assert "no such file" in error_lines("inspect", mug, "--model", "none.ckpt")[0]
        assert "takes vectors of width 64" in error_lines("inspect", mug, "--model", tiny_checkpoint)[0]
        assert "no embedding called 'cup'" in error_lines("inspect", mug, "--name", "cup")[0]
        assert "FILE" in error_lines("inspect")[0]
        assert "did you mean --json?" in error_lines("inspect", mug, "--jso")[0]

    def test_convert(self, mug, xl, error_lines):
        assert "no such file" in error_lines("convert", "none.pt", "new.pt", "--to", "a1111")[0]
        assert "ends in .pt" in error_lines("convert", mug, "new.safetensors", "--to", "a1111")[0]
        assert "invalid choice: 'onnx'" in error_lines("convert", mug, "new.onnx", "--to", "onnx")[0]
        assert "--to" in error_lines("convert", mug, "new.pt")[0]
        assert "there is no folder" in error_lines("convert", mug, "none/new.pt", "--to", "a1111")[0]
        assert "there is no folder" in error_lines("convert", mug, "pictures/0.png/new.pt", "--to", "a1111")[0]
        assert "these are 3" in error_lines("convert", mug, mug, mug, "new.pt", "--to", "a1111")[0]
        assert "same text encoder" in error_lines("convert", mug, mug, "new.pt", "--to", "a1111")[0]
        assert "both text encoders already" in error_lines("convert", mug, xl, "new.pt", "--to", "a1111")[0]
        assert "--token: only diffusers'" in error_lines("convert", mug, "new.pt", "--to", "a1111", "--token", "a")[0]
        assert "--token: ' '" in error_lines("convert", mug, "new.safetensors", "--to", "diffusers", "--token", " ")[0]

    def test_convert_to_an_unreadable_file(self, workdir, error_lines):
        save_file({"clip_l": torch.ones(1, 768), "clip_g": torch.zeros(1, 1280)}, workdir / "half.safetensors")
        (line,) = error_lines("convert", "half.safetensors", "new.safetensors", "--to", "diffusers")
        assert "all vectors for CLIP-G are zero" in line
        assert (
            "cannot be shown"
            in error_lines("convert", "half.safetensors", "a\nb.safetensors", "--to", "safetensors")[0]
        )

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
    @pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".png"])
    def test_missing_file(self, workdir, error_lines, suffix):
        os.mkfifo(workdir / f"pipe{suffix}")
        assert "a device or a pipe" in error_lines("inspect", f"pipe{suffix}")[0]
        (line,) = error_lines("generate", "--model", f"pipe{suffix}", "--prompt", "a", "--out", "new")
        assert "a device or a pipe" in line

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no file can be called so")
    def test_unusable_file_names(self, workdir, mug, tiny_checkpoint, error_lines):
        for source in (mug, tiny_checkpoint):
            shutil.copy(source, workdir / f"\udcff{source.suffix}")
            assert "not valid Unicode; rename it" in error_lines("inspect", f"\udcff{source.suffix}")[0]
        (line,) = error_lines("generate", "--model", "\udcff.safetensors", "--prompt", "a", "--out", "new")
        assert "not valid Unicode; rename it" in line

    def test_convert_does_not_replace_files(self, mug, xl, error_lines):
        assert "exists already" in error_lines("convert", mug, mug, "--to", "safetensors")[0]
        assert "exists already" in error_lines("convert", mug, mug.parent, "--to", "safetensors")[0]
        (mug.parent / "new_2.safetensors").write_bytes(b"")
        assert (
            "new_2.safetensors exists already" in error_lines("convert", xl, "new.safetensors", "--to", "diffusers")[0]
        )

    def test_generate(self, workdir, mug, error_lines, tiny_checkpoint):
        lines = error_lines(
            "generate", "--model", tiny_checkpoint, "--prompt", "a mug", "--out", "none/new", "--embedding", mug,
            "--embedding", "none.pt", "--count", "0", "--seed", "-1", "--sampling-steps", "x", "--guidance", "nan",
            "--width", "65", "--height", "32", "--device", "tpu", "--negative-promt", "x", "--vae", "none.pt",
        )  # fmt: skip
        output = {line.partition(":")[0] for line in lines}
        options = ["embedding", "count", "seed", "sampling_steps", "guidance", "width", "height", "device", "out",
                   "vae"]  # fmt: skip
        assert output == {
            *map(option_flag, options),
            "unknown option --negative-promt; did you mean --negative-prompt?",
        }

    @pytest.mark.parametrize("name", ["cuda:x", "meta", "cuda:1", "mps"])
    def test_generate_on_a_missing_device(self, error_lines, tiny_checkpoint, monkeypatch, name):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        (line,) = error_lines("generate", "--model", tiny_checkpoint, "--prompt", "a", "--out", "new", "--device", name)
        assert line.startswith("--device: ")

    def test_generate_with_an_invalid_prompt(self, error_lines, tiny_checkpoint):
        lines = error_lines(
            "generate", "--model", tiny_checkpoint, "--prompt", "\udcff", "--negative-prompt", "\udcff", "--out", "new"
        )
        assert lines == [f"--{option}prompt: is not readable text" for option in ("", "negative-")]

    def test_generate_without_required_options(self, error_lines, tiny_checkpoint):
        for missing in ("--model", "--prompt", "--out"):
            given = {"--model": str(tiny_checkpoint), "--prompt": "a", "--out": "new"}
            del given[missing]
            assert missing in error_lines("generate", *sum(given.items(), ()))[0]
        assert (
            "invalid choice"
            in error_lines("generate", "--sampler", "best", "--model", "x", "--prompt", "a", "--out", "x")[0]
        )


class TestUnusualInput:
    """What is no bad input must not be taken for one, nor stop a training."""

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
    def test_file_names_that_are_not_unicode(self, workdir, training_output):
        """Old archives leave such names; Python hands them on as surrogates, which no file or terminal takes."""
        (workdir / "pictures").rename(workdir / "b\udcfccher")
        (workdir / "b\udcfccher" / "b\udcfccher.png").write_bytes(b"broken")
        assert "picture skipped" in training_output(images="b\udcfccher", runs_dir="l\udce4ufe")

    def test_terminal_with_another_encoding(self, workdir, tiny_checkpoint, monkeypatch):
        """On Windows, a program whose output goes to a file writes in an old code page."""
        terminal = io.TextIOWrapper(io.BytesIO(), "ascii", newline="")
        monkeypatch.setattr(sys, "stdout", terminal)
        assert main(train(tiny_checkpoint, name="кружка")) == 0
        assert (workdir / "webui" / "embeddings" / "кружка.safetensors").exists()

    def test_what_captions_hold_is_read_or_said(self, workdir, training_output):
        for i, text in enumerate(
            (b"[name] on grass", rb"miku \(singer\)", b"a (red:1.2) mug", b"caf\xe9", b"a" * 100_000)
        ):
            Image.new("RGB", (80, 80), (i * 40, 90, 120)).save(workdir / "pictures" / f"{i}.png")
            (workdir / "pictures" / f"{i}.txt").write_bytes(text)
        output = training_output()
        assert "In pictures: 5 pictures, 4 captions\n" in output
        for note in (
            "1 caption has [name] in them, which is read as 'my-mug'", "1 caption has brackets with a backslash",
            "1 caption has weights as in (a:1.2)", "3.txt is in no encoding that can be told",
            f"caption not used: {Path('pictures/4.txt')}: larger than 64 kB",
        ):  # fmt: skip
            assert note in output
        (run,) = workdir.glob("textual_inversion/my-mug/*")
        assert (run / "images" / "0000.txt").read_text() == "my-mug on grass"
        assert (run / "images" / "0001.txt").read_text() == "miku (singer)"
        assert (run / "images" / "0003.txt").read_text(encoding="utf-8") == "café"

    def test_pictures_that_count_more_are_used_more_often(self, workdir, training_output):
        for folder, colour in (("3_red", "red"), ("1_blue", "blue")):
            (workdir / "pictures" / folder).mkdir()
            Image.new("RGB", (80, 80), colour).save(workdir / "pictures" / folder / "a.png")
        for old in (workdir / "pictures").glob("*.png"):
            old.unlink()
        assert "2 pictures, those of 3_red 3 times as often\n" in training_output()
        (run,) = workdir.glob("textual_inversion/my-mug/*")
        examples = load_examples(run / "images", RunFolder(run).settings)
        assert [example.repeats for example in examples] == [1, 3]
        loader = DataLoader(examples, *[None] * 4, seed=0, flip=False, num_timesteps=1)
        batches = itertools.islice(loader.batch_indices(0, 1), 40)
        assert Counter(index for batch in batches for index in batch) == {0: 10, 1: 30}

    @pytest.mark.parametrize(
        ("prompt", "uses"), [("a photo of <cat-toy>", True), ("a photo of a cat", False), ("learned_embeds", True)]
    )
    def test_the_word_inside_an_embedding_file_is_its_name_too(self, workdir, tiny_checkpoint, capsys, prompt, uses):
        torch.save({"<cat-toy>": torch.randn(2, 64)}, "learned_embeds.bin")
        arguments = (
            "generate",
            "--model",
            str(tiny_checkpoint),
            "--prompt",
            prompt,
            "--count",
            "1",
            "--sampling-steps",
            "1",
        )
        assert main([*arguments, "--out", "with", "--embedding", "learned_embeds.bin"]) == 0
        assert ("no prompt uses the embedding" in capsys.readouterr().err) is not uses
        assert main([*arguments, "--out", "without"]) == 0
        assert (Path("with/0.png").read_bytes() != Path("without/0.png").read_bytes()) is uses

    def test_endless_prompts(self, tiny_checkpoint, error_lines):
        (line,) = error_lines(
            "generate", "--model", tiny_checkpoint, "--prompt", "[a:b:" * 20_000, "--out", "new"
        )  # fmt: skip
        assert line == "--prompt: is 100000 characters long; 10000 is the most"

    def test_quoted_paths(self, workdir, training_output):
        assert "Finished" in training_output(images='"pictures"')
        assert "Finished" in training_output(images=" 'pictures' ", name="my-cup")

    @pytest.mark.skipif(os.name == "nt", reason="no such pipes")
    def test_output_that_nobody_reads(self, workdir, tiny_checkpoint):
        """`| head` closes the pipe: nothing is said of it, and a training goes on to its end."""
        for arguments, expected in (
            (train(tiny_checkpoint, name="my-cup"), 0), (("doctor",), 0), (("train", "--help"), 0),
        ):  # fmt: skip
            reader, writer = os.pipe()
            os.close(reader)
            environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
            command = [sys.executable, "-m", "lib_ti", *map(str, arguments)]
            ended = subprocess.run(
                command, cwd=workdir, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True
            )
            os.close(writer)
            assert ended.returncode == expected
            assert "pipe" not in ended.stderr.lower()
        assert (workdir / "webui" / "embeddings" / "my-cup.safetensors").exists()


class TestHelp:
    def help_of(self, capsys, *arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--help"])
        assert ended.value.code == 0
        out: str = capsys.readouterr().out
        return out

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command(self, capsys, command):
        text = self.help_of(capsys, command)
        assert f"python -m lib_ti {command}" in text
        assert "SUPPRESS" not in text

    def test_train_explains_every_option(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "1000")
        text = self.help_of(capsys, "train")
        for name, option in OPTIONS.items():
            assert f"  {option_flag(name)}" in text
            assert option.help in text
            assert f"{option.section}:" in text
            assert all(choice in text for choice in option.choices)

    def test_program_lists_the_commands(self, capsys):
        assert main(["--help"]) == 0
        listed = capsys.readouterr().out
        assert {c for c in COMMANDS if f"  {c}" in listed} == COMMANDS.keys() - {"work"}  # which is for programs
