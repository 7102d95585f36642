"""Text files of users: captions, templates and configurations in the encodings of all kinds of programs."""

import os
from pathlib import Path

import pytest

from lib_ti.errors import UnusableFile
from lib_ti.formats import text_file
from lib_ti.formats.file_kind import detect_kind, file_kind
from lib_ti.formats.text_file import decode, read_text

TEXT = "schön, «déjà vu» – żółw, 猫"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("mark", [False, True])
def test_unicode_is_recognised(encoding, mark):
    data = TEXT.encode(encoding)
    if mark and not encoding.endswith(("sig", "16", "32", "utf-8")):
        data = "\ufeff".encode(encoding) + data
    if encoding.endswith(("-le", "-be")) and not mark:  # only of text that is mostly Latin
        data = "a red mug".encode(encoding)
        assert decode(data).text == "a red mug"
        return
    assert decode(data).text == TEXT
    assert not decode(data).guessed


def test_the_system_s_encoding_comes_after_utf_8(monkeypatch):
    monkeypatch.setattr(text_file.locale, "getpreferredencoding", lambda _: "cp1251")
    assert decode("красный".encode("cp1251")).text == "красный"
    assert decode("красный".encode()).text == "красный"


def test_latin_1_is_the_last_and_a_guess(monkeypatch):
    monkeypatch.setattr(text_file.locale, "getpreferredencoding", lambda _: "UTF-8")
    decoded = decode("café “x”".encode("cp1252"))
    assert (decoded.text, decoded.encoding, decoded.guessed) == ("café “x”", "latin-1", True)
    assert decode(b"caf\xe9 \x81").text == "café \x81"


def test_a_character_that_is_cut_off_is_left_out():
    assert decode("ab猫".encode()[:-1], cut_off=True).text == "ab"
    assert decode("ab猫".encode("utf-16")[:-1], cut_off=True).text == "ab"


def test_the_last_letter_of_a_whole_text_stays(monkeypatch):
    """Latin-1's é at the end of a text is the beginning of a character in UTF-8."""
    monkeypatch.setattr(text_file.locale, "getpreferredencoding", lambda _: "UTF-8")
    assert decode(b"a caf\xe9").text == "a café"


def test_only_small_regular_files_are_read(tmp_path):
    (tmp_path / "long.txt").write_bytes(b"a" * 2000)
    with pytest.raises(UnusableFile, match="larger than 1 kB"):
        read_text(tmp_path / "long.txt", 1024)
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    with pytest.raises(UnusableFile, match="no text"):
        read_text(tmp_path / "binary.txt")
    (tmp_path / "empty.txt").write_bytes(b"")
    assert read_text(tmp_path / "empty.txt").text == ""
    with pytest.raises(UnusableFile, match="no such file"):
        read_text(tmp_path / "gone.txt")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_pipes_devices_and_broken_links_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "link.txt").symlink_to(tmp_path / "gone.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "annex.txt").symlink_to(".git/annex/objects/aa/bb/SHA256E-s3--4d7a.txt")
    for name, reason in {"pipe": "a pipe", "link": "broken link", "zero": "a device", "annex": "git annex get"}.items():
        with pytest.raises(UnusableFile, match=reason):
            read_text(tmp_path / f"{name}.txt")


@pytest.mark.parametrize(
    ("head", "title"),
    [
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "a HEIC picture"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "an AVIF picture"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "an AVIF picture"),
        (b"\xff\x0a\xfa\x7f", "a JPEG XL picture"),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0", "a JPEG XL picture"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "a video"),
        (b"%PDF-1.7", "a PDF document"),
        (b"<svg xmlns='x'>", "an SVG drawing"),
        (b"\xef\xbb\xbf\n<!doctype HTML>", "a web page (HTML)"),
        (b'[{"a": 1}]', "a JSON text"),
        (b"\x10\0\0\0\0\0\0\0{\"a\"", "a safetensors file"),
        (b"PK\3\4" + bytes(22) + b"\x08\0\0\0notes.md", "a zip archive"),
        (b"a plain sentence", "a text"),
        ("été".encode() * 300, "a text"),
        (bytes(64), "nothing but zeros"),
    ],
)  # fmt: skip
def test_kinds_of_files(head, title):
    kind = detect_kind(head[:512])
    assert kind is not None
    assert kind.title == title


@pytest.mark.parametrize("head", [b"", b"\1\2\3\4", bytes(range(200, 256)), b"\x89PNG"])
def test_unknown_kinds(head):
    assert detect_kind(head) is None


def test_a_zip_archive_with_a_pickle_is_a_pytorch_file(tmp_path: Path):
    import zipfile

    for name, title in (("model/data.pkl", "a PyTorch file"), ("model.safetensors", "a zip archive")):
        with zipfile.ZipFile(tmp_path / "a", "w") as archive:
            archive.writestr("readme.md", "x")
            archive.writestr(name, "x")
        kind = file_kind(tmp_path / "a")
        assert kind is not None
        assert kind.title == title
