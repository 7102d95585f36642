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
TOLD = {"name": "mug", "steps": "500", "checkpoint_name": "v1-5", "modelspec.title": "mug", "note": "ключ"}
ONE = Embedding("mug", {"clip_l": torch.rand(2, 768)}, TOLD)
BOTH = Embedding("mug", {"clip_l": torch.rand(2, 768), "clip_g": torch.rand(2, 1280)}, TOLD)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def convert(capsys, *arguments: object) -> list[str]:
    assert main(["convert", *map(str, arguments)]) == 0
    return capsys.readouterr().out.split()


def told(vectors) -> dict[str, list]:
    return {k: v.tolist() for k, v in vectors.items()}


@pytest.mark.parametrize("embedding", [ONE, BOTH], ids=["one encoder", "two"])
@pytest.mark.parametrize("second", FORMATS)
@pytest.mark.parametrize("first", FORMATS)
def test_from_each_format_to_each(desk, capsys, embedding, first, second):
    a, b = (f"learned_embeds{FORMATS[how].suffix}" for how in (first, second))
    (desk / "there").mkdir()
    source = save_embedding(embedding, first, desk / a)[0]
    out = convert(capsys, source, f"there/{b}", "--to", second)
    assert [Path(path).name for path in out] == [p.name for p in output_paths(embedding, second, Path(b))]
    back = convert(capsys, out[0], "back.safetensors", "--to", "safetensors")
    found = read_embedding(Path(back[0]))
    assert told(found.vectors) == told(embedding.vectors)
    lost = len(embedding.vectors) == 2 and "a1111" in (first, second)
    assert found.metadata.get("note") == (None if lost else "ключ")


def test_it_is_called_as_its_file_is(desk, capsys):
    save_embedding(ONE, "safetensors", desk / "mug.safetensors")
    convert(capsys, "mug.safetensors", "cup.pt", "--to", "a1111")
    record = torch.load("cup.pt", weights_only=True)
    assert record["name"] == "cup"
    assert read_embedding(desk / "cup.pt").metadata == {**TOLD, "name": "cup", "modelspec.title": "cup"}
    convert(capsys, "mug.safetensors", "cup.safetensors", "--to", "diffusers", "--token", "<cup>")
    assert list(load_file("cup.safetensors")) == ["<cup>"]
    (desk / "out").mkdir()
    assert convert(capsys, "cup.pt", "out", "--to", "safetensors") == [str(Path("out/cup.safetensors"))]


def test_what_diffusers_calls_all_alike_keeps_its_word(desk, capsys):
    shutil.copy(GOLDEN / "diffusers.bin", "learned_embeds.bin")
    convert(capsys, "learned_embeds.bin", "learned_embeds.safetensors", "--to", "diffusers")
    assert list(load_file("learned_embeds.safetensors")) == ["<my-mug>"]


def test_two_files_become_one_named_or_found(desk, capsys):
    for name in ("learned_embeds", "learned_embeds_2"):
        shutil.copy(GOLDEN / f"{name}.safetensors", f"{name}.safetensors")
    pair = ["learned_embeds.safetensors", "learned_embeds_2.safetensors"]
    convert(capsys, *pair, "named.safetensors", "--to", "safetensors")
    assert main(["convert", pair[0], "found.safetensors", "--to", "safetensors"]) == 0
    assert "with learned_embeds_2.safetensors" in capsys.readouterr().err
    named, found = (load_file(f"{name}.safetensors") for name in ("named", "found"))
    assert told(named) == told(found)
    assert named.keys() == {"clip_l", "clip_g"}
    convert(capsys, pair[1], "half.safetensors", "--to", "safetensors")
    assert list(load_file("half.safetensors")) == ["emb_params"]


def test_what_only_happens_to_be_called_so_is_not_joined(desk, capsys):
    save_file({"emb_params": torch.ones(1, 768)}, "mug.safetensors")
    save_file({"emb_params": torch.ones(1, 768)}, "mug_2.safetensors")
    convert(capsys, "mug.safetensors", "new.safetensors", "--to", "safetensors")
    assert list(load_file("new.safetensors")) == ["emb_params"]


def test_out_of_a_lora_and_a_picture(desk, capsys):
    lora = GOLDEN / "onetrainer-xl-lora.safetensors"
    assert convert(capsys, lora, ".", "--to", "safetensors", "--name", "my-cup") == ["my-cup.safetensors"]
    assert convert(capsys, GOLDEN / "a1111-pixels.png", ".", "--to", "a1111") == ["my-mug.pt"]


@pytest.mark.parametrize("key", ["emb_params", "emp_params"])
def test_out_of_a_lora_by_any_key(desk, capsys, key):
    lora = {"lora_unet_x.lora_down.weight": torch.ones(4, 8)}
    save_file({**lora, f"bundle_emb.cup.{key}": ONE.vectors["clip_l"]}, "lora.safetensors")
    convert(capsys, "lora.safetensors", "cup.safetensors", "--to", "safetensors")
    assert told(load_file("cup.safetensors")) == {"emb_params": ONE.vectors["clip_l"].tolist()}


def test_a_name_in_a_file_chooses_no_folder(desk, capsys):
    save_file({"bundle_emb.../../mug.clip_l": torch.ones(1, 768)}, "lora.safetensors")
    (desk / "out").mkdir()
    assert convert(capsys, "lora.safetensors", "out", "--to", "a1111") == [str(Path("out/lora.pt"))]


def test_overwriting_when_asked(desk, capsys):
    save_embedding(ONE, "safetensors", desk / "mug.safetensors")
    before = told(read_embedding(desk / "mug.safetensors").vectors)
    convert(capsys, "mug.safetensors", "mug.safetensors", "--to", "diffusers", "--overwrite")
    assert list(load_file("mug.safetensors")) == ["mug"]
    assert told(read_embedding(desk / "mug.safetensors").vectors) == before
    assert [path.name for path in desk.iterdir()] == ["mug.safetensors"]


# --- inspect -------------------------------------------------------------------------------------------------------


def test_inspect_names_the_nearest_words(desk, capsys, tiny_checkpoint):
    checkpoint = open_checkpoint(tiny_checkpoint)
    (table,) = checkpoint.token_tables().values()
    rows = table[[320, 1125]] * torch.tensor([[2.0], [0.5]])
    save_embedding(Embedding("mug", {"clip_l": rows}), "safetensors", desk / "mug.safetensors")
    assert main(["inspect", "mug.safetensors", "--model", str(tiny_checkpoint), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["encoders"]["clip_l"]
    assert [vector["nearest_words"][0] for vector in found["vectors"]] == [["a", 1.0], ["photo", 1.0]]
    assert [round(v["norm"], 3) for v in found["vectors"]] == [round(float(n), 3) for n in rows.norm(dim=1)]
    assert found["vocabulary_norm"] == pytest.approx(float(table.norm(dim=1).mean()), abs=1e-3)
    assert main(["inspect", "mug.safetensors", "--model", str(tiny_checkpoint)]) == 0
    shown = capsys.readouterr().out
    assert "the vocabulary's mean is" in shown
    assert "photo 1.00" in shown


def test_inspect_names_the_nearest_words_of_both_vocabularies(desk, capsys):
    path = write_checkpoint(desk / "xl.safetensors", SIZES["sdxl"])
    rows = {name: table[[320, 1125]] for name, table in open_checkpoint(path).token_tables().items()}
    save_embedding(Embedding("mug", rows), "safetensors", desk / "mug.safetensors")
    assert main(["inspect", "mug.safetensors", "--model", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["encoders"]
    assert list(found) == ["clip_l", "clip_g"]
    for encoder in found.values():
        assert [vector["nearest_words"][0] for vector in encoder["vectors"]] == [["a", 1.0], ["photo", 1.0]]


def test_inspect_tells_of_both_encoders_and_the_metadata(desk, capsys):
    save_embedding(BOTH, "safetensors", desk / "mug.safetensors")
    assert main(["inspect", "mug.safetensors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mug: 2 vectors of width 768 + 1280, family sdxl, for SDXL"
    assert [line for line in lines if line.endswith("norms")] == ["clip_l: norms", "clip_g: norms"]
    assert "  note: ключ" in lines
    assert main(["inspect", "mug.safetensors", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: (e["width"], len(e["vectors"])) for name, e in found["encoders"].items()} == {
        "clip_l": (768, 2),
        "clip_g": (1280, 2),
    }


ESCAPE = "\x1b[2Jred\nline ключ"
SHOWN = "\\x1b[2Jred\\nline ключ"


def test_nothing_in_a_file_steers_the_terminal(desk, capsys):
    told = {"family": ESCAPE, ESCAPE: ESCAPE, "checkpoint_name": ESCAPE}
    save_file({"emb_params": torch.ones(1, 64)}, "told.safetensors", told)
    halves = {f"bundle_emb.{ESCAPE}.{k}": v for k, v in BOTH.vectors.items()}
    save_file(halves, "one.safetensors")
    save_file({**halves, "bundle_emb.b.clip_l": torch.ones(1, 768)}, "two.safetensors")
    assert [main(["inspect", f"{name}.safetensors"]) for name in ("told", "one", "two")] == [0, 0, 2]
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert f"{SHOWN}: 2 vectors" in out
    assert f"{SHOWN}: {SHOWN}" in out
    assert f"it holds 2 embeddings: {SHOWN}, b;" in err
    assert len(err.splitlines()) == 1
