"""Embeddings in A1111's images, and images without one; tests/golden has images that A1111 wrote."""

import base64
import io
import json
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from lib_ti.embedding import png
from lib_ti.embedding.read import read_embedding
from lib_ti.embedding.summary import summarize
from lib_ti.errors import UnusableFile

GOLDEN = Path(__file__).parent / "golden"
RECORD = {"string_to_param": {"*": {"TORCHTENSOR": [[1.0, 2.0]]}}, "name": "cup"}


def write_png(text: bytes | str, path: Path, compressed: bool = False, kind: str = "tEXt") -> Path:
    info = PngImagePlugin.PngInfo()
    if kind == "iTXt":
        info.add_itxt("sd-ti-embedding", text, zip=compressed)
    else:
        info.add_text("sd-ti-embedding", text, zip=compressed)
    Image.new("RGB", (4, 4), "navy").save(path, pnginfo=info)
    return path


def encode_record(record: object) -> bytes:
    return base64.b64encode(json.dumps(record).encode())


@pytest.mark.parametrize(("kind", "compressed"), [("tEXt", False), ("zTXt", True), ("iTXt", False), ("iTXt", True)])
def test_every_type_of_text_chunk(tmp_path, kind, compressed):
    path = write_png(encode_record(RECORD).decode(), tmp_path / "mug.png", compressed, kind)
    assert read_embedding(path).vectors["clip_l"].tolist() == [[1.0, 2.0]]
    assert summarize(path).name == "cup"


def test_text_chunk_after_the_pixels(tmp_path):
    image = io.BytesIO()
    Image.new("RGB", (4, 4)).save(image, "PNG")
    data = b"sd-ti-embedding\0" + encode_record(RECORD)
    chunk = struct.pack(">I", len(data)) + b"tEXt" + data + struct.pack(">I", zlib.crc32(b"tEXt" + data))
    (tmp_path / "mug.png").write_bytes(image.getvalue()[:-12] + chunk + image.getvalue()[-12:])
    assert read_embedding(tmp_path / "mug.png").name == "cup"


def test_tensors_by_token_in_an_image(tmp_path):
    path = write_png(encode_record({"<cat>": {"TORCHTENSOR": [1.0, 2.0]}}), tmp_path / "mug.png")
    assert read_embedding(path).vectors["clip_l"].tolist() == [[1.0, 2.0]]
    assert summarize(path).num_vectors == 1


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 101, "\u202ecup", 3, None, ["a"]], ids=repr)
def test_unusable_stored_name_falls_back_to_the_stem(tmp_path, name):
    path = write_png(encode_record({**RECORD, "name": name}), tmp_path / "mug.png")
    assert read_embedding(path).name == summarize(path).name == "mug"


def test_xor_pattern_equals_the_recurrence():
    """Against the recurrence, step by step."""
    x, expected = 0, []
    for _ in range(3000):
        x = (1664525 * x + 1013904223) % 2**32
        expected.append(x % 255 & 0x0F)
    for count in (1, 2, 3, 1000, 3000):
        assert png._xor_pattern(count).tolist() == expected[:count]


def plain_images() -> dict[str, Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    framed = np.zeros((40, 40, 3), np.uint8)
    framed[5:35, 5:35] = noise[5:35, 5:35]
    framed[:, 10] = framed[:, 30] = 0
    return {
        "black": Image.new("RGB", (40, 40)),
        "grey": Image.new("L", (40, 40), 0xF0),
        "noise": Image.fromarray(noise),
        "strips of noise": Image.fromarray(framed),
        "one pixel": Image.new("RGBA", (1, 1), "white"),
        "palette": Image.fromarray(noise).convert("P"),
        "16 bits": Image.new("I;16", (9, 9), 999),
    }


@pytest.mark.parametrize("kind", plain_images())
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_plain_images_are_no_embeddings(tmp_path, kind, suffix):
    path = tmp_path / f"mug{suffix}"
    image = plain_images()[kind]
    (image if suffix == ".png" else image.convert("RGB")).save(path, **({} if suffix == ".png" else {"lossless": True}))
    assert summarize(path) is None
    with pytest.raises(UnusableFile, match="no embedding in this picture"):
        read_embedding(path)


def test_previews_and_cards_are_not_decoded(tmp_path, monkeypatch):
    for name in ("mug.preview.png", "cup.png"):
        (tmp_path / name).write_bytes((GOLDEN / "a1111-pixels.png").read_bytes())
    (tmp_path / "cup.safetensors").write_bytes(b"")
    monkeypatch.setattr(png, "_read_strips", lambda _: pytest.fail("it was decoded"))
    assert summarize(tmp_path / "mug.preview.png") is None
    assert summarize(tmp_path / "cup.png") is None
    assert summarize(GOLDEN / "a1111-text.png").num_vectors == 2


@pytest.mark.parametrize(
    "text",
    [
        b"", b"?", base64.b64encode(b"{"), base64.b64encode(b"\xff\xfe"), encode_record([]), encode_record(3), encode_record({}),
        encode_record({"string_to_param": 3}), encode_record({"string_to_param": {"*": [[1.0]]}}),
        encode_record({"string_to_param": {"*": {"TORCHTENSOR": [[1.0, 2.0], [3.0]]}}}),
        encode_record({"string_to_param": {"*": {"TORCHTENSOR": {"a": 1}}}}),
        encode_record({"string_to_param": {"*": {"TORCHTENSOR": ["x"]}}}),
        encode_record({"string_to_param": {"*": {"TORCHTENSOR": [[float("nan"), 1.0]]}}}),
        encode_record({"string_to_param": {"*": {"TORCHTENSOR": [[1e300, 1.0]]}}}),
        encode_record({"string_to_param": {"*": {"TORCHTENSOR": [[1.0, 2.0]] * 76}}}),
        base64.b64encode(b"[" * 100_000), base64.b64encode(b'{"a":' * 100_000),
        base64.b64encode(b'{"string_to_param":{"*":{"TORCHTENSOR":[[1' + b"0" * 5000 + b"]]}}}"),
    ],
)  # fmt: skip
def test_damaged_records_are_refused(tmp_path, text):
    with pytest.raises(UnusableFile):
        read_embedding(write_png(text, tmp_path / "mug.png"))


def test_wrong_crc_is_refused(tmp_path):
    path = write_png(encode_record(RECORD), tmp_path / "mug.png")
    data = bytearray(path.read_bytes())
    data[data.index(b"sd-ti-embedding") + 30] ^= 1
    path.write_bytes(data)
    with pytest.raises(UnusableFile, match="damaged"):
        read_embedding(path)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_decompression_bombs_in_text_chunks_are_refused(tmp_path, kind):
    bomb = zlib.compress(bytes(200 << 20), 9)
    data = b"sd-ti-embedding\0" + (b"\0" if kind == b"zTXt" else b"\1\0\0\0") + bomb
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    (tmp_path / "mug.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    with pytest.raises(UnusableFile, match="damaged"):
        read_embedding(tmp_path / "mug.png")


def test_huge_images_are_not_decoded(tmp_path):
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    (tmp_path / "mug.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + bytes(4))
    assert summarize(tmp_path / "mug.png") is None


@given(st.sampled_from(["a1111-text.png", "a1111-pixels.png", "a1111-pixels.webp"]), st.data())
def test_damaged_images_are_read_or_refused(tmp_path_factory, file, data):
    content = bytearray((GOLDEN / file).read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4), "places"):
        content[position] = data.draw(st.integers(0, 255), "byte")
    path = tmp_path_factory.getbasetemp() / f"damaged-{file}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)), "end")])
    for read in (read_embedding, summarize):
        with suppress(UnusableFile):
            read(path)
