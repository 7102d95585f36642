"""`inspect` and `convert` on the command line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from reference.checkpoints import SIZES, write_checkpoint
from safetensors.torch import load_file, save_file

from lib_ti.cli import main
from lib_ti.embedding.read import read_embedding
from lib_ti.embedding.value import Embedding
from lib_ti.embedding.write import FORMATS, output_paths, save_embedding
from lib_ti.model.checkpoint.open import open_checkpoint

GOLDEN = Path(__file__).parent / "golden"
METADATA = {"name": "mug", "steps": "500", "checkpoint_name": "v1-5", "modelspec.title": "mug", "note": "ключ"}
ONE = Embedding("mug", {"clip_l": torch.rand(2, 768)}, METADATA)
BOTH = Embedding("mug", {"clip_l": torch.rand(2, 768), "clip_g": torch.rand(2, 1280)}, METADATA)


@pytest.fixture
def work_dir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def convert(capsys, *arguments: object) -> list[str]:
    assert main(["convert", *map(str, arguments)]) == 0
    return capsys.readouterr().out.split()


def as_lists(vectors) -> dict[str, list]:
    return {k: v.tolist() for k, v in vectors.items()}


@pytest.mark.parametrize("embedding", [ONE, BOTH], ids=["one encoder", "two"])
@pytest.mark.parametrize("second", FORMATS)
@pytest.mark.parametrize("first", FORMATS)
def test_convert_between_all_formats(work_dir, capsys, embedding, first, second):
    a, b = (f"learned_embeds{FORMATS[how].suffix}" for how in (first, second))
    (work_dir / "there").mkdir()
    source = save_embedding(embedding, first, work_dir / a)[0]
    out = convert(capsys, source, f"there/{b}", "--to", second)
    assert [Path(path).name for path in out] == [p.name for p in output_paths(embedding, second, Path(b))]
    converted = convert(capsys, out[0], "back.safetensors", "--to", "safetensors")
    restored = read_embedding(Path(converted[0]))
    assert as_lists(restored.vectors) == as_lists(embedding.vectors)
    metadata_lost = len(embedding.vectors) == 2 and "a1111" in (first, second)
    assert restored.metadata.get("note") == (None if metadata_lost else "ключ")


def test_output_is_named_after_its_file(work_dir, capsys):
    save_embedding(ONE, "safetensors", work_dir / "mug.safetensors")
    convert(capsys, "mug.safetensors", "cup.pt", "--to", "a1111")
    record = torch.load("cup.pt", weights_only=True)
    assert record["name"] == "cup"
    assert read_embedding(work_dir / "cup.pt").metadata == {**METADATA, "name": "cup", "modelspec.title": "cup"}
    convert(capsys, "mug.safetensors", "cup.safetensors", "--to", "diffusers", "--token", "<cup>")
    assert list(load_file("cup.safetensors")) == ["<cup>"]
    (work_dir / "out").mkdir()
    assert convert(capsys, "cup.pt", "out", "--to", "safetensors") == [str(Path("out/cup.safetensors"))]


def test_learned_embeds_keep_their_token(work_dir, capsys):
    shutil.copy(GOLDEN / "diffusers.bin", "learned_embeds.bin")
    convert(capsys, "learned_embeds.bin", "learned_embeds.safetensors", "--to", "diffusers")
    assert list(load_file("learned_embeds.safetensors")) == ["<my-mug>"]


def test_two_encoder_files_are_joined_given_both_or_one(work_dir, capsys):
    for name in ("learned_embeds", "learned_embeds_2"):
        shutil.copy(GOLDEN / f"{name}.safetensors", f"{name}.safetensors")
    pair = ["learned_embeds.safetensors", "learned_embeds_2.safetensors"]
    convert(capsys, *pair, "both.safetensors", "--to", "safetensors")
    assert main(["convert", pair[0], "joined.safetensors", "--to", "safetensors"]) == 0
    assert "with learned_embeds_2.safetensors" in capsys.readouterr().err
    both_given, second_found = (load_file(f"{name}.safetensors") for name in ("both", "joined"))
    assert as_lists(both_given) == as_lists(second_found)
    assert both_given.keys() == {"clip_l", "clip_g"}
    convert(capsys, pair[1], "half.safetensors", "--to", "safetensors")
    assert list(load_file("half.safetensors")) == ["emb_params"]


def test_unrelated_second_file_is_not_joined(work_dir, capsys):
    save_file({"emb_params": torch.ones(1, 768)}, "mug.safetensors")
    save_file({"emb_params": torch.ones(1, 768)}, "mug_2.safetensors")
    convert(capsys, "mug.safetensors", "new.safetensors", "--to", "safetensors")
    assert list(load_file("new.safetensors")) == ["emb_params"]


def test_convert_from_a_lora_and_an_image(work_dir, capsys):
    lora = GOLDEN / "onetrainer-xl-lora.safetensors"
    assert convert(capsys, lora, ".", "--to", "safetensors", "--name", "my-cup") == ["my-cup.safetensors"]
    assert convert(capsys, GOLDEN / "a1111-pixels.png", ".", "--to", "a1111") == ["my-mug.pt"]


@pytest.mark.parametrize("key", ["emb_params", "emp_params"])
def test_convert_from_a_lora_by_any_key(work_dir, capsys, key):
    lora = {"lora_unet_x.lora_down.weight": torch.ones(4, 8)}
    save_file({**lora, f"bundle_emb.cup.{key}": ONE.vectors["clip_l"]}, "lora.safetensors")
    convert(capsys, "lora.safetensors", "cup.safetensors", "--to", "safetensors")
    assert as_lists(load_file("cup.safetensors")) == {"emb_params": ONE.vectors["clip_l"].tolist()}


def test_stored_name_cannot_choose_the_folder(work_dir, capsys):
    save_file({"bundle_emb.../../mug.clip_l": torch.ones(1, 768)}, "lora.safetensors")
    (work_dir / "out").mkdir()
    assert convert(capsys, "lora.safetensors", "out", "--to", "a1111") == [str(Path("out/lora.pt"))]


def test_overwrite_in_place(work_dir, capsys):
    save_embedding(ONE, "safetensors", work_dir / "mug.safetensors")
    before = as_lists(read_embedding(work_dir / "mug.safetensors").vectors)
    convert(capsys, "mug.safetensors", "mug.safetensors", "--to", "diffusers", "--overwrite")
    assert list(load_file("mug.safetensors")) == ["mug"]
    assert as_lists(read_embedding(work_dir / "mug.safetensors").vectors) == before
    assert [path.name for path in work_dir.iterdir()] == ["mug.safetensors"]


# --- inspect -------------------------------------------------------------------------------------------------------


def test_inspect_lists_nearest_tokens(work_dir, capsys, tiny_checkpoint):
    checkpoint = open_checkpoint(tiny_checkpoint)
    (table,) = checkpoint.token_embeddings().values()
    rows = table[[320, 1125]] * torch.tensor([[2.0], [0.5]])
    save_embedding(Embedding("mug", {"clip_l": rows}), "safetensors", work_dir / "mug.safetensors")
    assert main(["inspect", "mug.safetensors", "--model", str(tiny_checkpoint), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["encoders"]["clip_l"]
    assert [vector["nearest_words"][0] for vector in report["vectors"]] == [["a", 1.0], ["photo", 1.0]]
    assert [round(v["norm"], 3) for v in report["vectors"]] == [round(float(n), 3) for n in rows.norm(dim=1)]
    assert report["vocabulary_norm"] == pytest.approx(float(table.norm(dim=1).mean()), abs=1e-3)
    assert main(["inspect", "mug.safetensors", "--model", str(tiny_checkpoint)]) == 0
    printed = capsys.readouterr().out
    assert "the vocabulary's mean is" in printed
    assert "photo 1.00" in printed


def test_inspect_lists_nearest_tokens_of_both_encoders(work_dir, capsys):
    path = write_checkpoint(work_dir / "xl.safetensors", SIZES["sdxl"])
    rows = {name: table[[320, 1125]] for name, table in open_checkpoint(path).token_embeddings().items()}
    save_embedding(Embedding("mug", rows), "safetensors", work_dir / "mug.safetensors")
    assert main(["inspect", "mug.safetensors", "--model", str(path), "--json"]) == 0
    encoders = json.loads(capsys.readouterr().out)["encoders"]
    assert list(encoders) == ["clip_l", "clip_g"]
    for encoder in encoders.values():
        assert [vector["nearest_words"][0] for vector in encoder["vectors"]] == [["a", 1.0], ["photo", 1.0]]


def test_inspect_prints_both_encoders_and_the_metadata(work_dir, capsys):
    save_embedding(BOTH, "safetensors", work_dir / "mug.safetensors")
    assert main(["inspect", "mug.safetensors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mug: 2 vectors of width 768 + 1280, family sdxl, for SDXL"
    assert [line for line in lines if line.endswith("norms")] == ["clip_l: norms", "clip_g: norms"]
    assert "  note: ключ" in lines
    assert main(["inspect", "mug.safetensors", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {name: (e["width"], len(e["vectors"])) for name, e in report["encoders"].items()} == {
        "clip_l": (768, 2),
        "clip_g": (1280, 2),
    }


ESCAPE = "\x1b[2Jred\nline ключ"
ESCAPED = "\\x1b[2Jred\\nline ключ"


def test_control_characters_in_a_file_are_escaped(work_dir, capsys):
    metadata = {"family": ESCAPE, ESCAPE: ESCAPE, "checkpoint_name": ESCAPE}
    save_file({"emb_params": torch.ones(1, 64)}, "metadata.safetensors", metadata)
    halves = {f"bundle_emb.{ESCAPE}.{k}": v for k, v in BOTH.vectors.items()}
    save_file(halves, "one.safetensors")
    save_file({**halves, "bundle_emb.b.clip_l": torch.ones(1, 768)}, "two.safetensors")
    assert [main(["inspect", f"{name}.safetensors"]) for name in ("metadata", "one", "two")] == [0, 0, 2]
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert f"{ESCAPED}: 2 vectors" in out
    assert f"{ESCAPED}: {ESCAPED}" in out
    assert f"it holds 2 embeddings: {ESCAPED}, b;" in err
    assert len(err.splitlines()) == 1
