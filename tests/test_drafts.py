"""Drafts: what is added, what is kept of it, and what is refused without a trace."""

import functools
import io
import json
import os
import threading
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from PIL.PngImagePlugin import PngInfo
from test_images import png_header

from lib_ti import practice
from lib_ti.data.image_folder import find_images
from lib_ti.data.images import decode
from lib_ti.errors import TextualInversionError, UnusableFile
from lib_ti.webui.images import draft as draft_module
from lib_ti.webui.images import drafts as drafts_module
from lib_ti.webui.images import image_quality
from lib_ti.webui.images.drafts import Drafts
from lib_ti.webui.images.thumbnails import ThumbnailCache
from lib_ti.webui.images.uploads import MAX_CAPTION_CHARACTERS, UploadRegistry

DRAFT = "0123456789abcdef" * 2
CONCEPTS = Path(practice.__file__).resolve().parent / "concepts"


@pytest.fixture
def gradio(tmp_path, monkeypatch) -> Path:
    """Gradio's upload folder."""
    folder = tmp_path / "gradio"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


@pytest.fixture
def uploads() -> UploadRegistry:
    return UploadRegistry()


@pytest.fixture
def drafts(tmp_path, uploads) -> Drafts:
    return Drafts(tmp_path / "runs", ThumbnailCache(), uploads)


@pytest.fixture
def upload(gradio, uploads):
    """Store a file as gradio does after an upload: under a generic name, in a folder of its own."""
    count = iter(range(10_000))

    def store(content: bytes | Image.Image) -> str:
        path = gradio / f"{next(count):040x}" / "image.png"
        path.parent.mkdir()
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path)
        uploads.register(path)
        return str(path)

    return store


@pytest.fixture
def add(drafts, upload):
    def add(content: bytes | Image.Image, name: str = "mug.png", draft: str = DRAFT, side: int = 64):
        return drafts.add_upload(draft, upload(content), name, side)

    return add


def picture(seed: int = 0, size: tuple[int, int] = (96, 80)) -> Image.Image:
    return photograph(seed, size=size, noise=0)


@functools.cache
def photograph(
    seed: int, plain: int | None = None, size: tuple[int, int] = (640, 480), noise: float = 3.0
) -> Image.Image:
    """Shapes on a smooth background or one of a single gray (`plain`), with sensor noise."""
    rng, (w, h) = np.random.default_rng(seed), size
    y, x = np.mgrid[0:h, 0:w]
    background = np.full((h, w, 3), 128.0 if plain is None else plain)
    for _ in range(0 if plain is not None else 6):
        fx, fy, phase = rng.uniform(0.5, 4), rng.uniform(0.5, 4), rng.uniform(0, 2 * np.pi)
        background += np.sin(2 * np.pi * (fx * x / w + fy * y / h) + phase)[..., None] * rng.uniform(5, 25, 3)
    image = Image.fromarray(background.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(10 if plain is None else 1):
        cx, cy, r = rng.uniform(0.3, 0.7) * w, rng.uniform(0.3, 0.7) * h, rng.uniform(0.08, 0.2) * w
        shape = (draw.ellipse, draw.rectangle)[int(rng.integers(2))]
        shape((cx - r, cy - r, cx + r, cy + r), fill=tuple(map(int, rng.integers(0, 255, 3))))
        draw.line(
            (cx - r, cy, cx + r, cy - r / 2), fill=tuple(map(int, rng.integers(0, 255, 3))), width=max(2, w // 90)
        )
    pixels = np.asarray(image, dtype=float) + rng.normal(0, noise, (h, w, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def all_paths(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


# --- uploads -----------------------------------------------------------------------------------------------------


def test_metadata_is_stripped(add, drafts):
    exif = Image.Exif()
    exif[0x010F], exif[0x0131] = "SecretCamera", "SecretProgram"
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 29.6)
    add(encode(picture(1), "JPEG", exif=exif, comment=b"SecretComment"), "photo.jpg")
    notes = PngInfo()
    notes.add_text("parameters", "SecretPrompt")
    notes.add_itxt("XML:com.adobe.xmp", "SecretXmp")
    add(encode(picture(2), pnginfo=notes, icc_profile=b"SecretProfile"), "drawn.png")
    add(encode(picture(3), "WEBP", exif=exif, xmp=b"SecretXmp"), "small.webp")
    paths = sorted(drafts.folder(DRAFT).glob("*.png"))
    assert len(paths) == 3
    for path in paths:
        data = path.read_bytes()
        assert b"Secret" not in data
        with Image.open(path) as image:
            assert not image.getexif()
            assert image.info.keys() <= {"transparency"}


def test_images_are_upright_and_limited_in_size(add):
    exif = Image.Exif()
    exif[0x0112] = 6
    (entry,) = add(encode(picture(1, (96, 64)), "JPEG", exif=exif), "photo.jpg")
    assert (entry["width"], entry["height"]) == (64, 96)
    (entry,) = add(encode(Image.new("RGB", (2400, 1200), "teal"), "JPEG"), "large.jpg")
    assert (entry["width"], entry["height"]) == (2048, 1024)


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"MZ\x90\0 a program", "mug.png", "not a picture"),
        (b"", "mug.png", "is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "mug.svg", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "mug.eps", "not a picture"),
        (b"\0" * 5000, "mug.jpg", "nothing but zeros"),
        (encode(picture())[:-300], "mug.png", "truncated"),
        (encode(picture(), "JPEG")[:600], "mug.jpg", "truncated"),
        (png_header(60_000, 60_000), "bomb.png", "too large"),
        (png_header(2**31 - 1, 2**31 - 1), "bomb.png", "too large"),
        (png_header(1, 2**31 - 1), "bomb.png", "too large"),
        (b"not a mask", "mug.mask.png", "add the picture"),
    ],
)
def test_refused_upload_leaves_no_trace(add, drafts, gradio, tmp_path, content, name, reason):
    with pytest.raises(UnusableFile, match=reason) as raised:
        add(content, name)
    assert raised.value.path.name == name
    assert str(tmp_path) not in str(raised.value), "the message names the browser's file, not the server's"
    assert drafts.describe_images(DRAFT) == []
    assert all_paths(gradio) == []
    assert not drafts.folder(DRAFT).exists()


def test_upload_is_deleted_after_it_is_added(add, gradio):
    add(picture())
    assert all_paths(gradio) == []
    add(b"a mug on a table", "mug.txt")
    assert all_paths(gradio) == []


@pytest.mark.parametrize(
    "draft", ["", "0" * 31, "0" * 33, "../" * 10 + "ab", "0" * 31 + "G", "0" * 32 + "\n", None, 5, [], {}]
)
def test_draft_ids_are_validated_first(drafts, upload, tmp_path, draft):
    path = upload(picture())
    before = all_paths(tmp_path / "runs")
    for action in (
        lambda: drafts.add_upload(draft, path, "mug.png"),
        lambda: drafts.describe_images(draft),
        lambda: drafts.clear(draft),
        lambda: drafts.remove(draft, "0000"),
        lambda: drafts.set_caption(draft, "0000", "x"),
        lambda: drafts.copy_to_run(draft, tmp_path / "images"),
    ):
        with pytest.raises(TextualInversionError):
            action()
    assert all_paths(tmp_path / "runs") == before


def test_file_size_limit(add, gradio, monkeypatch):
    monkeypatch.setattr(drafts_module, "MAX_FILE_BYTES", 2 << 20)
    good = encode(picture())
    with pytest.raises(UnusableFile, match="larger than 2 MB"):
        add(good + bytes((2 << 20) + 1 - len(good)))
    assert all_paths(gradio) == []
    assert len(add(good + bytes((2 << 20) - len(good)))) == 1


def test_file_size_limit_is_100_mb():
    assert drafts_module.MAX_FILE_BYTES == 100 << 20


# --- files that the page must not read --------------------------------------------------------------------


def test_only_files_in_gradios_upload_folder_are_opened(gradio, tmp_path, drafts):
    private = tmp_path / "private.png"
    picture().save(private)
    inside = gradio / "abc"
    inside.mkdir()
    (inside / "link.png").symlink_to(private)
    (inside / "folder").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "gradio-of-another").mkdir()
    picture().save(tmp_path / "gradio-of-another" / "mug.png")
    for path in (
        private, "/etc/hostname", "/proc/self/environ", inside / "link.png", inside / "folder" / "private.png",
        inside / ".." / ".." / "private.png", f"{gradio}/../private.png", tmp_path / "gradio-of-another" / "mug.png",
        inside, gradio, "/", "", ".", "private.png", inside / "missing.png", "a\0b", "x" * 5000, "file:///etc/hostname",
        "\ud800.png", "~/.bashrc", "/dev/zero", "/dev/stdin",
    ):  # fmt: skip
        with pytest.raises(TextualInversionError):
            drafts.add_upload(DRAFT, str(path), "mug.png")
    assert private.exists()
    assert (tmp_path / "gradio-of-another" / "mug.png").exists()
    assert (inside / "link.png").is_symlink()
    assert not drafts.folder(DRAFT).exists()


def test_gradios_upload_folder_may_be_a_symlink(tmp_path, monkeypatch, uploads):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "mug.png").touch()
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "linked"))
    uploads.register(tmp_path / "linked" / "mug.png")
    assert uploads.resolve(str(tmp_path / "linked" / "mug.png")) == (tmp_path / "real" / "mug.png").resolve()


def test_gradios_default_upload_folder(tmp_path, monkeypatch, uploads):
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    (tmp_path / "gradio").mkdir()
    (tmp_path / "gradio" / "mug.png").touch()
    (tmp_path / "other.png").touch()
    for path in (tmp_path / "gradio" / "mug.png", tmp_path / "other.png"):
        uploads.register(path)
    assert uploads.resolve(str(tmp_path / "gradio" / "mug.png")).name == "mug.png"
    with pytest.raises(TextualInversionError):
        uploads.resolve(str(tmp_path / "other.png"))


# --- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "displayed_name"),
    [
        ("../../../etc/passwd.png", "passwd.png"),
        ("C:\\Users\\me\\mug.png", "mug.png"),
        ("/", "picture"),
        ("", "picture"),
        ("..", ".."),
        ("<img src=x onerror=alert(1)>.png", "<img src=x onerror=alert(1)>.png"),
        ("mug\0.png", "mug\0.png"),
        ("\u202egnp.gum", "\u202egnp.gum"),
        ("m" * 5000 + ".png", "m" * 200),
        ("mug", "mug"),
        ("кружка ☕.PNG", "кружка ☕.PNG"),
        ("con.png", "con.png"),
        ("-rf .png", "-rf .png"),
    ],
)
def test_names_are_displayed_but_never_used_as_paths(add, drafts, tmp_path, name, displayed_name):
    (entry,) = add(picture(), name)
    assert entry["name"] == displayed_name
    assert drafts.describe_images(DRAFT)[0]["name"] == displayed_name
    assert all_paths(tmp_path / "runs") == sorted(
        [".drafts", f".drafts/{DRAFT}", f".drafts/{DRAFT}/0000.png", f".drafts/{DRAFT}/draft.json"]
    )


def test_name_with_a_lone_surrogate_can_be_sent_to_the_page(add):
    (entry,) = add(picture(), "mug\ud800.png")
    json.dumps(entry).encode()
    with pytest.raises(UnusableFile) as raised:
        add(b"no picture", "mug\ud800.png")
    json.dumps(str(raised.value)).encode()


# --- captions and masks ------------------------------------------------------------------------------------------


def test_caption_is_assigned_to_its_image_in_either_order(add, drafts):
    assert add(b"a red mug\non a table", "mug.txt") == []
    (entry,) = add(picture(1), "mug.jpg")
    assert entry["caption"] == "a red mug on a table"
    add(picture(2), "my.cup.png")
    (entry,) = add("\ufeffa cup".encode(), "my.cup.txt")
    assert (entry["name"], entry["caption"]) == ("my.cup.png", "a cup")
    add(b"somebody else", "elsewhere.txt")
    assert [p["caption"] for p in drafts.describe_images(DRAFT)] == ["a red mug on a table", "a cup"]


def test_caption_in_cp1252(add):
    add(picture(), "mug.png")
    assert add("eine grüne Tasse".encode("cp1252"), "mug.txt")[0]["caption"] == "eine grüne Tasse"


@pytest.mark.parametrize("when", ["before", "after"])
def test_binary_and_very_long_captions_are_limited(add, drafts, when):
    captions = [(b"\xff\xfe\0\x01" * 9999, "mug.txt"), (b"word " * 100_000, "cup.txt")]
    images = [(picture(1), "mug.png"), (picture(2), "cup.png")]
    for content, name in captions + images if when == "before" else images + captions:
        add(content, name)
    for entry in drafts.describe_images(DRAFT):
        assert len(entry["caption"]) <= MAX_CAPTION_CHARACTERS
        entry["caption"].encode()


def test_captions_are_changed_and_deleted(add, drafts):
    (entry,) = add(picture())
    drafts.set_caption(DRAFT, entry["id"], "  <b>a</b>\n mug ")
    assert drafts.describe_images(DRAFT)[0]["caption"] == "<b>a</b> mug"
    drafts.set_caption(DRAFT, entry["id"], "\ud800 mug")
    assert "mug" in drafts.describe_images(DRAFT)[0]["caption"]
    drafts.set_caption(DRAFT, entry["id"], " ")
    assert drafts.describe_images(DRAFT)[0]["caption"] == ""
    assert not list(drafts.folder(DRAFT).glob("*.txt"))
    for other in ("0001", "../../x", "draft"):
        with pytest.raises(TextualInversionError):
            drafts.set_caption(DRAFT, other, "x")


def test_mask_is_stored_with_its_image(add, drafts, tmp_path):
    (entry,) = add(picture(), "mug.jpg")
    assert not entry["mask"]
    half = Image.new("L", (96, 80))
    half.paste(255, (0, 0, 48, 80))
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    (entry,) = add(encode(half, exif=exif), "mug.mask.png")
    assert entry["mask"]
    assert len(drafts.describe_images(DRAFT)) == 1
    data = (drafts.folder(DRAFT) / f"{entry['id']}.mask.png").read_bytes()
    assert b"SecretCamera" not in data
    drafts.copy_to_run(DRAFT, tmp_path / "images")
    assert all_paths(tmp_path / "images") == ["0000.mask.png", "0000.png"]
    with pytest.raises(UnusableFile, match="not a picture"):
        add(b"no picture", "mug.mask.png")
    drafts.remove(DRAFT, entry["id"])
    assert all_paths(drafts.folder(DRAFT)) == ["draft.json"]


# --- concurrency and limits ------------------------------------------------------------------------------------------------


def test_concurrent_uploads_lose_none(add, drafts):
    images = [encode(picture(i)) for i in range(24)]
    failed = []

    def work(numbers: range) -> None:
        try:
            for i in numbers:
                (entry,) = add(images[i], f"{i}.png")
                drafts.set_caption(DRAFT, entry["id"], f"number {i}")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(range(start, 24, 6),)) for start in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    entries = drafts.describe_images(DRAFT)
    assert len({p["id"] for p in entries}) == 24
    assert {p["name"] for p in entries} == {f"{i}.png" for i in range(24)}
    assert all(p["caption"] == f"number {p['name'][:-4]}" for p in entries)


def test_ids_are_not_reused(add, drafts):
    first = add(picture(1))[0]["id"]
    drafts.remove(DRAFT, first)
    second = add(picture(2))[0]["id"]
    assert first != second
    drafts.remove(DRAFT, first)
    assert [p["id"] for p in drafts.describe_images(DRAFT)] == [second]


def test_ids_beyond_four_digits(add, drafts):
    add(picture(1))
    path = drafts.folder(DRAFT) / "draft.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "next": 10_000}))
    (entry,) = add(picture(2))
    drafts.remove(DRAFT, entry["id"])
    assert len(drafts.describe_images(DRAFT)) == 1


def test_number_of_images_is_limited(add, drafts, monkeypatch):
    monkeypatch.setattr(drafts_module, "MAX_IMAGES", 2)
    add(picture(1))
    add(picture(2))
    with pytest.raises(UnusableFile, match="2 pictures are the most"):
        add(picture(3))
    assert len(drafts.describe_images(DRAFT)) == 2


def test_drafts_are_separate(add, drafts):
    add(picture(), draft=DRAFT)
    assert drafts.describe_images("f" * 32) == []
    drafts.clear("f" * 32)
    assert len(drafts.describe_images(DRAFT)) == 1
    drafts.clear(DRAFT)
    assert drafts.describe_images(DRAFT) == []
    assert not drafts.folder(DRAFT).exists()


# --- copying to a run -------------------------------------------------------------------------------------------------


def test_images_captions_and_masks_are_copied_to_the_run(add, drafts, tmp_path):
    add(picture(1), "one.png")
    add(b"the first", "one.txt")
    gone = add(picture(2), "two.png")[0]["id"]
    add(picture(3), "three.png")
    drafts.remove(DRAFT, gone)
    drafts.copy_to_run(DRAFT, tmp_path / "images")
    assert all_paths(tmp_path / "images") == ["0000.png", "0000.txt", "0002.png"]
    for name in ("0000.png", "0002.png"):
        assert (tmp_path / "images" / name).read_bytes() == (drafts.folder(DRAFT) / name).read_bytes()
    assert len(drafts.describe_images(DRAFT)) == 2, "the draft keeps its images"


def test_failed_copy_leaves_nothing(add, drafts, tmp_path, monkeypatch):
    for i in range(3):
        add(picture(i))
    copied = []

    def copy(source, target):
        copied.append(target)
        if len(copied) == 2:
            raise OSError(28, "No space left on device")
        Path(target).write_bytes(Path(source).read_bytes())

    monkeypatch.setattr(draft_module.shutil, "copyfile", copy)
    with pytest.raises(OSError, match="No space"):
        drafts.copy_to_run(DRAFT, tmp_path / "images")
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize("name", ["mug.png.txt", "mug.caption", "MUG.TXT", "mug.PNG.Caption"])
@pytest.mark.parametrize("first", ["picture", "caption"])
def test_captions_under_all_their_names(add, drafts, name, first):
    files = [(encode(picture()), "mug.png"), (b"a red mug", name)]
    for content, file in files if first == "picture" else files[::-1]:
        add(content, file)
    assert [image["caption"] for image in drafts.describe_images(DRAFT)] == ["a red mug"]


def test_captions_in_wide_encodings_and_another_unicode_form(add, drafts):
    add(encode(picture()), unicodedata.normalize("NFC", "café.png"))
    add("a red mug".encode("utf-16"), unicodedata.normalize("NFD", "café.txt"))
    assert [image["caption"] for image in drafts.describe_images(DRAFT)] == ["a red mug"]


def test_onetrainer_s_masks_are_masks(add, drafts):
    add(encode(picture()), "mug.png")
    add(encode(Image.new("L", (96, 80), 128)), "mug-masklabel.png")
    assert [image["mask"] for image in drafts.describe_images(DRAFT)] == [True]


def test_summary_says_what_is_used_and_what_is_not(add, drafts):
    add(encode(picture()), "mug.png")
    add(b"a red mug", "mug.txt")
    add(b"somebody else", "cup.txt")
    drafts.note_unused(DRAFT, ["notes.pdf"])
    assert drafts.summary(DRAFT) == "1 picture, 1 caption; not used: notes.pdf, cup (a caption without a picture)"
    drafts.clear(DRAFT)
    assert drafts.summary(DRAFT) == ""


def test_repeats_of_kohya_s_folders_reach_the_run(drafts, tmp_path):
    for name in ("10_mug/a.png", "5_cup/b.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        picture(len(name)).save(tmp_path / "photos" / name)
    drafts.add_folder(DRAFT, tmp_path / "photos", 64)
    drafts.copy_to_run(DRAFT, tmp_path / "images")
    assert [file.repeats for file in find_images(tmp_path / "images")] == [2, 1]


# --- folders of the server ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(2):
        picture(i).save(folder / f"{i}.png")
    (folder / "0.txt").write_text("a mug")
    Image.new("L", (96, 80), 128).save(folder / "1.mask.png")
    (folder / "id_rsa").write_text("secret")
    (folder / "notes.pdf").write_text("secret")
    (folder / ".hidden.png").write_bytes(encode(picture(5)))
    return folder


def test_folder_is_copied_with_captions_and_masks_and_not_changed(drafts, folder):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    added, refused = drafts.add_folder(DRAFT, folder, 64)
    assert [(p["name"], p["caption"], p["mask"]) for p in added] == [("0.png", "a mug", False), ("1.png", "", True)]
    assert refused == []
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_only_image_names_of_a_folder_are_reported(drafts, folder):
    (folder / "broken.jpg").write_bytes(b"no picture")
    added, refused = drafts.add_folder(DRAFT, folder, 64)
    assert len(added) == 2
    assert refused == [("broken.jpg", "this is a text, not a picture; download the file itself")]


def test_broken_mask_is_reported_and_its_image_kept(drafts, folder):
    (folder / "0.mask.png").write_bytes(b"no picture")
    added, refused = drafts.add_folder(DRAFT, folder, 64)
    assert len(refused) == 1
    assert {p["id"] for p in added} == {p["id"] for p in drafts.describe_images(DRAFT, 64)}


@pytest.mark.parametrize("name", ["missing", "0.png", "empty", "\0", "x" * 300])
def test_invalid_folders_are_refused(drafts, folder, name):
    (folder / "empty").mkdir()
    with pytest.raises(TextualInversionError):
        drafts.add_folder(DRAFT, folder / name)


def test_stale_drafts_are_deleted(add, drafts):
    add(picture(), draft="a" * 32)
    add(picture(), draft="b" * 32)
    long_ago = time.time() - drafts_module.MAX_AGE_S - 60
    os.utime(drafts.folder("a" * 32), (long_ago, long_ago))
    drafts.delete_stale()
    assert not drafts.folder("a" * 32).exists()
    assert len(drafts.describe_images("b" * 32)) == 1


def test_damaged_draft_starts_empty(add, drafts):
    add(picture(1))
    for text in ("", "[]", "null", '{"pictures": 5', '{"unknown": 1}', '"x"'):
        (drafts.folder(DRAFT) / "draft.json").write_text(text)
        assert drafts.describe_images(DRAFT) == []
    assert len(add(picture(2))) == 1


# --- image quality -----------------------------------------------------------------------------------------------------


def image_warnings(*images: Image.Image, side: int = 64) -> list[list[str]]:
    records = {f"{i:04d}": json.loads(json.dumps(image_quality.measure(image))) for i, image in enumerate(images)}
    return [image_quality.warnings(image_id, records, side) for image_id in records]


def recompressed(image: Image.Image, scale: float = 1.0, quality: int = 75) -> Image.Image:
    size = (round(image.width * scale), round(image.height * scale))
    return Image.open(io.BytesIO(encode(image.resize(size, Image.Resampling.LANCZOS), "JPEG", quality=quality)))


@pytest.mark.parametrize("concept", sorted(p.name for p in CONCEPTS.iterdir() if p.is_dir()))
def test_practice_images_have_no_warnings(concept):
    images = [decode(path) for path in sorted((CONCEPTS / concept).glob("?.png"))]
    assert len(images) == 6
    assert image_warnings(*images) == [[]] * 6


@pytest.mark.parametrize("plain", [None, 0, 128, 245, 255])
@pytest.mark.parametrize("noise", [0, 3])
def test_duplicates_are_recognized_after_scaling_and_compression(plain, noise):
    for seed in range(5):
        image = photograph(seed, plain, noise=noise)
        result = image_warnings(
            image, recompressed(image, 0.5), recompressed(image, 1.0, 40), recompressed(image, 0.37, 90)
        )
        assert ["Same as picture 1" in warnings for warnings in result] == [False, True, True, True], seed


@pytest.mark.parametrize("plain", [None, 0, 128, 245, 255])
@pytest.mark.parametrize("noise", [0, 3])
def test_different_photos_on_the_same_background_are_not_duplicates(plain, noise):
    images = [photograph(seed, plain, noise=noise) for seed in range(10)]
    assert not [w for warnings in image_warnings(*images) for w in warnings if w.startswith("Same")]


def test_moved_or_mirrored_object_is_not_a_duplicate():
    image = photograph(1, 245)
    moved = image.transform(image.size, Image.Transform.AFFINE, (1, 0, 30, 0, 1, 0))
    assert image_warnings(image, moved, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == [[]] * 3


def test_colours_of_transparent_pixels_are_not_compared():
    transparent = [photograph(seed, 245).convert("RGBA") for seed in (1, 2)]
    for image in transparent:
        image.putalpha(Image.fromarray((np.asarray(image.convert("L")) < 200).astype(np.uint8) * 255))
    other = transparent[0].copy()
    other.paste((9, 200, 9, 0), mask=Image.fromarray((np.asarray(other)[..., 3] == 0).astype(np.uint8) * 255))
    result = image_warnings(transparent[0], transparent[1], other)
    assert ["Same as picture 1" in warnings for warnings in result] == [False, False, True]


@pytest.mark.parametrize("size", [(640, 480), (1280, 960)])
def test_blurry_images_are_recognized_at_any_size(size):
    sharp = [photograph(seed, plain, size, noise) for seed, plain, noise in ((1, None, 3), (2, 245, 0), (3, 0, 1))]
    assert all("Blurry" not in warnings for warnings in image_warnings(*sharp))
    radius = size[0] / 64
    assert all(
        "Blurry" in warnings
        for warnings in image_warnings(*(i.filter(ImageFilter.GaussianBlur(radius)) for i in sharp))
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 2048), (2048, 1), (2, 300), (300, 2), (17, 16)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_extreme_aspect_ratios_are_measured(add, size, mode):
    (entry,) = add(Image.new(mode, size, "red"), side=64)
    assert any(warning.startswith(f"Small: {size[0]}×{size[1]}") for warning in entry["warnings"])
    assert entry["thumb"].startswith("data:image/jpeg;base64,")


def test_images_below_the_resolution_are_small():
    assert image_warnings(picture(1, (96, 64)), side=64) == [[]]
    assert image_warnings(picture(1, (96, 63)), side=64) == [["Small: 96×63. 64 or more is better."]]


def test_duplicate_search_is_fast_for_a_thousand_images():
    rng = np.random.default_rng(0)
    length = len(image_quality.measure(picture())["print"]) // 2
    records = {
        f"{i:04d}": {"width": 512, "height": 512, "sharpness": 99.0, "print": rng.bytes(length).hex()}
        for i in range(1000)
    }
    start = time.process_time()
    for image_id in records:
        image_quality.warnings(image_id, records, 512)
    assert time.process_time() - start < 5
