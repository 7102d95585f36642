"""Whatever is wrong with a request is said in one clear line for each fault, and nothing is written or changed."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
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
from lib_ti.training.preflight import preflight

ROOT = Path(__file__).resolve().parent.parent
Said = Callable[..., str]
Lines = Callable[..., list[str]]


@pytest.fixture(scope="module", autouse=True)
def quick(tiny_checkpoint) -> Iterator[None]:
    """The checkpoint is read once: to read it anew takes most of the time of a refusal."""
    checkpoint = open_checkpoint(tiny_checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        known = {tiny_checkpoint: checkpoint}
        patch.setattr(preflight, "open_checkpoint", lambda path: known.get(path) or open_checkpoint(path))
        yield


@pytest.fixture
def desk(tmp_path, monkeypatch, pictures) -> Path:
    """A working directory with pictures, and a WebUI that has no embeddings folder yet."""
    shutil.copytree(pictures, tmp_path / "pictures")
    (tmp_path / "webui").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(checkpoint: Path, **changes: object) -> list[str]:
    """The command line of a training of one step in which nothing is wrong but the changes; None leaves an option out."""
    wanted = {"images": "pictures", "name": "my-mug", "model": checkpoint, "out": "webui/embeddings", "steps": 1,
              "preview_every": 0, "snapshot_every": 0, **changes}  # fmt: skip
    return ["train", *(_argument(name, value) for name, value in wanted.items() if value is not None)]


def _argument(name: str, value: object) -> str:
    return option_flag(name) if value is True else f"{option_flag(name)}={value}"


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: the bytes of each file, and None for each folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def refused(desk, capsys, tiny_checkpoint) -> Lines:
    """Carries out a command line that is bad input, and sees that no trace of it is left; what it says on stderr."""

    def everything() -> tuple[object, ...]:
        return contents(desk), sorted((p.name, p.stat().st_mtime_ns) for p in tiny_checkpoint.parent.iterdir())

    def carry_out(*arguments: object) -> list[str]:
        before = everything()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert code == 2, err
        assert not out
        assert everything() == before
        assert "Traceback" not in err
        return err.splitlines()

    return carry_out


@pytest.fixture
def complaint(refused, tiny_checkpoint) -> Said:
    """The only line about a training, which is about `option`; without the option's name."""

    def find(option: str, **changes: object) -> str:
        (line,) = refused(*train(tiny_checkpoint, **changes))
        assert line.startswith(f"{option_flag(option)}: ")
        return line.removeprefix(f"{option_flag(option)}: ")

    return find


@pytest.fixture
def accepted(desk, capsys, tiny_checkpoint) -> Said:
    """Carries out a training that is right; what it says on stdout."""

    def carry_out(**changes: object) -> str:
        assert main(train(tiny_checkpoint, **changes)) == 0
        assert (desk / "webui" / "embeddings" / f"{changes.get('name', 'my-mug')}.safetensors").stat().st_size > 100
        out: str = capsys.readouterr().out
        return out

    return carry_out


def half(path: Path) -> bytes:
    return path.read_bytes()[: path.stat().st_size // 2]


class TestPictures:
    @pytest.fixture
    def folder(self, desk) -> Path:
        (desk / "few").mkdir()
        return desk / "few"

    def test_no_folder(self, complaint):
        assert complaint("images", images="nowhere") == "there is no folder nowhere"

    def test_a_file_instead_of_a_folder(self, complaint):
        assert "is not a folder" in complaint("images", images="pictures/0.png")

    @pytest.mark.usefixtures("folder")
    def test_an_empty_folder(self, complaint):
        assert complaint("images", images="few") == "there is no picture in few that can be used"

    def test_captions_alone(self, folder, complaint):
        (folder / "a.txt").write_text("a mug")
        assert complaint("images", images="few") == "there is no picture in few that can be used"

    @pytest.mark.parametrize(
        ("data", "reason"),
        [(b"", "not a picture"), (b"Dear Sir", "not a picture"), (png_header(40_000, 40_000), "far too large")],
        ids=["empty", "text", "bomb"],
    )
    def test_only_what_is_no_picture(self, folder, complaint, data, reason):
        (folder / "a.png").write_bytes(data)
        assert reason in complaint("images", images="few")

    def test_only_a_truncated_one(self, folder, complaint):
        (folder / "a.png").write_bytes(half(Path("pictures/0.png")))
        why = f"{Path('few/a.png')}: truncated"
        assert complaint("images", images="few") == f"there is no picture in few that can be used: {why}"

    def test_broken_ones_among_good_ones_are_left_out_and_named(self, desk, accepted):
        (desk / "pictures" / "broken.png").write_bytes(half(desk / "pictures" / "0.png"))
        (desk / "pictures" / "3.mask.png").write_bytes(b"no mask")
        said = accepted()
        assert f"Note: picture skipped: {Path('pictures/broken.png')}: truncated" in said
        assert f"Note: picture skipped: {Path('pictures/3.mask.png')}: not a picture" in said
        (run,) = desk.glob("textual_inversion/my-mug/*")
        assert sorted(p.name for p in (run / "images").iterdir()) == ["0000.png", "0001.png", "0002.png"]
        told = [event.data["message"] for event in RunFolder(run).history().warnings]
        assert sum("picture skipped" in message for message in told) == 2

    def test_too_many(self, complaint, monkeypatch):
        monkeypatch.setattr(preflight, "MAX_IMAGES", 3)
        assert complaint("images") == "4 pictures are too many; 3 is the most"


class TestName:
    @pytest.mark.parametrize(
        "name",
        ["", " ", *(f"my{c}mug" for c in FORBIDDEN_CHARACTERS), *(f"my{c}mug" for c in "\0\a\t\n\r\x1b\x7f"), ".", "..", "../mug",
         "/etc/mug", "C:mug", "mug.", "mug ", " mug", ".mug", "AND", "BREAK", "my BREAK mug", "nul", "nul.txt", "CON",
         "Com1.mug", "lpt²", "mug.pt", "mug.safetensors", "m" * 101, "my\udcffmug"],
    )  # fmt: skip
    def test_that_cannot_be(self, complaint, name):
        assert complaint("name", name=name)

    def test_of_nothing_that_a_prompt_could_hold(self, complaint):
        assert "no letters or digits" in complaint("name", name="&nbsp;")

    @pytest.mark.parametrize("existing", ["my-mug.safetensors", "My-MUG.safetensors", "my-mug.pt", "MY-mug.BIN"])
    def test_that_is_taken(self, desk, complaint, existing):
        (desk / "webui" / "embeddings").mkdir()
        (desk / "webui" / "embeddings" / existing).write_bytes(b"earlier")
        assert complaint("name").startswith(f"there is {existing} in ")

    def test_that_is_taken_may_be_replaced(self, desk, accepted):
        folder = desk / "webui" / "embeddings"
        folder.mkdir()
        for name in ("my-mug.safetensors", "my-mug.pt", "other.pt"):
            (folder / name).write_bytes(b"earlier")
        said = accepted(overwrite=True)
        assert "Note: my-mug.pt also answers to 'my-mug'" in said
        assert {p.name for p in folder.iterdir() if p.read_bytes() == b"earlier"} == {"my-mug.pt", "other.pt"}

    def test_that_is_an_ordinary_word_is_a_warning(self, accepted):
        assert "Note: 'cat' is an ordinary word of the vocabulary" in accepted(name="cat")


def some(*names: str, shape: tuple[int, ...] = (4,), dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape, dtype=dtype) for name in names}


UNET, CLIP = "model.diffusion_model.", "cond_stage_model.transformer.text_model."
ENTRY = f"{UNET}input_blocks.0.0.weight"

OTHER_FILES = {
    "LoRA": (some("lora_unet_mid_block_proj_in.lora_up.weight"), "this is a LoRA"),
    "refiner": (some(ENTRY, "conditioner.embedders.0.model.ln_final.bias", shape=(384, 4, 3, 3)), "SDXL refiner"),
    "SD3": (some(f"{UNET}joint_blocks.0.x_block.attn.qkv.weight"), "Stable Diffusion 3"),
    "Flux": (some(f"{UNET}double_blocks.0.img_attn.qkv.weight"), "Flux"),
    "inpainting": (some(ENTRY, f"{CLIP}final_layer_norm.bias", shape=(320, 9, 3, 3)), "inpainting"),
    "no known sizes": (some(ENTRY, f"{CLIP}final_layer_norm.bias", shape=(96, 4, 3, 3)), "put its configuration"),
    "something else": (some("layer.weight", "layer.bias"), "not a Stable Diffusion checkpoint"),
}


class TestCheckpoint:
    def test_missing(self, complaint):
        assert complaint("model", model="none.safetensors") == "none.safetensors: there is no such file"

    @pytest.mark.parametrize("kind", OTHER_FILES)
    def test_of_another_kind(self, desk, complaint, kind):
        tensors, reason = OTHER_FILES[kind]
        save_file(tensors, desk / "sd.safetensors")
        assert reason in complaint("model", model="sd.safetensors")

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "the file is empty"),
            (b"GGUF\x03\0\0\0" + bytes(100), "gguf"),
            (b"<!doctype html><title>Sign in to go on</title>", "not a safetensors file"),
            (b"PK\x03\x04" + bytes(100), "not a PyTorch file"),
            (b"\x80\x02}q\0.", "not a PyTorch file"),
        ],
        ids=["empty", "gguf", "web page", "zip", "pickle"],
    )
    def test_of_no_kind(self, desk, complaint, data, reason):
        (desk / "sd.ckpt").write_bytes(data)
        assert reason in complaint("model", model="sd.ckpt")

    def test_truncated(self, desk, tiny_checkpoint, complaint):
        (desk / "sd.safetensors").write_bytes(half(tiny_checkpoint))
        assert complaint("model", model="sd.safetensors").endswith("the file is truncated; download it again")

    def test_a_truncated_ckpt(self, desk, complaint):
        torch.save({"state_dict": some("a", shape=(1000,))}, desk / "whole.ckpt")
        (desk / "sd.ckpt").write_bytes(half(desk / "whole.ckpt"))
        assert "damaged" in complaint("model", model="sd.ckpt")

    def test_a_folder_that_is_no_checkpoint(self, complaint):
        assert "not a diffusers folder" in complaint("model", model="webui")

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
    def test_a_configuration_that_is_not_the_checkpoints(self, desk, tiny_checkpoint, complaint, edited, value):
        (desk / "sd.safetensors").symlink_to(tiny_checkpoint)
        record = config(SIZES["small"])
        *way, last = edited.split(".")
        params = record["model"]["params"]
        for name in way:
            params = params[name]
        params[last] = value
        (desk / "sd.yaml").write_text(yaml.safe_dump(record))
        assert complaint("model", model="sd.safetensors")

    @pytest.mark.parametrize("text", ["", "a: [", "\t", "a: b: c", "\0"], ids=repr)
    def test_a_configuration_that_is_none(self, desk, tiny_checkpoint, complaint, text):
        (desk / "sd.safetensors").symlink_to(tiny_checkpoint)
        (desk / "sd.yaml").write_text(text)
        assert "sd.yaml" in complaint("model", model="sd.safetensors")

    def test_without_a_vae(self, desk, tiny_checkpoint, complaint):
        weights = open_weights(tiny_checkpoint)
        save_file({n: weights.read(n) for n in weights.shapes if "first_stage" not in n}, desk / "sd.safetensors")
        shutil.copy(tiny_checkpoint.with_suffix(".yaml"), desk / "sd.yaml")
        assert "has no VAE" in complaint("vae", model="sd.safetensors")

    def test_another_vae_that_is_none(self, desk, complaint):
        assert "no such file" in complaint("vae", vae="none.pt")
        save_file(some("emb_params"), desk / "vae.safetensors")
        assert "not a VAE" in complaint("vae", vae="vae.safetensors")
        save_file(some("decoder.up.0.block.0.conv1.weight"), desk / "vae.safetensors")
        assert "its VAE lacks" in complaint("vae", vae="vae.safetensors")


class Call:
    """Unpickled by Python itself, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old container"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(desk, refused, tiny_checkpoint, zipped):
    sentinel = desk / "called"
    record = {"state_dict": some("a"), "string_to_param": {"*": torch.zeros(1, 64)}, "call": Call(sentinel)}
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
        lines = refused(*command)  # which sees that nothing new is there
        assert [line.partition(":")[0] for line in lines] == options
        assert all("this file contains code" in line for line in lines)


@pytest.mark.parametrize("rate", ["0", "-0.001", "nan", "inf", "abc", "0.1:10:20", "", "0.1,0.2", "0.1:10,0.2:5"])
def test_learning_rate(complaint, rate):
    assert complaint("learning_rate", learning_rate=rate)


@pytest.mark.parametrize(
    ("option", "value"),
    [("vectors", 76), ("vectors", 0), ("resolution", 500), ("resolution", 32), ("resolution", "x"), ("steps", 0),
     ("steps", "1" * 4000), ("batch_size", -1), ("seed", 1.5), ("kind", "object"), ("precision", "int8"), ("init_text", ""),
     ("init_text", "\x07"), ("caption_dropout", 2)],
)  # fmt: skip
def test_values_out_of_range(complaint, option, value):
    assert complaint(option, **{option: value})


class TestFilesThatOptionsName:
    def test_templates_that_leave_no_room_for_the_vectors(self, desk, complaint):
        (desk / "templates.txt").write_text("cat " * 70 + "[name]\n" + "cat " * 72 + "[name]\n")
        said = complaint("vectors", template_file="templates.txt", vectors=6)
        assert said == "6 vectors do not fit; the shortest template leaves room for 5"

    @pytest.mark.parametrize("data", [None, b"", b"# nothing\n", b"\xff\xfe\0"])
    def test_templates_that_are_none(self, desk, complaint, data):
        if data is not None:
            (desk / "templates.txt").write_bytes(data)
        assert "templates.txt" in complaint("template_file", template_file="templates.txt")

    @pytest.mark.parametrize(
        ("name", "tensors", "reason"),
        [
            ("start.safetensors", None, "no such file"),
            ("start.png", some("emb_params"), "by its content it is a safetensors file"),
            ("start.safetensors", some("a", "b"), "holds 2"),
            (
                "start.safetensors",
                {"emb_params": torch.ones(2, 768)},
                "Stable Diffusion 1.x (vectors of width 768), but this",
            ),
            ("start.safetensors", {"emb_params": torch.full((2, 64), torch.nan)}, "not numbers"),
            ("start.safetensors", some("emb_params", shape=(76, 64)), "not an embedding"),
        ],
    )
    def test_an_embedding_to_start_from(self, desk, complaint, name, tensors, reason):
        if tensors:
            save_file(tensors, desk / name)
        assert reason in complaint("init_embedding", init_embedding=name)

    @pytest.mark.parametrize("option", [name for name, kind in TYPES.items() if "Path" in str(kind)])
    @pytest.mark.parametrize("path", ["x" * 300, "pictures/0.png/below", "loop/below", "~nobody-of-that-name/x"])
    def test_paths_that_lead_nowhere(self, desk, complaint, option, path):
        (desk / "loop").symlink_to("loop")
        assert complaint(option, **{option: path})


class TestPlaces:
    def test_out_below_nothing(self, complaint):
        assert complaint("out", out="none/embeddings").startswith("there is no folder")

    def test_out_is_a_file(self, complaint):
        assert complaint("out", out="pictures/0.png") == "pictures/0.png is not a folder"

    @pytest.mark.parametrize("place", ["pictures/0.png", "pictures/0.png/runs"])
    def test_runs_below_a_file(self, complaint, place):
        assert complaint("runs_dir", runs_dir=place).endswith("0.png is not a folder")

    def test_folders_that_cannot_be_written_to(self, refused, tiny_checkpoint, monkeypatch):
        """Pretended: who runs tests as root may write anywhere."""

        def refuse(dir: Path) -> None:
            raise PermissionError(13, "Permission denied", str(dir))

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
        assert refused(*train(tiny_checkpoint)) == [
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
    def test_runs_in_an_embeddings_folder(self, complaint, place):
        assert "inside an embeddings folder" in complaint("runs_dir", runs_dir=place)

    def test_runs_in_an_embeddings_folder_by_a_link(self, desk, complaint):
        (desk / "webui" / "embeddings").mkdir()
        (desk / "link").symlink_to(desk / "webui" / "embeddings", target_is_directory=True)
        assert "inside an embeddings folder" in complaint("runs_dir", runs_dir="link/runs")

    def test_a_full_disk(self, refused, tiny_checkpoint, monkeypatch):
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 1000))
        lines = refused(*train(tiny_checkpoint))
        assert [line.partition(" is ")[0] for line in lines] == ["--runs-dir: the disk", "--out: the disk"]

    def test_a_disk_too_small_for_the_previews(self, complaint, monkeypatch):
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 1 << 30))
        said = complaint("runs_dir", steps=10_000, preview_every=1, resolution=512)
        assert "the disk is too full" in said
        assert "1024 MB are free" in said


class TestDevice:
    def test_no_card(self, complaint, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert "there is no CUDA device" in complaint("device", device="cuda:0")

    @pytest.mark.parametrize("name", ["cuda:1", "cuda:128", "cuda:99999999999"])
    def test_not_so_many_cards(self, complaint, monkeypatch, name):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        assert f"{name} is not there" in complaint("device", device=name)

    @pytest.mark.parametrize("name", ["mps", "cuda:-1", "CPU", "privateuseone:0", ""])
    def test_not_a_device(self, complaint, name):
        assert "not supported" in complaint("device", device=name)

    def test_what_the_device_cannot_do(self, complaint, monkeypatch):
        monkeypatch.setattr(device, "_works", lambda dtype: False)
        assert "use bf16 or fp32" in complaint("precision", precision="fp16")


class TestCommandLine:
    def test_an_unknown_option_and_the_nearest_known_one(self, refused, tiny_checkpoint):
        for wrong in (["--learing-rate", "0.1"], ["--learing-rate=0.1"]):
            (line,) = refused(*train(tiny_checkpoint), *wrong)
            assert line.startswith("unknown option --learing-rate")
            assert line.endswith("; did you mean --learning-rate?")

    def test_an_abbreviation_is_not_guessed_at(self, refused, tiny_checkpoint):
        (line,) = refused(*train(tiny_checkpoint), "--vector", "3")
        assert line == "unknown option --vector; did you mean --vectors?"

    def test_an_unknown_option_like_no_other(self, refused, tiny_checkpoint):
        assert refused(*train(tiny_checkpoint), "--qqqq") == ["unknown option --qqqq"]

    def test_an_unexpected_argument(self, refused, tiny_checkpoint):
        assert refused(*train(tiny_checkpoint), "mug") == ["unexpected argument 'mug'"]

    def test_an_option_without_its_value(self, refused, tiny_checkpoint):
        (line,) = refused(*train(tiny_checkpoint), "--steps")
        assert line.startswith("--steps: ")

    def test_an_unknown_command_and_the_nearest_known_one(self, refused):
        assert refused("trian") == ["unknown command trian; did you mean train?"]
        assert refused("qqqq") == ["unknown command qqqq"]

    def test_nothing_asked(self, refused):
        assert len(refused("train")) == 4
        assert refused("resume")

    def test_everything_wrong_is_said_at_once(self, desk, refused):
        lines = refused(
            *train(Path("none.ckpt"), images="nowhere", name="a/b", out="no/where", runs_dir="pictures/0.png", vectors=99,
                   learning_rate="abc", resolution=500, device="tpu", precision="fp8", template_file="none.txt",
                   init_embedding="none.pt"),
            "--colour", "red", "--seed",
        )  # fmt: skip
        options = ["images", "name", "model", "out", "runs_dir", "vectors", "learning_rate", "resolution", "device",
                   "precision", "template_file", "init_embedding", "seed"]  # fmt: skip
        said = [line.partition(":")[0].partition(";")[0] for line in lines]
        assert sorted(said) == sorted([*map(option_flag, options), "unknown option --colour"])

    def test_as_a_program(self, desk, tiny_checkpoint):
        before = contents(desk)
        command = [sys.executable, "-m", "lib_ti", *train(tiny_checkpoint, name="a/b", learning_rate=0)]
        found = {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(command, cwd=desk, env=found, capture_output=True, text=True)
        assert ended.returncode == 2
        assert ended.stdout == ""
        assert sorted(line.partition(":")[0] for line in ended.stderr.splitlines()) == ["--learning-rate", "--name"]
        assert contents(desk) == before


FLAGS = st.sampled_from([*map(option_flag, OPTIONS), "--no-flip", "--what"])
HOSTILE = st.sampled_from(
    ["", " ", "-1", "--", "-", "=", "nan", "1e999", "1" * 5000, "~nobody/x", "\0", "\udcff", "x" * 5000, "/", "pictures",
     "/dev/null"]
)  # fmt: skip


@given(st.lists(st.tuples(FLAGS, HOSTILE | st.text()), max_size=6))
@example([("--images", "x" * 5000)])
@example([("--out", "\0")])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_any_command_line_is_answered(refused, pairs):
    lines = refused("train", *(f"{name}={value}" for name, value in pairs), "--model=none.safetensors")
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
    def run(self, desk, finished) -> Path:
        shutil.copytree(finished, desk / "run")
        return desk / "run"

    def test_what_is_no_run(self, refused):
        assert "not a run folder" in refused("resume", "webui")[0]
        assert "not a run folder" in refused("resume", "nowhere")[0]

    @pytest.mark.parametrize(
        "text",
        ["", "{", "[]", "{}", '{"settings": 1}', '{"settings": {"steps": "x"}}', "\0", "[" * 9999],
        ids=lambda text: text[:30],
    )
    def test_spoilt_settings(self, run, refused, text):
        (run / "settings.json").write_text(text)
        assert refused("resume", run)

    @pytest.mark.parametrize(
        ("steps", "reason"), [("x", "whole number"), ("0", "out of range"), ("1", "2 steps already")]
    )
    def test_steps(self, run, refused, steps, reason):
        (line,) = refused("resume", run, "--steps", steps)
        assert line.startswith("--steps: ")
        assert reason in line

    @pytest.mark.parametrize("more", [[], ["--steps", "9"]], ids=["", "further"])
    @pytest.mark.parametrize(
        ("now", "reason"),
        [(None, "put it back to go on"), (some("layer.weight"), "this is not a Stable Diffusion checkpoint")],
        ids=["gone", "another"],
    )
    def test_a_checkpoint_that_is_not_there_any_more(self, desk, run, refused, now, reason, more):
        if now:
            save_file(now, desk / "sd.safetensors")
        record = json.loads((run / "settings.json").read_text())
        record["settings"]["model"] = str(desk / "sd.safetensors")
        (run / "settings.json").write_text(json.dumps(record))
        (line,) = refused("resume", run, *more)
        assert reason in line

    def test_a_run_that_is_being_trained(self, run, refused):
        lock = RunLock(run / "lock")
        lock.acquire()
        try:
            (line,) = refused("resume", run, "--steps", "9")
        finally:
            lock.release()
        assert "being trained by another process" in line

    def test_options_that_a_run_has_already(self, run, refused):
        assert refused("resume", run, "--vectors", "3")[0].startswith("unknown option --vectors")


class TestOtherCommands:
    @pytest.fixture
    def mug(self, desk) -> Path:
        save_file({"emb_params": torch.ones(2, 768)}, desk / "mug.safetensors")
        return desk / "mug.safetensors"

    @pytest.fixture
    def xl(self, desk) -> Path:
        save_file({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, desk / "xl.safetensors")
        return desk / "xl.safetensors"

    def test_runs(self, refused):
        assert refused("runs") == ["there is no folder textual_inversion"]
        assert refused("runs", "pictures/0.png") == [f"there is no folder {Path('pictures/0.png')}"]
        assert refused("runs", "--jsn") == ["unknown option --jsn; did you mean --json?"]

    def test_a_spoilt_run_does_not_hide_the_others(self, desk, capsys):
        for text in ("{", '{"settings": {}}', '{"settings": {"steps": -1}}'):
            folder = desk / "runs" / "mug" / f"2026-01-0{len(text) % 9}"
            folder.mkdir(parents=True)
            (folder / "settings.json").write_text(text)
        good = {"images": "x", "name": "x-y", "model": "x", "out": "x"}
        (desk / "runs" / "mug" / "2025-01-01").mkdir()
        (desk / "runs" / "mug" / "2025-01-01" / "settings.json").write_text(json.dumps({"settings": good}))
        assert main(["runs", "runs", "--json"]) == 0
        out, err = capsys.readouterr()
        assert [json.loads(line)["name"] for line in out.splitlines()] == ["x-y"]
        assert "Traceback" not in err
        assert len(err.splitlines()) >= 3

    def test_inspect(self, desk, mug, refused, tiny_checkpoint):
        (desk / "torn.safetensors").write_bytes(half(mug))
        (desk / "text.pt").write_text("no embedding")
        assert "no such file" in refused("inspect", "none.pt")[0]
        assert "truncated" in refused("inspect", "torn.safetensors")[0]
        assert "not a PyTorch file" in refused("inspect", "text.pt")[0]
        assert "this file holds" in refused("inspect", tiny_checkpoint)[0]
        assert "no such file" in refused("inspect", mug, "--model", "none.ckpt")[0]
        assert "takes vectors of width 64" in refused("inspect", mug, "--model", tiny_checkpoint)[0]
        assert "no embedding called 'cup'" in refused("inspect", mug, "--name", "cup")[0]
        assert "FILE" in refused("inspect")[0]
        assert "did you mean --json?" in refused("inspect", mug, "--jso")[0]

    def test_convert(self, mug, xl, refused):
        assert "no such file" in refused("convert", "none.pt", "new.pt", "--to", "a1111")[0]
        assert "ends in .pt" in refused("convert", mug, "new.safetensors", "--to", "a1111")[0]
        assert "invalid choice: 'onnx'" in refused("convert", mug, "new.onnx", "--to", "onnx")[0]
        assert "--to" in refused("convert", mug, "new.pt")[0]
        assert "there is no folder" in refused("convert", mug, "none/new.pt", "--to", "a1111")[0]
        assert "there is no folder" in refused("convert", mug, "pictures/0.png/new.pt", "--to", "a1111")[0]
        assert "these are 3" in refused("convert", mug, mug, mug, "new.pt", "--to", "a1111")[0]
        assert "same text encoder" in refused("convert", mug, mug, "new.pt", "--to", "a1111")[0]
        assert "both text encoders already" in refused("convert", mug, xl, "new.pt", "--to", "a1111")[0]
        assert "--token: only diffusers'" in refused("convert", mug, "new.pt", "--to", "a1111", "--token", "a")[0]
        assert "--token: ' '" in refused("convert", mug, "new.safetensors", "--to", "diffusers", "--token", " ")[0]

    def test_convert_that_could_not_be_read_again(self, desk, refused):
        save_file({"clip_l": torch.ones(1, 768), "clip_g": torch.zeros(1, 1280)}, desk / "half.safetensors")
        (line,) = refused("convert", "half.safetensors", "new.safetensors", "--to", "diffusers")
        assert "all vectors for CLIP-G are zero" in line
        assert "cannot be shown" in refused("convert", "half.safetensors", "a\nb.safetensors", "--to", "safetensors")[0]

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
    @pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".png"])
    def test_what_is_no_file(self, desk, refused, suffix):
        os.mkfifo(desk / f"pipe{suffix}")
        assert "a device or a pipe" in refused("inspect", f"pipe{suffix}")[0]
        (line,) = refused("generate", "--model", f"pipe{suffix}", "--prompt", "a", "--out", "new")
        assert "a device or a pipe" in line

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no file can be called so")
    def test_names_that_no_library_opens(self, desk, mug, tiny_checkpoint, refused):
        for source in (mug, tiny_checkpoint):
            shutil.copy(source, desk / f"\udcff{source.suffix}")
            assert "not valid Unicode; rename it" in refused("inspect", f"\udcff{source.suffix}")[0]
        (line,) = refused("generate", "--model", "\udcff.safetensors", "--prompt", "a", "--out", "new")
        assert "not valid Unicode; rename it" in line

    def test_convert_replaces_nothing_unasked(self, mug, xl, refused):
        assert "exists already" in refused("convert", mug, mug, "--to", "safetensors")[0]
        assert "exists already" in refused("convert", mug, mug.parent, "--to", "safetensors")[0]
        (mug.parent / "new_2.safetensors").write_bytes(b"")
        assert "new_2.safetensors exists already" in refused("convert", xl, "new.safetensors", "--to", "diffusers")[0]

    def test_generate(self, desk, mug, refused, tiny_checkpoint):
        lines = refused(
            "generate", "--model", tiny_checkpoint, "--prompt", "a mug", "--out", "none/new", "--embedding", mug,
            "--embedding", "none.pt", "--count", "0", "--seed", "-1", "--sampling-steps", "x", "--guidance", "nan",
            "--width", "65", "--height", "32", "--device", "tpu", "--negative-promt", "x", "--vae", "none.pt",
        )  # fmt: skip
        said = {line.partition(":")[0] for line in lines}
        options = ["embedding", "count", "seed", "sampling_steps", "guidance", "width", "height", "device", "out",
                   "vae"]  # fmt: skip
        assert said == {*map(option_flag, options), "unknown option --negative-promt; did you mean --negative-prompt?"}

    @pytest.mark.parametrize("name", ["cuda:x", "meta", "cuda:1", "mps"])
    def test_generate_on_no_device(self, refused, tiny_checkpoint, monkeypatch, name):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        (line,) = refused("generate", "--model", tiny_checkpoint, "--prompt", "a", "--out", "new", "--device", name)
        assert line.startswith("--device: ")

    def test_generate_of_what_is_no_text(self, refused, tiny_checkpoint):
        lines = refused(
            "generate", "--model", tiny_checkpoint, "--prompt", "\udcff", "--negative-prompt", "\udcff", "--out", "new"
        )
        assert lines == [f"--{option}prompt: is not readable text" for option in ("", "negative-")]

    def test_generate_with_too_little(self, refused, tiny_checkpoint):
        for missing in ("--model", "--prompt", "--out"):
            given = {"--model": str(tiny_checkpoint), "--prompt": "a", "--out": "new"}
            del given[missing]
            assert missing in refused("generate", *sum(given.items(), ()))[0]
        assert (
            "invalid choice"
            in refused("generate", "--sampler", "best", "--model", "x", "--prompt", "a", "--out", "x")[0]
        )


class TestOddButRight:
    """What is no bad input must not be taken for one, nor stop a training."""

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
    def test_file_names_that_are_no_unicode(self, desk, accepted):
        """Old archives leave such names; Python hands them on as surrogates, which no file or terminal takes."""
        (desk / "pictures").rename(desk / "b\udcfccher")
        (desk / "b\udcfccher" / "b\udcfccher.png").write_bytes(b"broken")
        assert "picture skipped" in accepted(images="b\udcfccher", runs_dir="l\udce4ufe")

    def test_a_terminal_of_another_alphabet(self, desk, tiny_checkpoint, monkeypatch):
        """On Windows, a program whose output goes to a file writes in an old code page."""
        terminal = io.TextIOWrapper(io.BytesIO(), "ascii", newline="")
        monkeypatch.setattr(sys, "stdout", terminal)
        assert main(train(tiny_checkpoint, name="кружка")) == 0
        assert (desk / "webui" / "embeddings" / "кружка.safetensors").exists()


class TestHelp:
    def help_of(self, capsys, *arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--help"])
        assert ended.value.code == 0
        out: str = capsys.readouterr().out
        return out

    @pytest.mark.parametrize("command", COMMANDS)
    def test_of_every_command(self, capsys, command):
        text = self.help_of(capsys, command)
        assert f"python -m lib_ti {command}" in text
        assert "SUPPRESS" not in text

    def test_of_train_names_and_explains_every_option(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "1000")
        text = self.help_of(capsys, "train")
        for name, option in OPTIONS.items():
            assert f"  {option_flag(name)}" in text
            assert option.help in text
            assert f"{option.section}:" in text
            assert all(choice in text for choice in option.choices)

    def test_of_the_program_lists_the_commands(self, capsys):
        assert main(["--help"]) == 0
        listed = capsys.readouterr().out
        assert {c for c in COMMANDS if f"  {c}" in listed} == COMMANDS.keys() - {"work"}  # which is for programs
