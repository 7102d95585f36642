"""The index of embeddings: names, reasons, thumbnails, and detection of changes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from lib_ti.errors import UnusableFile
from lib_ti.formats.safetensors_header import read_safetensors_header
from lib_ti.formats.safetensors_tensors import safetensors_bytes
from lib_ti.model.checkpoint.embedding_widths import embedding_widths
from lib_ti.webui.embedding_index import THUMBNAIL_SIZE, EmbeddingIndex
from lib_ti.webui.hosts.host import CheckpointChoice

ROOT = Path(__file__).resolve().parent.parent


class Host:
    """The part of a host that the index uses."""

    def __init__(self, embeddings, checkpoint=None):
        self.embeddings_dir = embeddings
        self.checkpoint = checkpoint

    def selected_checkpoint(self):
        return CheckpointChoice(self.checkpoint.name, self.checkpoint) if self.checkpoint else None


def embedding(*shapes, names=("emb_params",)):
    return safetensors_bytes({name: torch.zeros(shape) for name, shape in zip(names, shapes, strict=True)}, {})


SDXL = embedding((4, 768), (4, 1280), names=("clip_l", "clip_g"))
TABLES = {
    (768,): {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (9, 768)},
    (128,): {"cond_stage_model.transformer.embeddings.token_embedding.weight": (9, 128)},
    (1024,): {"cond_stage_model.model.token_embedding.weight": (9, 1024)},
    (768, 1280): {
        "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight": (9, 768),
        "conditioner.embedders.1.model.token_embedding.weight": (9, 1280),
    },
    (1280,): {"conditioner.embedders.0.model.token_embedding.weight": (9, 1280)},
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "embeddings"
    folder.mkdir()
    return folder


def checkpoint(folder, widths):
    path = folder / f"{'-'.join(map(str, widths))}.safetensors"
    path.write_bytes(safetensors_bytes({k: torch.zeros(s) for k, s in TABLES[widths].items()}, {}))
    return path


def reasons_of(index):
    return {entry.name: entry.reason for entry in index.entries()}


@pytest.mark.smoke
class TestCompatibility:
    @pytest.mark.parametrize("widths", TABLES)
    def test_embedding_widths_of_checkpoint_files(self, tmp_path, widths):
        assert embedding_widths(checkpoint(tmp_path, widths)) == widths

    def test_embedding_widths_of_safetensors_and_ckpt(self, tiny_checkpoint, tmp_path):
        assert embedding_widths(tiny_checkpoint) == (64,)
        state = {"state_dict": {k: torch.zeros(s) for k, s in TABLES[(768,)].items()}}
        torch.save(state, tmp_path / "old.ckpt")
        assert embedding_widths(tmp_path / "old.ckpt") == (768,)

    def test_embedding_widths_of_diffusers_folders(self, tmp_path):
        for part, width in (("text_encoder", 768), ("text_encoder_2", 1280)):
            (tmp_path / part).mkdir()
            (tmp_path / part / "config.json").write_text(f'{{"hidden_size": {width}}}')
        assert embedding_widths(tmp_path) == (768, 1280)

    def test_reasons_depend_on_the_checkpoint_family(self, folder, tmp_path):
        files = {"one": embedding((2, 768)), "two": embedding((2, 1024)), "xl": SDXL, "own": embedding((2, 128))}
        for name, data in files.items():
            (folder / f"{name}.safetensors").write_bytes(data)
        reasons = {
            "one": "made for SD 1.x", "two": "made for SD 2.x", "xl": "made for SDXL", "own": "made for models of width 128",
        }  # fmt: skip
        for fits, widths in {"one": (768,), "two": (1024,), "xl": (768, 1280), "own": (128,)}.items():
            assert reasons_of(EmbeddingIndex(Host(folder, checkpoint(tmp_path, widths)))) == {**reasons, fits: ""}

    def test_encoders_that_could_initialize_sdxl(self, folder, tmp_path):
        files = {"one": embedding((2, 768)), "two": embedding((2, 1024)), "g": embedding((2, 1280)), "xl": SDXL}
        for name, data in files.items():
            (folder / f"{name}.safetensors").write_bytes(data)
        entries = EmbeddingIndex(Host(folder, checkpoint(tmp_path, (768, 1280)))).entries()
        assert {e.name: e.init_encoder for e in entries} == {"xl": "", "one": "CLIP-L", "g": "CLIP-G", "two": ""}
        assert not any(e.init_encoder for e in EmbeddingIndex(Host(folder, checkpoint(tmp_path, (1024,)))).entries())

    def test_all_fit_an_unknown_checkpoint(self, folder, tmp_path):
        (folder / "one.safetensors").write_bytes(embedding((2, 768)))
        (tmp_path / "odd.gguf").write_bytes(b"GGUF" + bytes(100))
        for path in (None, tmp_path / "odd.gguf", tmp_path / "gone.safetensors"):
            assert reasons_of(EmbeddingIndex(Host(folder, path))) == {"one": ""}

    def test_pickled_embeddings(self, folder):
        torch.save({"string_to_param": {"*": torch.ones(3, 768)}, "name": "other"}, folder / "old.pt")
        torch.save({"<cat>": torch.ones(768)}, folder / "concept.bin")
        entries = {entry.name: entry for entry in EmbeddingIndex(Host(folder)).entries()}
        assert (entries["old"].summary.num_vectors, entries["old"].summary.widths) == (3, (768,))
        assert (entries["concept"].summary.num_vectors, entries["concept"].reason) == (1, "")

    def test_embedding_images_of_a1111(self, folder):
        """They are called what they are called inside; a plain picture is none, and says nothing."""
        golden = Path(__file__).parent / "golden"
        for name in ("a1111-text.png", "a1111-pixels.webp"):
            (folder / f"of {name}").write_bytes((golden / name).read_bytes())
        (folder / "mug.preview.png").write_bytes((golden / "a1111-text.png").read_bytes())
        Image.new("RGB", (9, 9), "teal").save(folder / "plain.png")
        (folder / "torn.png").write_bytes((golden / "a1111-text.png").read_bytes()[:300])
        (entry, torn) = EmbeddingIndex(Host(folder)).entries()
        assert (entry.name, entry.summary.num_vectors, entry.fits) == ("my-mug", 2, True)
        assert EmbeddingIndex(Host(folder)).find("My-Mug ") == entry.path
        assert EmbeddingIndex(Host(folder)).find("of a1111-text") is None
        assert entry.image.path == str(entry.path)
        assert (torn.name, torn.reason) == ("torn", "unreadable: the embedding in this picture is damaged")


class TestOrder:
    def test_newest_first_and_misfits_last(self, folder, tmp_path):
        for age, (name, width) in enumerate({"newest": 1024, "new": 768, "older": 768, "oldest": 1024}.items()):
            path = folder / f"{name}.safetensors"
            path.write_bytes(embedding((1, width)))
            os.utime(path, (1e9 - age, 1e9 - age))
        entries = EmbeddingIndex(Host(folder, checkpoint(tmp_path, (768,)))).entries()
        assert [entry.label for entry in entries] == [
            "new", "older", "newest — made for SD 2.x", "oldest — made for SD 2.x",
        ]  # fmt: skip

    def test_of_equal_names_the_fitting_one_is_listed(self, folder, tmp_path):
        (folder / "sub").mkdir()
        (folder / "word.safetensors").write_bytes(embedding((1, 1024)))
        (folder / "sub" / "word.safetensors").write_bytes(embedding((1, 768)))
        (entry,) = EmbeddingIndex(Host(folder, checkpoint(tmp_path, (768,)))).entries()
        assert entry.fits
        assert entry.path.parent.name == "sub"


class TestHostileFiles:
    @pytest.mark.parametrize(
        "data",
        [
            b"", b"{", b"\xff" * 50, (10**18).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]",
            (4).to_bytes(8, "little") + b"null", (17).to_bytes(8, "little") + b'{"a":{"shape":1}}',
            (100_000).to_bytes(8, "little") + b"[" * 100_000, embedding((2, 768))[:-5], embedding((0, 768)),
            embedding((2, 2, 2)), embedding((80, 768)), embedding((1, 2), (1, 2), names=("a", "b")),
            safetensors_bytes({}, {}), safetensors_bytes({"a": torch.zeros(2, 3, dtype=torch.int64)}, {}),
            embedding((2, 768), (3, 1280), names=("clip_l", "clip_g")),
        ],
    )  # fmt: skip
    def test_damaged_files_are_listed_with_a_reason(self, folder, data):
        (folder / "good.safetensors").write_bytes(embedding((1, 768)))
        for name in ("bad.safetensors", "bad2.pt", "bad3.bin"):
            (folder / name).write_bytes(data)
        reasons = reasons_of(EmbeddingIndex(Host(folder)))
        assert reasons.pop("good") == ""
        assert reasons.keys() == {"bad", "bad2", "bad3"}
        for reason in reasons.values():
            assert reason.startswith("unreadable: ")
            assert str(folder) not in reason

    def test_unusual_names_are_listed(self, folder):
        names = {"a (v2) [x]", "<img src=x onerror=alert(1)>", "猫", 'it\'s "quoted"', "a.b", "x — made for SDXL"}
        if os.name == "nt":
            names = {"a (v2) [x]", "猫", "a.b"}
        for name in names:
            (folder / f"{name}.safetensors").write_bytes(embedding((1, 768)))
        assert reasons_of(EmbeddingIndex(Host(folder))).keys() == names
        answer = EmbeddingIndex(Host(folder)).actions()["embeddings"]()
        assert {entry["label"] for entry in answer["embeddings"]} == names

    def test_other_files_are_not_listed(self, folder):
        for name in ("a.preview.png", "a.png", "notes.txt", "._a.pt", "a.pt.optim", ".a.safetensors.1.part"):
            (folder / name).write_bytes(b"?")
        assert EmbeddingIndex(Host(folder)).entries() == []

    @pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
    def test_circular_and_broken_links(self, folder):
        (folder / "sub").mkdir()
        (folder / "sub" / "up").symlink_to(folder)
        (folder / "nothing.pt").symlink_to(folder / "gone")
        (folder / "sub" / "one.safetensors").write_bytes(embedding((1, 768)))
        assert reasons_of(EmbeddingIndex(Host(folder))).keys() == {"one"}

    def test_missing_folder_is_empty(self, tmp_path):
        index = EmbeddingIndex(Host(tmp_path / "none"))
        assert index.entries() == []
        assert index.version() == index.version()


class TestVersion:
    def test_every_change_changes_the_version(self, folder, tmp_path):
        host = Host(folder)
        index = EmbeddingIndex(host)
        versions = [index.version()]
        path = folder / "sub" / "one.safetensors"

        def assert_changed():
            assert index.version() == index.version()
            assert index.version() not in versions
            versions.append(index.version())

        path.parent.mkdir()
        path.write_bytes(embedding((1, 768)))
        assert_changed()
        before = path.stat()
        path.write_bytes(embedding((2, 768)))  # in place, in the same moment
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert_changed()
        os.utime(path, (1, 1))
        assert_changed()
        Image.new("RGB", (9, 9)).save(path.with_name("one.preview.png"))
        assert_changed()
        files = index.version().split("-")[0]
        host.checkpoint = checkpoint(tmp_path, (768,))
        assert_changed()
        host.checkpoint.write_bytes(b"another")
        assert_changed()
        assert index.version().split("-")[0] == files, "only the checkpoint is another"
        path.rename(folder / "one.safetensors")
        assert_changed()

    def test_replaced_file_is_read_again(self, folder):
        index = EmbeddingIndex(Host(folder))
        path = folder / "one.safetensors"
        path.write_bytes(embedding((1, 768)))
        assert index.entries()[0].summary.num_vectors == 1
        path.write_bytes(embedding((2, 768)))
        assert index.entries()[0].summary.num_vectors == 2

    def test_unchanged_file_is_not_read_again(self, folder, monkeypatch):
        index = EmbeddingIndex(Host(folder))
        torch.save({"*": torch.ones(1, 768)}, folder / "old.pt")
        index.entries()
        monkeypatch.setattr("lib_ti.embedding.read.read_embedding", pytest.fail)
        index.version()
        assert reasons_of(index) == {"old": ""}


class TestThumbnail:
    def test_thumbnails_are_small_and_prefer_preview_files(self, folder):
        index = EmbeddingIndex(Host(folder))
        for name in ("one", "two", "none", "damaged"):
            (folder / f"{name}.safetensors").write_bytes(embedding((1, 768)))
        Image.new("RGB", (900, 600), "red").save(folder / "one.preview.png")
        Image.new("RGB", (900, 600), "blue").save(folder / "one.png")
        Image.new("RGBA", (40, 900)).save(folder / "two.webp")
        (folder / "damaged.preview.png").write_bytes(b"?")
        for name in ("one", "two"):
            data_url = index.actions()["thumb"](name=name)["image"]
            assert data_url.startswith("data:image/jpeg;base64,")
            assert len(data_url) < 20_000
        assert THUMBNAIL_SIZE <= 160
        for name in ("none", "damaged", "../one", "unknown"):
            assert index.actions()["thumb"](name=name) == {"image": None}
        assert [e["name"] for e in index.actions()["embeddings"]()["embeddings"] if not e["preview"]] == ["none"]


def test_listing_safetensors_imports_no_heavy_package(folder, tmp_path):
    """Embeddings and checkpoints in safetensors files are looked at without torch."""
    (folder / "one.safetensors").write_bytes(embedding((1, 768)))
    path = checkpoint(tmp_path, (768,))
    program = f"""
import sys
from pathlib import Path
from types import SimpleNamespace
from lib_ti.webui.embedding_index import EmbeddingIndex
checkpoint = SimpleNamespace(title="", path=Path({str(path)!r}))
host = SimpleNamespace(embeddings_dir=Path({str(folder)!r}), selected_checkpoint=lambda: checkpoint)
assert EmbeddingIndex(host).entries()[0].fits
print(sorted({{"torch", "diffusers", "transformers", "gradio"}} & sys.modules.keys()))
"""
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_trailing_data_raises(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(embedding((1, 768)) + b"more")
    with pytest.raises(UnusableFile):
        read_safetensors_header(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]},
        {"dtype": "F32", "shape": [-1, -1], "data_offsets": [-4, 4]},
        {"dtype": "F32", "shape": ["a", 10**9], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 2, 4]},
    ],
)
def test_header_inconsistent_with_data_raises(tmp_path, entry):
    text = json.dumps({"a": entry}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(UnusableFile):
        read_safetensors_header(tmp_path / "a.safetensors")


def test_oversized_header_raises(tmp_path):
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write((30_000_000).to_bytes(8, "little") + b"{")
        file.truncate(40_000_000)
    with pytest.raises(UnusableFile, match="its header is 28 MB long"):
        read_safetensors_header(path)
