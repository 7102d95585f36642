"""Embedding files: written to the byte, read by other programs' readers, and read whatever program wrote them."""

import io
import os
import pickletools
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers.loaders import textual_inversion
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save, save_file

from lib_ti.embedding.file_type import check_suffix
from lib_ti.embedding.read import join_encoder_files, read_embedding
from lib_ti.embedding.summary import summarize
from lib_ti.embedding.value import Embedding
from lib_ti.embedding.write import FORMATS, EmbeddingFormat, save_embedding, to_diffusers, to_safetensors
from lib_ti.errors import TextualInversionError, TrainingFailed, UnusableFile
from lib_ti.formats.safetensors_tensors import safetensors_bytes
from lib_ti.runs.execute import install_embedding
from lib_ti.settings.names import name_problem

TWO = torch.tensor([[1.0, 2.0, 3.0], [-4.0, 0.5, 1e-8]])
MUG = Embedding("my-mug", {"clip_l": TWO}, {"steps": "500", "checkpoint_name": "v1-5", "checkpoint_sha256": "ab" * 32})


def equal(first: Embedding, second: Embedding) -> bool:
    """Compares names and vectors, to the bit."""
    vectors = [{k: v.tolist() for k, v in e.vectors.items()} for e in (first, second)]
    return first.name == second.name and vectors[0] == vectors[1]


def write(embedding: Embedding, format_name: str, folder: Path) -> Path:
    return save_embedding(embedding, format_name, folder / f"{embedding.name}{FORMATS[format_name].suffix}")[0]


# --- writing -------------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_safetensors_bytes_exactly():
    header = (
        b'{"__metadata__":{"a":"1","b":"two"},'
        b'"first":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},'
        b'"second":{"dtype":"F16","shape":[2],"data_offsets":[8,12]}}      '  # spaces up to a multiple of 8
    )
    written = safetensors_bytes(
        {"second": torch.tensor([1, -2], dtype=torch.float16), "first": torch.tensor([[1.0, -0.5]])},
        {"b": "two", "a": "1"},
    )
    assert written == b"\xa0" + bytes(7) + header + b"\0\0\x80\x3f\0\0\0\xbf" + b"\0\x3c\0\xc0"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64], ids=str)
@pytest.mark.parametrize("metadata", [{}, {"ключ": '"quoted"\n', "empty": ""}], ids=["bare", "with metadata"])
def test_safetensors_package_reads_our_bytes(tmp_path, dtype, metadata):
    tensors = {"b": (torch.arange(6).view(2, 3) - 2).to(dtype).T, "a": torch.zeros(0, 5, dtype=dtype)}
    (tmp_path / "file.safetensors").write_bytes(safetensors_bytes(tensors, metadata))
    with safe_open(tmp_path / "file.safetensors", framework="pt") as file:
        assert (file.metadata() or {}) == metadata
        assert sorted(file.keys()) == ["a", "b"]
        for name, tensor in tensors.items():
            torch.testing.assert_close(file.get_tensor(name), tensor, rtol=0, atol=0)


def test_to_safetensors_keys_and_dtypes():
    written = load(to_safetensors(MUG))
    assert list(written) == ["emb_params"]
    torch.testing.assert_close(written["emb_params"], TWO, rtol=0, atol=0)
    both = {"clip_l": torch.zeros(2, 768), "clip_g": torch.ones(2, 1280, dtype=torch.float16)}
    written = load(to_safetensors(Embedding("mug", both)))
    assert {k: (tuple(v.shape), v.dtype) for k, v in written.items()} == {
        "clip_l": ((2, 768), torch.float32),
        "clip_g": ((2, 1280), torch.float32),
    }


def test_a1111_record(tmp_path):
    path = write(MUG, "a1111", tmp_path)
    record = torch.load(path, weights_only=True)
    vectors = record.pop("string_to_param")
    assert record == {
        "string_to_token": {"*": 265},
        "name": "my-mug",
        "step": 500,
        "sd_checkpoint": "ababababab",
        "sd_checkpoint_name": "v1-5",
        "metadata": MUG.metadata,
    }
    assert list(vectors) == ["*"]
    assert type(vectors["*"]) is torch.Tensor
    assert vectors["*"].tolist() == TWO.tolist()
    assert not vectors["*"].requires_grad


def test_a1111_pickle_uses_only_globals_that_a1111_allows(tmp_path):
    """It reads with an unpickler of its own, which refuses some members of the zip archives that newer releases write."""
    stream = io.BytesIO(write(MUG, "a1111", tmp_path).read_bytes())
    assert stream.read(2) == b"\x80\2"
    stream.seek(0)
    global_names = set()
    for _ in range(4):  # magic number, protocol, system, the record
        global_names |= {argument for opcode, argument, _ in pickletools.genops(stream) if opcode.name == "GLOBAL"}
    assert global_names == {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch FloatStorage"}


def test_a1111_record_without_metadata(tmp_path):
    record = torch.load(write(Embedding("mug", {"clip_l": TWO}), "a1111", tmp_path), weights_only=True)
    assert (record["step"], record["sd_checkpoint"], record["sd_checkpoint_name"]) == (0, None, None)


def test_a1111_record_with_odd_step_metadata(tmp_path):
    embedding = Embedding("mug", {"clip_l": TWO}, {"steps": "2 epochs"})
    assert torch.load(write(embedding, "a1111", tmp_path), weights_only=True)["step"] == 0


def test_diffusers_key_and_metadata(tmp_path):
    path = write(MUG, "diffusers", tmp_path)
    with safe_open(path, framework="pt") as file:
        assert (list(file.keys()), file.metadata()) == (["my-mug"], {"format": "pt", **MUG.metadata})


@pytest.mark.parametrize("format_name", FORMATS)
def test_diffusers_reads_every_format(tmp_path, format_name):
    path = write(MUG, format_name, tmp_path)
    tokenizer = type("Tokenizer", (), {"get_vocab": staticmethod(dict)})
    token = "my-mug" if format_name == "safetensors" else None  # the others contain it
    state_dicts = textual_inversion.load_textual_inversion_state_dicts([str(tmp_path)], weight_name=path.name)
    retrieve = textual_inversion.TextualInversionLoaderMixin._retrieve_tokens_and_embeddings
    (name,), (vectors,) = retrieve([token], state_dicts, tokenizer)
    assert (name, vectors.tolist()) == ("my-mug", TWO.tolist())


def test_bytes_are_reproducible_across_processes():
    """Except for A1111's file: PyTorch's old container numbers tensors by their memory addresses."""
    program = """if True:  # for the indent
        import hashlib, torch
        from lib_ti.embedding.write import FORMATS
        from lib_ti.embedding.value import Embedding
        embedding = Embedding("mug", {"clip_l": torch.ones(2, 768)}, {str(n): str(-n) for n in range(50)})
        for format_name in ("safetensors", "diffusers"):
            print(hashlib.sha256(b"".join(FORMATS[format_name].encode(embedding))).hexdigest())
    """
    root = Path(__file__).parent.parent
    digests = {
        subprocess.check_output(
            [sys.executable, "-c", program], cwd=root, env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": "."}
        )
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert len(digests.pop().split()) == 2


# --- round trips ---------------------------------------------------------------------------------------------------


@st.composite
def embeddings(draw: st.DrawFn) -> Embedding:
    name = draw(st.text(min_size=1, max_size=20).filter(lambda text: name_problem(text) is None))
    count, width = draw(st.integers(1, 75)), draw(st.integers(1, 48))
    number = st.floats(width=32, allow_nan=False, allow_infinity=False)
    values = draw(st.lists(number, min_size=1, max_size=8).filter(lambda n: n[0] != 0))
    vectors = torch.tensor(values).repeat(count * width)[: count * width].view(count, width)
    return Embedding(name, {"clip_l": vectors}, draw(st.dictionaries(st.text(max_size=9), st.text(max_size=9))))


@pytest.mark.parametrize("format_name", FORMATS)
@given(embedding=embeddings())
@example(embedding=Embedding("emb_params", {"clip_l": torch.ones(1, 768)}))
@example(embedding=Embedding("string_to_param", {"clip_l": torch.ones(75, 1024)}))
def test_round_trip(tmp_path_factory, format_name, embedding):
    loaded = read_embedding(write(embedding, format_name, tmp_path_factory.getbasetemp()))
    assert equal(loaded, embedding)
    expected = {k: v for k, v in embedding.metadata.items() if format_name == "a1111" or k not in ("format", "token")}
    assert {
        k: v for k, v in loaded.metadata.items() if format_name == "a1111" or k not in ("format", "token")
    } == expected


BOTH = Embedding("xl", {"clip_l": torch.rand(3, 768), "clip_g": torch.rand(3, 1280)}, {"steps": "1"})


@pytest.mark.parametrize("format_name", ["safetensors", "a1111"])
def test_round_trip_of_two_encoders(tmp_path, format_name):
    loaded = read_embedding(write(BOTH, format_name, tmp_path))
    assert equal(loaded, BOTH)
    assert (loaded.num_vectors, loaded.widths, loaded.family) == (3, (768, 1280), "sdxl")
    assert loaded.metadata == (
        BOTH.metadata if format_name == "safetensors" else {}
    )  # A1111 takes whatever is there for vectors


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("learned_embeds", "learned_embeds_2"),
        ("learned_embeds-steps-500", "learned_embeds_2-steps-500"),
        ("mug", "mug_2"),
    ],
)
def test_diffusers_writes_one_file_per_encoder(tmp_path, first, second):
    one, two = save_embedding(BOTH, "diffusers", tmp_path / f"{first}.safetensors")
    assert (one.stem, two.stem) == (first, second)
    for files in ((one, two), (two, one)):
        loaded = join_encoder_files(*files)
        assert {k: v.tolist() for k, v in loaded.vectors.items()} == {k: v.tolist() for k, v in BOTH.vectors.items()}
        assert loaded.metadata == {"steps": "1", "token": "xl"}


def test_join_encoder_files_refuses_files_that_do_not_match(tmp_path):
    names = {"l": torch.ones(2, 768), "l2": torch.ones(2, 768), "g": torch.ones(2, 1280), "g3": torch.ones(3, 1280)}
    for name, vectors in names.items():
        save_file({"<mug>": vectors}, tmp_path / f"{name}.safetensors")
    save_file(dict(BOTH.vectors), tmp_path / "xl.safetensors")
    for other, reason in {
        "l2": "same text encoder",
        "g3": "3 vectors, but l.safetensors holds 2",
        "xl": "both",
    }.items():
        with pytest.raises(UnusableFile, match=reason):
            join_encoder_files(tmp_path / "l.safetensors", tmp_path / f"{other}.safetensors")


def test_save_that_fails_verification_changes_nothing(tmp_path, monkeypatch):
    altered = EmbeddingFormat(".safetensors", lambda e: (safetensors_bytes({"emb_params": TWO + 1}, {}),))
    truncated = EmbeddingFormat(".safetensors", lambda e: (to_safetensors(e)[:-1],))
    (tmp_path / "my-mug.safetensors").write_bytes(b"another file")
    for embedding_format, reason in ((altered, "does not read as"), (truncated, "cannot be read again")):
        monkeypatch.setitem(FORMATS, "faulty", embedding_format)
        with pytest.raises(TextualInversionError, match=reason):
            write(MUG, "faulty", tmp_path)
        assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("my-mug.safetensors", b"another file")]


def test_delivery_verifies_what_was_written(tmp_path, monkeypatch):
    """On a disk that loses data the run's own copy remains."""
    run = SimpleNamespace(path=tmp_path, embedding=tmp_path / "run.safetensors")
    settings = SimpleNamespace(out=tmp_path / "out", name="mug", overwrite=False)
    read_bytes = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: read_bytes(path)[:-1] if path.suffix == ".part" else read_bytes(path)
    )
    with pytest.raises(TrainingFailed, match="what was written reads otherwise"):
        install_embedding(to_safetensors(MUG), run, settings)
    assert list((tmp_path / "out").iterdir()) == []
    assert read_bytes(run.embedding) == to_safetensors(MUG)


# --- other programs' layouts ---------------------------------------------------------------------------------------


def parameter_dict() -> torch.nn.ParameterDict:
    return torch.nn.ParameterDict({"*": torch.nn.Parameter(TWO.clone())})


def a1111_record(vectors: torch.Tensor) -> dict:
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": vectors},
        "name": "another name",
        "step": 800,
        "sd_checkpoint": "81761151",
        "sd_checkpoint_name": "v1-5-pruned",
    }


LAYOUTS = {
    "kohya.safetensors": {"emb_params": TWO.half()},
    "onetrainer.safetensors": {"emp_params": TWO},
    "diffusers.safetensors": {"<mug>": TWO},
    "one-vector.safetensors": {"<mug>": TWO[0].clone()},
    "double.safetensors": {"emb_params": TWO.double()},
    "brain.safetensors": {"emb_params": TWO.bfloat16()},
    "diffusers.bin": {"<mug>": TWO},
    "one-vector.bin": {"<mug>": TWO[0].clone()},
    "parameter.bin": {"<mug>": torch.nn.Parameter(TWO.clone())},
    "bare.pt": TWO,
    "a1111.pt": a1111_record(TWO),
    "a1111-parameter.pt": a1111_record(torch.nn.Parameter(TWO.clone())),
    "paper.pt": {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": parameter_dict()},
    "UPPER.PT": {"<mug>": TWO},
    "with.dots.pt": {"<mug>": TWO},
}


@pytest.mark.parametrize("file", LAYOUTS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old container"])
def test_other_programs_layouts_are_read(tmp_path, file, zipped):
    path, content = tmp_path / file, LAYOUTS[file]
    if path.suffix == ".safetensors":
        save_file(content, path, {"modelspec.title": "mug"})
    else:
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    loaded = read_embedding(path)
    vectors = loaded.vectors["clip_l"]
    assert loaded.name == path.stem  # as in the WebUIs, whatever the file says
    assert (vectors.dtype, vectors.requires_grad, vectors.is_contiguous()) == (torch.float32, False, True)
    expected = TWO[:1] if "one-vector" in file else TWO
    torch.testing.assert_close(vectors, expected, rtol=0.01, atol=1e-7)


def test_a1111_metadata_is_kept(tmp_path):
    torch.save(a1111_record(TWO), tmp_path / "mug.pt")
    metadata = {"steps": "800", "checkpoint_name": "v1-5-pruned", "checkpoint_hash": "81761151", "name": "another name"}
    assert read_embedding(tmp_path / "mug.pt").metadata == metadata


@pytest.mark.parametrize(
    ("widths", "family"),
    [([768], "sd1"), ([1024], "sd2"), ([768, 1280], "sdxl"), ([64], "unknown"), ([1280], "unknown")],
)
def test_family_from_widths_and_metadata(widths, family):
    vectors = {str(width): torch.zeros(2, width) for width in widths}
    assert Embedding("mug", vectors).family == family
    possible = {"sdxl"} if len(widths) > 1 else {"sd1", "sd2"}
    for stated in ("sd1", "sd2", "sdxl", "\x1b[2J"):
        assert Embedding("mug", vectors, {"family": stated}).family == (stated if stated in possible else family)


# --- golden files --------------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / "golden"
ONE = torch.tensor([[1.0, -2.0, 0.5, 0.125, -0.25, 3.0], [0.1, -1e-8, 65504.0, 7.0, -0.75, 0.0]])
XL = {"clip_l": torch.arange(12.0).view(2, 6) / 8 - 1, "clip_g": torch.arange(20.0).view(2, 10) / 16 - 0.5}
A1111_METADATA = {
    "steps": "800",
    "checkpoint_hash": "6ce0161689",
    "checkpoint_name": "v1-5-pruned-emaonly",
    "name": "my-mug",
}
MODELSPEC_METADATA = {
    "modelspec.sai_model_spec": "1.0.0",
    "modelspec.architecture": "stable-diffusion-v1/textual-inversion",
    "modelspec.title": "my-mug",
    "modelspec.resolution": "512x512",
}
TOKEN_METADATA = {"token": "<my-mug>"}
GOLDEN_FILES = {
    "a1111.pt": ({"clip_l": ONE}, A1111_METADATA),
    "a1111-text.png": ({"clip_l": ONE}, A1111_METADATA),
    "a1111-pixels.png": ({"clip_l": ONE}, A1111_METADATA),
    "a1111-pixels.webp": ({"clip_l": ONE}, A1111_METADATA),
    "diffusers.safetensors": ({"clip_l": ONE}, TOKEN_METADATA),
    "diffusers.bin": ({"clip_l": ONE}, TOKEN_METADATA),
    "diffusers-advanced.safetensors": (XL, {}),
    "learned_embeds.safetensors": ({"clip_l": XL["clip_l"]}, TOKEN_METADATA),
    "learned_embeds_2.safetensors": ({"clip_l": XL["clip_g"]}, TOKEN_METADATA),  # its width of 10 is no real encoder's
    "invoke-training.safetensors": ({"clip_l": ONE}, {}),
    "invoke-training-xl.safetensors": (XL, {}),
    "onetrainer.safetensors": ({"clip_l": ONE}, {}),
    "onetrainer-xl.safetensors": (XL, {}),
    "onetrainer-xl-both.safetensors": (XL, {"left_out": "clip_g_out, clip_l_out"}),
    "onetrainer-lora.safetensors": ({"clip_l": ONE}, {}),
    "paper-torch2.1.2.pt": ({"clip_l": ONE}, {}),
    "paper-torch2.13.0.pt": ({"clip_l": ONE}, {}),
    "sd-scripts.safetensors": ({"clip_l": ONE.half().float()}, MODELSPEC_METADATA),
    "sd-scripts.pt": ({"clip_l": ONE}, {}),
    "sd-scripts-xl.safetensors": (XL, MODELSPEC_METADATA),
    "sd-scripts-xl.pt": (XL, {}),
}
UNUSABLE_GOLDEN_FILES = {
    "onetrainer-output.safetensors": r"output embeddings \(emp_params_out\)",
    "onetrainer-xl-output.safetensors": r"output embeddings \(clip_g_out, clip_l_out\)",
    "onetrainer-xl-lora.safetensors": "2 embeddings: my-cup, my-mug; inspect and convert take one",
}


def test_every_golden_file_is_listed():
    files = {path.name for path in GOLDEN.iterdir() if path.is_file()} - {"README.md"}
    assert files == GOLDEN_FILES.keys() | UNUSABLE_GOLDEN_FILES.keys() | {
        "ours.safetensors",
        "ours-xl.safetensors",
        "ours.diffusers",
        "a1111-conditioning.safetensors",  # no embedding
    }


@pytest.mark.smoke
@pytest.mark.parametrize("file", GOLDEN_FILES)
def test_golden_files_are_read(file):
    vectors, metadata = GOLDEN_FILES[file]
    loaded = read_embedding(GOLDEN / file)
    named_inside = file.startswith("a1111-") or "lora" in file
    assert loaded.name == ("my-mug" if named_inside else Path(file).stem)
    assert {k: v.tolist() for k, v in loaded.vectors.items()} == {k: v.tolist() for k, v in vectors.items()}
    assert loaded.metadata == metadata
    if "lora" not in file:
        summary = summarize(GOLDEN / file)
        assert (summary.num_vectors, summary.widths, summary.name) == (2, loaded.widths, loaded.name)


@pytest.mark.parametrize("file", UNUSABLE_GOLDEN_FILES)
def test_unusable_golden_files_are_refused(file):
    for read in (read_embedding, summarize):
        with pytest.raises(UnusableFile, match=UNUSABLE_GOLDEN_FILES[file]):
            read(GOLDEN / file)


def test_name_selects_one_of_several_embeddings(tmp_path):
    lora = GOLDEN / "onetrainer-xl-lora.safetensors"
    for name, added in (("my-mug", 0), ("my-cup", 1)):
        loaded = read_embedding(lora, name)
        assert loaded.name == name
        assert {k: v.tolist() for k, v in loaded.vectors.items()} == {k: (v + added).tolist() for k, v in XL.items()}
    with pytest.raises(UnusableFile, match="no embedding called 'mug', but my-cup, my-mug"):
        read_embedding(lora, "mug")
    torch.save({"string_to_param": {"<a>": TWO, "<b>": TWO + 1}}, tmp_path / "two.pt")
    assert read_embedding(tmp_path / "two.pt", "<b>").vectors["clip_l"].tolist() == (TWO + 1).tolist()
    assert equal(read_embedding(GOLDEN / "a1111.pt", "a1111"), read_embedding(GOLDEN / "a1111.pt"))
    with pytest.raises(UnusableFile, match="only 'a1111'"):
        read_embedding(GOLDEN / "a1111.pt", "mug")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("bundle_emb.my.dotted.name.clip_l", "my.dotted.name"),
        ("bundle_emb.my-mug.string_to_param.*", "my-mug"),
    ],
)
def test_name_of_a_bundled_embedding(tmp_path, key, name):
    save_file({key: TWO, "lora_unet_a.lora_up.weight": torch.zeros(1, 1)}, tmp_path / "lora.safetensors")
    assert equal(read_embedding(tmp_path / "lora.safetensors"), Embedding(name, {"clip_l": TWO}))


def test_written_bytes_equal_golden_files():
    """The formats are a contract with every program that reads them."""
    metadata = {"name": "my-mug", "steps": "500", "checkpoint_name": "v1-5"}
    one, both = Embedding("my-mug", {"clip_l": ONE}, metadata), Embedding("my-mug", XL, metadata)
    assert to_safetensors(one) == (GOLDEN / "ours.safetensors").read_bytes()
    assert to_safetensors(both) == (GOLDEN / "ours-xl.safetensors").read_bytes()
    assert b"".join(to_diffusers(both)) == (GOLDEN / "ours.diffusers").read_bytes()


# --- refused files -------------------------------------------------------------------------------------------------

REFUSED = {
    "nothing": ({}, "holds none"),
    "two-sets": ({"b": TWO, "a": TWO + 1}, "holds 2 embeddings: a, b; inspect and convert"),
    "sdxl-output": ({"clip_l_out": TWO, "clip_g_out": TWO + 1}, r"output embeddings \(clip_g_out, clip_l_out\)"),
    "output": ({"emp_params_out": TWO}, "output embeddings"),
    "sd3": ({"clip_l": TWO, "clip_g": TWO + 1, "t5": TWO + 2}, r"other text encoders \(t5\)"),
    "flux": ({"clip_l": TWO, "t5": TWO + 1}, "other text encoders"),
    "twice": ({"emb_params": TWO, "emp_params": TWO + 1}, "it holds emb_params, emp_params;"),
    "lora": ({"lora_unet_a.lora_down.weight": torch.zeros(1, 4, 1, 1), "b": TWO}, "a LoRA, and no embedding"),
    "checkpoint": ({"a.weight": torch.zeros(1, 4, 1, 1), "b": TWO}, "this file holds 2 tensors"),
    "zeros": ({"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)}, "never trained"),
    "three-dimensional": ({"a": torch.zeros(2, 3, 4)}, "not an embedding"),
    "number": ({"a": torch.tensor(1.0)}, "not an embedding"),
    "integers": ({"a": torch.zeros(2, 768, dtype=torch.int64)}, "its numbers are I64, and not F32, F16"),
    "exchanged": ({"clip_l": torch.ones(2, 1280), "clip_g": torch.ones(2, 768)}, "clip_l and clip_g are exchanged"),
    "small-lora": ({"lora_unet_a.lora_down.weight": torch.ones(1, 4)}, "a LoRA, and no embedding"),
    "no-vectors": ({"a": torch.zeros(0, 768)}, "not an embedding"),
    "no-width": ({"a": torch.zeros(2, 0)}, "not an embedding"),
    "too-many": ({"a": torch.zeros(76, 768)}, "holds 76 vectors, but a prompt has room for 75"),
    "too-wide": ({"a": torch.zeros(2, 5000)}, "not an embedding"),
    "not-a-number": ({"a": torch.tensor([[1.0, float("nan")]])}, "not numbers"),
    "infinite": ({"a": torch.tensor([[1.0, float("-inf")]])}, "not numbers"),
    "beyond-fp32": ({"a": torch.tensor([[1e300]], dtype=torch.float64)}, "not numbers"),
    "one-bad-half": ({"clip_l": TWO, "clip_g": TWO * float("nan")}, "not numbers"),
    "unequal-halves": ({"clip_l": TWO, "clip_g": TWO[:1].clone()}, "as many"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    ("content", "encoders", "left_out"),
    [
        ({"emb_params": TWO, "emb_params_out": TWO + 1}, ["clip_l"], "emb_params_out"),
        ({"emp_params": TWO, "emp_params_out": TWO + 1, "steps": torch.ones(3)}, ["clip_l"], "emp_params_out, steps"),
        ({"clip_l": TWO, "clip_l_out": TWO + 1, "version": torch.ones(1)}, ["clip_l"], "clip_l_out, version"),
    ],
)
def test_one_clear_embedding_is_read_beside_other_tensors(tmp_path, suffix, content, encoders, left_out):
    path = tmp_path / f"mug{suffix}"
    save_file(content, path) if suffix == ".safetensors" else torch.save(content, path)
    embedding = read_embedding(path)
    assert [*embedding.vectors] == encoders
    assert embedding.vectors["clip_l"].tolist() == TWO.tolist()
    assert embedding.metadata["left_out"] == left_out


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("kind", REFUSED)
def test_tensors_that_are_no_embedding_are_refused(tmp_path, kind, suffix):
    content, reason = REFUSED[kind]
    path = tmp_path / f"{kind}{suffix}"
    save_file(content, path) if suffix == ".safetensors" else torch.save(content, path)
    with pytest.raises(UnusableFile, match=reason):
        read_embedding(path)


@pytest.mark.parametrize(
    "content",
    [
        None,
        "text",
        3,
        [TWO],
        {"string_to_param": None},
        {"string_to_param": {"*": "text"}},
        {"string_to_param": {}},
        {3: 4},
    ],
    ids=repr,
)
def test_pickles_of_other_objects_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "mug.pt")
    with pytest.raises(UnusableFile, match=r"mug\.pt"):
        read_embedding(tmp_path / "mug.pt")


@pytest.mark.parametrize("value", [[1, 2], {"a": TWO}, 10**5000], ids=["list", "dict", "huge"])
def test_odd_a1111_metadata_is_ignored(tmp_path, value):
    torch.save(a1111_record(TWO) | {"step": value, "name": value}, tmp_path / "mug.pt")
    assert read_embedding(tmp_path / "mug.pt").metadata == {
        "checkpoint_name": "v1-5-pruned",
        "checkpoint_hash": "81761151",
    }


@pytest.mark.parametrize("file", ["mug.txt", "mug", "mug.jpg", "mug.safetensors.part"])
def test_other_suffixes_are_refused(tmp_path, file):
    (tmp_path / file).write_bytes(save({"emb_params": TWO}))
    with pytest.raises(UnusableFile, match="ends in"):
        read_embedding(tmp_path / file)


def test_missing_files_and_folders_are_refused(tmp_path):
    (tmp_path / "folder.pt").mkdir()
    for name, reason in {"mug.pt": "no such file", "folder.pt": "this is a folder"}.items():
        with pytest.raises(UnusableFile, match=reason):
            read_embedding(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("mug.safetensors", "paper-torch2.13.0.pt", "by its content it is a PyTorch file; let its name end in .pt"),
        ("mug.safetensors", "a1111.pt", "by its content it is a PyTorch file"),
        ("mug.PT", "ours.safetensors", "by its content it is a safetensors file; let its name end in .safetensors"),
        ("mug.bin", "a1111-text.png", "by its content it is a picture; let its name end in .png"),
        ("mug.safetensors", "a1111-pixels.webp", "by its content it is a picture; let its name end in .webp"),
        ("mug.png", "ours.safetensors", "by its content it is a safetensors file"),
        ("mug.png", None, "the file is empty"),
        ("mug.pt", None, "the file is empty"),
        ("mug.webp", "README.md", "this is no PNG or WebP picture"),
    ],
)
def test_files_that_the_webuis_could_not_load_by_their_name_are_named(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes((GOLDEN / content).read_bytes() if content else b"")
    with pytest.raises(UnusableFile, match=reason):
        check_suffix(tmp_path / name, (tmp_path / name).suffix.lower())


@pytest.mark.parametrize(
    ("name", "content"),
    [("mug.safetensors", "a1111.pt"), ("mug.PT", "ours.safetensors"), ("mug.bin", "a1111-text.png")],
)
def test_files_of_another_suffix_are_read_by_their_content(tmp_path, name, content):
    (tmp_path / name).write_bytes((GOLDEN / content).read_bytes())
    by_content, by_name = read_embedding(tmp_path / name), read_embedding(GOLDEN / content)
    assert {k: v.tolist() for k, v in by_content.vectors.items()} == {k: v.tolist() for k, v in by_name.vectors.items()}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3\n",
            "a Git LFS pointer, .* git lfs pull",
        ),
        (b"/annex/objects/SHA256E-s3--4d7a.pt\n", "a git-annex pointer"),
        (b"  <!DOCTYPE html><html>Log in", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML document"),
        (b'{"error": "gated"}', "a JSON text"),
        (b"\x1f\x8b\x08" + bytes(20), "a gzip archive, .*unpack it"),
        (bytes(4000), "nothing but zeros"),
        (b"Not Found, sorry", "a text"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
def test_what_came_in_place_of_an_embedding_is_named(tmp_path, suffix, content, reason):
    (tmp_path / f"mug{suffix}").write_bytes(content)
    with pytest.raises(UnusableFile, match=reason):
        read_embedding(tmp_path / f"mug{suffix}")


def test_png_named_webp_is_read(tmp_path):
    (tmp_path / "mug.webp").write_bytes((GOLDEN / "a1111-text.png").read_bytes())
    assert read_embedding(tmp_path / "mug.webp").name == "my-mug"


def test_large_pickles_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lib_ti.embedding.read.MAX_PICKLE_BYTES", 1000)
    torch.save({"emb_params": torch.ones(1, 768)}, tmp_path / "mug.pt")
    with pytest.raises(UnusableFile, match="too large"):
        read_embedding(tmp_path / "mug.pt")


# --- damage --------------------------------------------------------------------------------------------------------


def files() -> dict[str, bytes]:
    """Valid files of each format."""
    zip_file = io.BytesIO()
    torch.save(a1111_record(TWO), zip_file)
    written = {f"{name}{suffix}": encode(MUG)[0] for name, (suffix, encode) in FORMATS.items()}
    return written | {"zip.pt": zip_file.getvalue()}


@given(st.sampled_from(sorted(files())), st.data())
def test_damaged_files_are_read_or_refused(tmp_path_factory, file, data):
    """No other error than UnusableFile is raised."""
    content = bytearray(files()[file])
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6), "positions"):
        content[position] = data.draw(st.integers(0, 255), "byte")
    end = data.draw(st.integers(0, len(content)) | st.just(len(content)), "end")
    path = tmp_path_factory.getbasetemp() / f"damaged-{file}"
    path.write_bytes(content[:end] + data.draw(st.binary(max_size=9), "rest"))
    with suppress(UnusableFile):
        read_embedding(path)


@given(st.sampled_from([".safetensors", ".pt", ".bin"]), st.binary(max_size=300))
@example(".pt", b"")
@example(".safetensors", b"")
@example(".safetensors", b"\xff" * 8 + b"{}")
@example(".safetensors", b"\x02" + bytes(7) + b"{}")
@example(".safetensors", b"\x10" + bytes(7) + b'{"__metadata__":')
def test_arbitrary_bytes_are_refused(tmp_path_factory, suffix, content):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    with pytest.raises(UnusableFile):
        read_embedding(path)


DTYPES = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "I64", "U8", "U16", "U32", "U64", "BOOL",
          "C64", "F4", "X"]  # fmt: skip


@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 75, 2**32, 2**63, -1]), max_size=3),
    end=st.integers(0, 600),
    size=st.integers(0, 600),
)
@example(dtype="F8_E4M3", shape=[1, 2], end=2, size=2)
@example(dtype="U16", shape=[1, 2], end=4, size=4)
@example(dtype="F32", shape=[2**32, 2**32], end=0, size=0)
def test_arbitrary_headers_are_read_or_refused(tmp_path_factory, dtype, shape, end, size):
    header = f'{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{end}]}}}}'.encode()
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    with suppress(UnusableFile):
        assert read_embedding(path).num_vectors <= 75
