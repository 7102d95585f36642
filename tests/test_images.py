"""Images of any kind are decoded upright to 8-bit RGB or RGBA with the right colours; everything else is refused."""

import contextlib
import gc
import os
import re
import struct
import sys
import unicodedata
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from lib_ti.data import buckets, dataset, decoders, image_folder, images
from lib_ti.data.buckets import bucket_step
from lib_ti.data.dataset import Example
from lib_ti.data.image_files import ImageFile
from lib_ti.data.image_folder import find_images, scan_folder
from lib_ti.errors import UnusableFile
from lib_ti.settings.parsing import parse
from lib_ti.training.import_images import import_images, load_examples

RED, GREEN, BLUE, GOLD = (200, 30, 40), (20, 180, 60), (30, 50, 210), (220, 190, 20)


def quarters(width: int = 32, height: int = 16) -> Image.Image:
    """An image with a different colour in each quarter, which shows its orientation."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(GOLD, (width // 2, height // 2, width, height))
    return image


def values(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def assert_close(actual: Image.Image, expected: Image.Image, tolerance: float) -> None:
    """Equal but for the errors of lossy compression: small on average."""
    assert (actual.mode, actual.size) == (expected.mode, expected.size)
    assert np.abs(values(actual) - values(expected)).mean() <= tolerance


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def png_header(width: int, height: int, bits: int = 8) -> bytes:
    """A PNG, RGB or gray if it has 16 bits, that claims a size, with hardly any pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 2 if bits == 8 else 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


class TestDecode:
    def test_rgb(self, tmp_path):
        assert_close(images.decode(saved(tmp_path / "a.png", quarters())), quarters(), 0)

    @pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp", "tif", "gif"])
    def test_other_formats(self, tmp_path, suffix):
        decoded = images.decode(saved(tmp_path / f"a.{suffix}", quarters()))
        assert_close(decoded, quarters(), 8 if suffix in ("jpg", "webp") else 0)

    def test_alpha_and_the_colours_under_it(self, tmp_path):
        image = quarters().convert("RGBA")
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        assert_close(images.decode(saved(tmp_path / "a.png", image)), image, 0)

    def test_gray_with_alpha(self, tmp_path):
        image = Image.merge("LA", (Image.linear_gradient("L"), Image.linear_gradient("L").rotate(90)))
        assert_close(images.decode(saved(tmp_path / "a.png", image)), image.convert("RGBA"), 0)

    def test_gray(self, tmp_path):
        decoded = images.decode(saved(tmp_path / "a.png", Image.linear_gradient("L")))
        assert_close(decoded, Image.linear_gradient("L").convert("RGB"), 0)

    def test_black_and_white(self, tmp_path):
        image = Image.new("1", (16, 8))
        image.paste(1, (8, 0, 16, 8))
        decoded = images.decode(saved(tmp_path / "a.png", image))
        assert decoded.mode == "RGB"
        assert (decoded.getpixel((7, 4)), decoded.getpixel((8, 4))) == ((0, 0, 0), (255, 255, 255))

    def test_palette(self, tmp_path):
        image = quarters().quantize(4)
        assert image.mode == "P"
        assert_close(images.decode(saved(tmp_path / "a.png", image)), quarters(), 0)

    def test_palette_with_a_transparent_colour(self, tmp_path):
        image = quarters().quantize(4)
        hole = image.getpixel((0, 0))  # RED's
        decoded = images.decode(saved(tmp_path / "a.png", image, transparency=hole))
        assert decoded.mode == "RGBA"
        assert decoded.convert("RGB").tobytes() == quarters().tobytes()
        assert [decoded.getchannel("A").getpixel(at) for at in ((0, 0), (31, 0), (0, 15))] == [0, 255, 255]

    def test_palette_with_half_transparent_colours(self, tmp_path):
        image = quarters().quantize(4)
        colours = [image.getpixel(at) for at in ((0, 0), (31, 0))]
        alpha = bytearray(b"\xff" * 4)
        alpha[colours[0]], alpha[colours[1]] = 0, 100
        decoded = images.decode(saved(tmp_path / "a.png", image, transparency=bytes(alpha)))
        assert [decoded.getpixel(at) for at in ((0, 0), (31, 0), (0, 15))] == [(*RED, 0), (*GREEN, 100), (*BLUE, 255)]

    def test_one_transparent_colour_without_a_palette(self, tmp_path):
        decoded = images.decode(saved(tmp_path / "a.png", quarters(), transparency=BLUE))
        assert [decoded.getpixel(at) for at in ((0, 0), (0, 15))] == [(*RED, 255), (*BLUE, 0)]

    def test_cmyk_jpeg(self, tmp_path):
        decoded = images.decode(saved(tmp_path / "a.jpg", quarters(64, 64).convert("CMYK"), quality=95))
        assert_close(decoded, quarters(64, 64), 8)

    def test_gray_jpeg(self, tmp_path):
        decoded = images.decode(saved(tmp_path / "a.jpg", quarters(64, 64).convert("L"), quality=95))
        assert_close(decoded, quarters(64, 64).convert("L").convert("RGB"), 3)

    def test_16_bit_gray_png(self, tmp_path):
        """Pillow alone would clip everything from 256 on to white."""
        deep = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
        decoded = images.decode(saved(tmp_path / "a.png", Image.fromarray(deep)))
        assert decoded.mode == "RGB"
        assert (values(decoded)[..., 1].ravel() == np.arange(256)).all()

    @pytest.mark.parametrize("top", [1.0, 255.0, 1000.0])
    def test_32_bit_float_tiff(self, tmp_path, top):
        """White is 1, 255, or else the largest value; negative values are black."""
        shades = np.linspace(0, top, 256, dtype=np.float32).reshape(16, 16)
        shades[0, 0] = -top
        decoded = images.decode(saved(tmp_path / "a.tif", Image.fromarray(shades)))
        assert decoded.mode == "RGB"
        assert (values(decoded)[..., 0].ravel() == np.arange(256)).all()

    def test_nan_and_inf_in_a_float_tiff_are_black(self, tmp_path):
        shades = np.full((4, 4), 0.5, np.float32)
        shades[0, 0], shades[0, 1] = np.nan, -np.inf
        decoded = values(images.decode(saved(tmp_path / "a.tif", Image.fromarray(shades))))
        assert decoded[0, :3, 0].tolist() == [0, 0, 128]

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_applied(self, tmp_path, orientation):
        undone_by = {
            1: None,
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90,  # stored turned to the left, shown turned to the right
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270,
        }[orientation]
        stored = quarters(64, 32) if undone_by is None else quarters(64, 32).transpose(undone_by)
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = saved(tmp_path / "a.jpg", stored, quality=95, subsampling=0, exif=exif)
        assert_close(images.decode(path), quarters(64, 32), 4)
        assert images.check_picture(path).image.size == (64, 32)

    @pytest.mark.parametrize(("suffix", "options"), [("gif", {}), ("webp", {"lossless": True}), ("png", {})])
    def test_first_frame_of_an_animation(self, tmp_path, suffix, options):
        frames = [quarters(), Image.new("RGB", (32, 16), "black")]
        path = saved(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:], **options)
        with Image.open(path) as animation:
            assert animation.n_frames == 2
        assert_close(images.decode(path).convert("RGB"), quarters(), 0)

    def test_large_jpeg_is_downscaled_while_decoding(self, tmp_path, monkeypatch):
        monkeypatch.setattr(images, "LONGEST_SIDE", 200)
        decoded = images.decode(saved(tmp_path / "a.jpg", quarters(600, 420), quality=90))
        assert_close(decoded, quarters(300, 210), 4)  # a half, which is still larger than any prepared image


def profile(gamma: float, description: str) -> bytes:
    """An ICC profile (version 2, matrix) with sRGB's primaries and one gamma for all channels."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    name = description.encode() + b"\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78)
    curve = b"curv\0\0\0\0\0\0\0\1" + struct.pack(">H", round(gamma * 256)) + b"\0\0"
    tags = {
        b"desc": text, b"cprt": b"text\0\0\0\0none\0", b"wtpt": xyz(0.9642, 1, 0.8249), b"rXYZ": xyz(0.4361, 0.2225, 0.0139),
        b"gXYZ": xyz(0.3851, 0.7169, 0.0971), b"bXYZ": xyz(0.1431, 0.0606, 0.7141),
        b"rTRC": curve, b"gTRC": curve, b"bTRC": curve,
    }  # fmt: skip
    table, data, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        content += bytes(-len(content) % 4)
        table += tag + struct.pack(">II", offset + len(data), len(content))
        data += content
    header = struct.pack(
        ">I4sI4s4s4s12s4s", offset + len(data), b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ", bytes(12), b"acsp"
    )
    header += bytes(28) + fixed(0.9642) + fixed(1) + fixed(0.8249)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


class TestColours:
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
    def test_profiles_are_applied(self, tmp_path, mode):
        """Gamma 1 makes 128 of 255 half of the light, which is 188 in sRGB."""
        gray = Image.new("RGB", (8, 8), (128,) * 3)
        path = saved(
            tmp_path / "a.png", gray.quantize(4) if mode == "P" else gray.convert(mode), icc_profile=profile(1.0, "x")
        )
        decoded = images.decode_with_notes(path)
        assert decoded.notes == ()
        assert decoded.image.mode == ("RGBA" if mode == "RGBA" else "RGB")
        assert np.abs(values(decoded.image.convert("RGB")) - 188).max() <= 2

    def test_srgb_profiles_change_nothing(self, tmp_path):
        path = saved(tmp_path / "a.png", quarters(), icc_profile=profile(2.2, "sRGB IEC61966-2.1"))
        assert_close(images.decode(path), quarters(), 0)

    @pytest.mark.parametrize("data", [b"garbage", b"x" * 500, profile(1.0, "x")[:200]])
    def test_damaged_profiles_are_said(self, tmp_path, data):
        decoded = images.decode_with_notes(saved(tmp_path / "a.png", quarters(), icc_profile=data))
        assert_close(decoded.image, quarters(), 0)
        assert "colour profile is damaged" in decoded.notes[0]

    def test_cmyk_profiles_and_profiles_of_another_mode(self, tmp_path):
        path = saved(tmp_path / "a.jpg", quarters(64, 64).convert("CMYK"), quality=95, icc_profile=profile(1.0, "x"))
        decoded = images.decode_with_notes(path)  # an RGB profile says nothing of CMYK
        assert decoded.image.mode == "RGB"
        assert_close(decoded.image, quarters(64, 64), 8)

    def test_gray_pictures_with_an_rgb_profile(self, tmp_path):
        path = saved(tmp_path / "a.png", Image.new("L", (8, 8), 128), icc_profile=profile(1.0, "x"))
        assert np.abs(values(images.decode(path)) - 188).max() <= 2

    def test_damaged_exif_is_no_reason_to_refuse_a_picture(self, tmp_path):
        info = PngImagePlugin.PngInfo()
        info.add_text("Raw profile type exif", "\nexif\n 20\nno hexadecimal digits")
        png = saved(tmp_path / "a.png", quarters(), pnginfo=info)
        webp = saved(tmp_path / "a.webp", quarters(), lossless=True, exif=b"Exif\0\0garbage")
        for path in (png, webp):
            decoded = images.decode_with_notes(path)
            assert_close(decoded.image.convert("RGB"), quarters(), 0)
            assert "EXIF data is damaged" in decoded.notes[0]


class TestRefusal:
    def refusal(self, path: Path) -> str:
        with pytest.raises(UnusableFile) as caught:
            images.decode(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
        return message.removeprefix(f"{path}: ")

    @pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp"])
    def test_truncated(self, tmp_path, suffix):
        noise = Image.effect_noise((64, 64), 80).convert("RGB")  # incompressible, so that half of the file lacks pixels
        path = saved(tmp_path / f"a.{suffix}", noise)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert self.refusal(path) == "truncated"

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "the file is empty"),
            (b"\x89PNG\r\n\x1a\n", "not a picture that can be read"),
            (b"\xff\xd8\xff\xe0", "not a picture that can be read"),
            (b"a letter", "this is a text, not a picture"),
            (b"%PDF-1.7", "this is a PDF document, not a picture"),
            (bytes(1000), "this is nothing but zeros"),
            (b"<!DOCTYPE html>", "this is a web page"),
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"PK\3\4" + bytes(100), "this is a zip archive"),
        ],
    )
    def test_not_an_image(self, tmp_path, data, reason):
        path = tmp_path / "a.png"
        path.write_bytes(data)
        assert reason in self.refusal(path)

    def test_formats_without_a_decoder_are_named(self, tmp_path, monkeypatch):
        monkeypatch.setattr(images, "available_formats", lambda: ("PNG",))
        monkeypatch.setattr(decoders, "available_formats", lambda: ("PNG",))
        for data, reason in (
            (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "a HEIC picture, .* or run install.py --heic"),
            (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "an AVIF picture, .* pip install pillow-avif-plugin"),
            (b"\xff\x0a\xfa\x7f", "a JPEG XL picture, .* pip install pillow-jxl-plugin"),
        ):
            (tmp_path / "a.jpg").write_bytes(data)
            assert re.search(reason, self.refusal(tmp_path / "a.jpg"))

    def test_a_picture_that_is_transparent_everywhere(self, tmp_path):
        path = saved(tmp_path / "a.png", Image.new("RGBA", (8, 8), (255, 0, 0, 0)))
        with pytest.raises(UnusableFile, match="transparent everywhere"):
            images.prepare_image(path)

    def test_a_mask_that_is_black_everywhere(self, tmp_path):
        path = saved(tmp_path / "a.png", Image.new("L", (8, 8)))
        with pytest.raises(UnusableFile, match="black everywhere"):
            images.prepare_mask(path, (8, 8))

    def test_decompression_bomb(self, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(png_header(40_000, 40_000))
        assert path.stat().st_size < 200
        assert self.refusal(path) == "far too large; reduce the picture first"

    def test_too_many_pixels(self, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(png_header(12_000, 11_000))
        assert self.refusal(path) == "12000×11000 pixels is too large; reduce the picture first"

    def test_missing_file(self, tmp_path):
        self.refusal(tmp_path / "a.png")
        self.refusal(tmp_path)

    @pytest.mark.parametrize("end", [None, 1000, 20], ids=["whole", "truncated", "not a picture"])
    def test_no_file_is_left_open(self, tmp_path, end):
        """On Windows it could not be deleted."""
        path = saved(tmp_path / "a.bmp", quarters())
        path.write_bytes(path.read_bytes()[:end])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with contextlib.suppress(UnusableFile):
                images.decode(path)
            gc.collect()
        assert not [str(warning.message) for warning in caught]

    @given(cut=st.integers(0, 10_000), at=st.integers(0, 10_000), junk=st.binary(max_size=8))
    @pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tif"])
    def test_damaged_files_are_decoded_or_refused(self, tmp_path_factory, suffix, cut, at, junk):
        path = saved(tmp_path_factory.getbasetemp() / f"damaged.{suffix}", quarters())
        data = bytearray(path.read_bytes())
        at %= len(data)
        data[at : at + len(junk)] = junk
        path.write_bytes(data[: max(1, len(data) - cut % len(data))])
        with contextlib.suppress(UnusableFile):
            assert images.decode(path).mode in ("RGB", "RGBA")


def test_flatten_makes_transparent_pixels_white():
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (200, 100, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 51))
    assert [images.flatten(image).getpixel((x, 0)) for x in range(3)] == [(255,) * 3, (200, 100, 0), (204,) * 3]
    assert images.flatten(quarters()).tobytes() == quarters().tobytes()


class TestResizeAndCrop:
    def test_center_of_a_wide_image(self):
        wide = Image.new("RGB", (90, 30), RED)
        wide.paste(GREEN, (30, 0, 60, 30))
        assert images.resize_and_crop(wide, 30, 30).getcolors() == [(900, GREEN)]

    def test_center_of_a_tall_image(self):
        tall = Image.new("RGB", (30, 90), RED)
        tall.paste(GREEN, (0, 30, 30, 60))
        assert images.resize_and_crop(tall, 30, 30).getcolors() == [(900, GREEN)]

    def test_image_of_the_right_size_is_unchanged(self):
        noise = Image.effect_noise((64, 32), 80)
        assert images.resize_and_crop(noise, 64, 32).tobytes() == noise.tobytes()

    @given(*[st.integers(1, 300)] * 2, *[st.integers(1, 40).map(lambda n: 8 * n)] * 2)
    def test_agrees_with_pillow(self, width, height, to_width, to_height):
        """`ImageOps.fit` rounds the crop differently; on a gradient that hardly matters."""
        gradient_image = Image.merge(
            "RGB", [Image.linear_gradient("L").rotate(a).resize((width, height)) for a in (0, 90, 180)]
        )
        result = images.resize_and_crop(gradient_image, to_width, to_height)
        reference = ImageOps.fit(gradient_image, (to_width, to_height), Image.Resampling.LANCZOS)
        assert result.size == reference.size == (to_width, to_height)
        step = 255 / min(width, height) * max(1, min(width / to_width, height / to_height))
        assert np.abs(values(result) - values(reference)).mean() <= 2 + step

    def test_strip_is_cropped_before_it_is_resized(self, monkeypatch):
        """A strip of 2048×2 pixels would take gigabytes at 1024 pixels."""
        sizes = []
        resize = Image.Image.resize

        def record_size(self, size, *args, **kwargs):
            sizes.append(size)
            return resize(self, size, *args, **kwargs)

        monkeypatch.setattr(Image.Image, "resize", record_size)
        assert images.resize_and_crop(Image.new("L", (2048, 16)), 256, 256).size == (256, 256)
        assert all(width * height <= 2048 * 2048 for width, height in sizes)


def test_limit_size_keeps_the_aspect_ratio():
    assert images.limit_size(quarters(4000, 1000)).size == (2048, 512)
    assert images.limit_size(quarters(5000, 1)).size == (2048, 1)
    small = quarters()
    assert images.limit_size(small) is small


class TestBuckets:
    @pytest.mark.parametrize("resolution", [64, 72, 256, 448, 512, 640, 768, 1024])
    def test_bucket_sizes_suit_the_unet_and_the_memory(self, resolution):
        step = bucket_step(resolution)
        assert step % 8 == 0
        for width, height in buckets.aspect_buckets(resolution, step):
            assert width % step == height % step == 0
            assert 0.5 <= width / height <= 2
            assert 0.75 <= width * height / resolution**2 <= 1.34

    @pytest.mark.parametrize(
        ("size", "bucket"),
        [((3000, 3000), (512, 512)), ((1200, 1000), (576, 448)), ((1500, 1000), (640, 384)), ((900, 100), (704, 384)),
         ((10, 9000), (384, 704))],
    )  # fmt: skip
    def test_selected_buckets(self, size, bucket):
        assert buckets.select_bucket(size, 512, 64) == bucket

    @given(st.integers(50, 5000), st.integers(50, 5000), st.sampled_from([64, 256, 512, 1000, 1024]))
    def test_selected_bucket_crops_least(self, width, height, resolution):
        def crop_ratio(bucket: tuple[int, int]) -> float:
            """How many times larger the image is than its crop."""
            across, down = bucket[0] * height, bucket[1] * width
            return max(across, down) / min(across, down)

        step = bucket_step(resolution)
        sizes = {*buckets.aspect_buckets(resolution, step), (resolution, resolution)}
        chosen = buckets.select_bucket((width, height), resolution, step)
        assert chosen in sizes
        assert crop_ratio(chosen) == pytest.approx(min(map(crop_ratio, sizes)))

    @pytest.mark.parametrize("resolution", [64, 512, 768])
    def test_transposed_image_gets_the_transposed_bucket(self, resolution):
        step = bucket_step(resolution)
        for width in range(1000, 2200, 50):
            upright = buckets.select_bucket((width, 1000), resolution, step)
            assert buckets.select_bucket((1000, width), resolution, step) == upright[::-1]


class TestFolder:
    def test_find_images_skips_other_files(self, tmp_path):
        (tmp_path / "folder.png").mkdir()
        for name in ("b.png", "a.JPG", "c", "a.txt", "A.TXT", "b.mask.png", "B.MASK.PNG", ".hidden.png", "Thumbs.db",
                     "desktop.ini", "meta.json"):  # fmt: skip
            (tmp_path / name).touch()
        assert [file.path.name for file in find_images(tmp_path)] == ["a.JPG", "b.png", "c"]

    @pytest.mark.parametrize(
        ("data", "caption"),
        [
            (b"a red mug", "a red mug"),
            (b"\xef\xbb\xbfa red mug", "a red mug"),
            (b"a red mug,\r\n on a table \r\n\r\n", "a red mug, on a table"),
            ("a café\n".encode(), "a café"),
            (b"", ""),
            (b" \n", ""),
        ],
    )
    def test_captions_of_text_files(self, tmp_path, data, caption):
        (tmp_path / "mug.png").touch()
        (tmp_path / "mug.txt").write_bytes(data)
        (file,) = find_images(tmp_path)
        assert (file.caption("txt").text, file.caption("txt").note) == (caption, "")

    @pytest.mark.parametrize("data", ["a café, red".encode("latin-1"), "a cafё, red".encode("cp1251"), b"a caf\0, red"])
    def test_caption_in_another_encoding_keeps_ascii_text(self, tmp_path, data):
        (tmp_path / "mug.txt").write_bytes(data)
        caption = ImageFile(tmp_path / "mug.png", tmp_path / "mug.txt").caption("txt").text
        assert caption.startswith("a caf")
        assert caption.endswith(", red")

    @pytest.mark.parametrize(
        ("name", "caption"),
        [("red_mug on a table", "red mug on a table"), ("00001-0-red mug", "red mug"), ("12 red  mug", "red mug"),
         ("2024-05-01", "2024-05-01"), ("mug 2", "mug 2")],
    )  # fmt: skip
    def test_captions_of_file_names(self, tmp_path, name, caption):
        assert ImageFile(tmp_path / f"{name}.png").caption("file-name").text == caption

    def test_no_captions(self, tmp_path):
        (tmp_path / "mug.txt").write_text("a red mug")
        file = ImageFile(tmp_path / "mug.png", tmp_path / "mug.txt")
        assert file.caption("none").text == ""
        assert ImageFile(tmp_path / "cup.png").caption("txt").text == ""

    @pytest.mark.parametrize(
        "mask", ["mug.mask.png", "mug.jpg.mask.png", "mug-masklabel.png", "MUG.MASK.PNG", "mug.mask.jpg"]
    )
    def test_mask_beside_the_image(self, tmp_path, mask):
        (tmp_path / "mug.jpg").touch()
        assert [file.mask for file in find_images(tmp_path)] == [None]
        (tmp_path / mask).touch()
        assert [file.mask for file in find_images(tmp_path)] == [tmp_path / mask]

    @pytest.mark.parametrize(
        "caption",
        ["mug.txt", "mug.caption", "mug.TXT", "mug.png.txt", "MUG.Caption", "mug.png.caption", "mug.cap"],
    )
    def test_captions_under_all_their_names(self, tmp_path, caption):
        (tmp_path / "mug.png").touch()
        (tmp_path / caption).write_text("a red mug")
        (file,) = find_images(tmp_path)
        assert file.caption("txt").text == "a red mug"

    @pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
    def test_names_in_another_unicode_form(self, tmp_path, forms):
        picture, caption = (unicodedata.normalize(form, "café Zürich") for form in forms)
        (tmp_path / f"{picture}.png").touch()
        (tmp_path / f"{caption}.txt").write_text("a town")
        (tmp_path / f"{caption}.mask.png").touch()
        (file,) = find_images(tmp_path)
        assert file.caption("txt").text == "a town"
        assert file.mask

    def test_a_file_of_the_very_name_comes_before_others(self, tmp_path):
        for name in ("mug.png", "Mug.png"):
            (tmp_path / name).touch()
        for name in ("mug.txt", "Mug.txt", "mug.caption"):
            (tmp_path / name).write_text(name)
        assert {f.path.name: f.caption("txt").text for f in find_images(tmp_path)} == {
            "mug.png": "mug.txt", "Mug.png": "Mug.txt",
        }  # fmt: skip

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig", "utf-16-be"])
    def test_captions_in_wide_encodings(self, tmp_path, encoding):
        (tmp_path / "mug.png").touch()
        (tmp_path / "mug.txt").write_bytes("a red mug".encode(encoding))
        (file,) = find_images(tmp_path)
        assert file.caption("txt").text == "a red mug"

    def test_a_caption_that_is_too_large_is_named(self, tmp_path):
        (tmp_path / "mug.png").touch()
        (tmp_path / "mug.txt").write_bytes(b"a" * 100_000)
        (file,) = find_images(tmp_path)
        assert file.caption("txt").text == ""
        assert "larger than 64 kB" in file.caption("txt").note

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
    def test_captions_of_names_that_are_not_unicode(self, tmp_path):
        assert ImageFile(tmp_path / "b\udcfccher_1.png").caption("file-name").text == "bücher 1"
        assert ImageFile(tmp_path / "b\udcc3\udcfccher.png").caption("file-name").text.endswith("cher")


class TestScan:
    def tree(self, folder: Path, *names: str) -> Path:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        return folder

    def test_subfolders_are_read(self, tmp_path):
        self.tree(tmp_path, "1.png", "more/2.png", "more/deep/3.png", ".git/4.png", "__MACOSX/._1.png")
        assert [f.path.relative_to(tmp_path).as_posix() for f in find_images(tmp_path)] == [
            "1.png", "more/2.png", "more/deep/3.png",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("names", "repeats"),
        [
            (["10_coin/a.png", "10_coin/b.png"], [1, 1]),
            (["10_coin/a.png", "5_mug/b.png"], [2, 1]),
            (["10_coin/a.png", "5_mug/b.png", "notes.pdf"], [1, 2, 1]),
            (["3_coin/a.png", "b.png"], [1, 3]),
            (["3_coin/close/a.png", "2_mug/b.png"], [2, 3]),
            (["2023_summer/a.png", "01_front/b.png", "c.png"], [1, 1, 1]),
        ],
    )
    def test_repeats_of_kohya_s_folders(self, tmp_path, names, repeats):
        self.tree(tmp_path, *names)
        assert [file.repeats for file in find_images(tmp_path)] == repeats

    def test_a_folder_that_holds_itself_is_read_once(self, tmp_path):
        self.tree(tmp_path, "more/1.png")
        (tmp_path / "more" / "again").symlink_to(tmp_path, target_is_directory=True)
        assert len(find_images(tmp_path)) == 1

    def test_folders_of_runs_are_left_out(self, tmp_path):
        self.tree(tmp_path, "1.png", "runs/mug/2026/settings.json", "runs/mug/2026/previews/100-0-0.png")
        folder = scan_folder(tmp_path)
        assert len(folder.files) == 1
        assert folder.summary(folder.files, {}) == "1 picture; not used: 1 folder of trainings"

    @pytest.mark.skipif(os.name == "nt", reason="links and pipes")
    def test_summary_names_what_is_not_used(self, tmp_path):
        self.tree(tmp_path, "1.png", "2.png", "notes.pdf", "alone.txt", "gone.mask.png", "sub/READ me.md")
        (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
        os.mkfifo(tmp_path / "pipe.png")
        folder = scan_folder(tmp_path)
        summary = folder.summary(folder.files[:2], {"caption": 1, "mask": 0}, [tmp_path / "notes.pdf"])
        assert summary.startswith("2 pictures, 1 caption; not used: ")
        for part in (
            "1 broken link", "1 special file", "1 text without a picture (alone.txt)",
            "1 mask without a picture (gone.mask.png)", "notes.pdf", "sub/READ me.md",
        ):  # fmt: skip
            assert part in summary

    def test_summary_counts_many_files_of_a_kind(self, tmp_path):
        self.tree(tmp_path, "1.png", *(f"{i}.npz" for i in range(40)))
        folder = scan_folder(tmp_path)
        assert folder.summary(folder.files, {}) == "1 picture; not used: 40 .npz files"

    def test_far_too_many_files_are_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(image_folder, "MAX_FILES", 5)
        self.tree(tmp_path, *(f"{i}.txt" for i in range(6)))
        with pytest.raises(UnusableFile, match="more than 5 files"):
            scan_folder(tmp_path)


class TestMasks:
    """The loss weight of each latent, which the VAE makes from 8×8 pixels."""

    def loss_weight(
        self, path: Path, mask: Path | None = None, mirrored: bool = False, size: tuple[int, int] = (32, 16)
    ):
        image = dataset.load_image(Example(path, "", mask, size), 8)
        return (image.mirrored if mirrored else image).loss_weight

    def left_half(self, size: tuple[int, int]) -> Image.Image:
        mask = Image.new("L", size)
        mask.paste(255, (0, 0, size[0] // 2, size[1]))
        return mask

    def test_alpha(self, tmp_path):
        image = quarters().convert("RGBA")
        image.putalpha(self.left_half(image.size))
        path = saved(tmp_path / "a.png", image)
        assert self.loss_weight(path).tolist() == [[[2, 2, 0, 0]] * 2]
        assert self.loss_weight(path, mirrored=True).tolist() == [[[0, 0, 2, 2]] * 2]

    def test_mask_file_of_another_size_takes_precedence_over_alpha(self, tmp_path):
        image = quarters().convert("RGBA")
        image.putalpha(self.left_half(image.size).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        mask = saved(tmp_path / "a.mask.png", self.left_half((320, 160)))
        weight = self.loss_weight(saved(tmp_path / "a.png", image), mask)
        assert weight.numpy() == pytest.approx(np.array([[[2, 2, 0, 0]] * 2]), abs=0.05)

    def test_loss_weight_is_proportional_to_brightness(self, tmp_path):
        shades = np.tile(np.array([50, 100, 150, 200], np.uint8).repeat(8), (16, 1))
        mask = saved(tmp_path / "a.mask.png", Image.fromarray(shades))
        weight = self.loss_weight(saved(tmp_path / "a.png", quarters()), mask)
        assert weight[0].tolist() == [pytest.approx([0.4, 0.8, 1.2, 1.6])] * 2
        assert float(weight.mean()) == pytest.approx(1), "so that a mask does not change the learning rate"

    def test_mask_is_cropped_like_its_image(self, tmp_path):
        image = saved(tmp_path / "a.png", quarters(96, 16))
        mask = Image.new("L", (96, 16), 255)
        mask.paste(0, (48, 0, 96, 16))
        weight = self.loss_weight(image, saved(tmp_path / "a.mask.png", mask))
        assert weight.tolist() == [[[2, 2, 0, 0]] * 2]

    def test_exif_orientation_of_a_mask_is_applied(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 3
        turned = self.left_half((32, 16)).rotate(180)
        weight = self.loss_weight(
            saved(tmp_path / "a.png", quarters()), saved(tmp_path / "a.mask.png", turned, exif=exif)
        )
        assert weight.tolist() == [[[2, 2, 0, 0]] * 2]

    @pytest.mark.parametrize("shade", [0, 128, 255])
    def test_uniform_mask_has_no_effect(self, tmp_path, shade):
        image = quarters().convert("RGBA")
        image.putalpha(shade)
        assert self.loss_weight(saved(tmp_path / "a.png", image)) is None

    def test_mask_that_is_black_after_cropping_has_no_effect(self, tmp_path):
        mask = Image.new("L", (96, 16))
        mask.paste(255, (0, 0, 8, 16))
        image = saved(tmp_path / "a.png", quarters(96, 16))
        assert self.loss_weight(image, saved(tmp_path / "a.mask.png", mask), size=(16, 16)) is None

    def test_masks_can_be_disabled(self, tmp_path):
        image = quarters().convert("RGBA")
        image.putalpha(self.left_half(image.size))
        path = saved(tmp_path / "a.png", image)
        assert dataset.load_image(Example(path, "", None, (32, 16), use_masks=False), 8).loss_weight is None


def test_pixels_are_in_the_vaes_range_and_layout(tmp_path):
    image = Image.new("RGB", (16, 8), (0, 255, 51))
    image.paste((255, 0, 0), (0, 0, 8, 8))
    example = Example(saved(tmp_path / "a.png", image), "", None, (16, 8))
    image = dataset.load_image(example, 8)
    tensor = image.pixels
    assert tensor.shape == (1, 3, 8, 16)
    assert tensor[0, :, 0, 0].tolist() == [1, -1, -1]
    assert tensor[0, :, 7, 15].tolist() == pytest.approx([-1, 1, -0.6])
    assert image.mirrored.pixels[0, :, 0, 15].tolist() == [1, -1, -1]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_images_are_loaded_in_order(tmp_path, count):
    paths = [saved(tmp_path / f"{i}.png", Image.new("RGB", (8, 8), (51 * i, 0, 0))) for i in range(count)]
    loaded = dataset.load_images([Example(path, "", None, (8, 8)) for path in paths], 8)
    assert [round(float(image.pixels[0, 0, 0, 0] + 1) * 2.5) for image in loaded] == [*range(count)]


def test_unreadable_image_raises_at_its_turn(tmp_path):
    whole, damaged = saved(tmp_path / "0.png", Image.new("RGB", (8, 8))), tmp_path / "1.png"
    damaged.write_bytes(b"no picture")
    loaded = dataset.load_images([Example(path, "", None, (8, 8)) for path in (whole, damaged, whole)], 8)
    next(loaded)
    with pytest.raises(UnusableFile, match=r"1\.png"):
        next(loaded)


class TestImportImages:
    """The run's own copies."""

    def settings(self, **more):
        return parse({"images": "x", "name": "x-y", "model": "x", "out": "x", "resolution": "64", **more})[0]

    def import_images(self, tmp_path, captions="none"):
        import_images(tmp_path / "source", captions, tmp_path / "images", lambda: False)
        return tmp_path / "images"

    @pytest.fixture
    def source_folder(self, tmp_path):
        (tmp_path / "source").mkdir()
        return tmp_path / "source"

    def test_copies_contain_only_pixels(self, source_folder, tmp_path):
        """EXIF and comments would tell everyone who gets the run where and by whom a photo was taken."""
        exif = Image.Exif()
        exif[0x0112], exif[0x010F], exif[0x8825] = 6, "Camera of Jane Doe", {1: "N", 2: (52.0, 31.0, 12.0)}
        text = PngImagePlugin.PngInfo()
        text.add_text("Author", "Jane Doe")
        metadata = {"exif": exif, "icc_profile": b"Jane Doe's screen" * 10, "dpi": (300, 300)}
        saved(source_folder / "a.jpg", quarters(64, 32), comment="Jane Doe", **metadata)
        saved(source_folder / "a.mask.png", quarters(64, 32).convert("L"), pnginfo=text, **metadata)
        saved(source_folder / "b.png", quarters().convert("RGBA"), pnginfo=text, **metadata)
        folder = self.import_images(tmp_path)
        assert sorted(p.name for p in folder.iterdir()) == ["0000.mask.png", "0000.png", "0001.png"]
        for path in folder.iterdir():
            data = path.read_bytes()
            chunk_types, offset = set(), 8
            while offset < len(data):
                (length,) = struct.unpack(">I", data[offset : offset + 4])
                chunk_types.add(data[offset + 4 : offset + 8])
                offset += length + 12
            assert chunk_types == {b"IHDR", b"IDAT", b"IEND"}, path.name

    def test_copies_have_the_same_pixels(self, source_folder, tmp_path):
        image = quarters().convert("RGBA")
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        saved(source_folder / "a.png", image)
        assert_close(Image.open(self.import_images(tmp_path) / "0000.png"), image, 0)

    def test_copies_and_masks_are_limited_to_2048_pixels(self, source_folder, tmp_path):
        saved(source_folder / "a.png", quarters(2500, 1250))
        saved(source_folder / "a.mask.png", Image.linear_gradient("L"))
        saved(source_folder / "b.jpg", quarters(20, 4100))
        folder = self.import_images(tmp_path)
        sizes = {path.name: Image.open(path).size for path in folder.iterdir()}
        assert sizes == {"0000.png": (2048, 1024), "0000.mask.png": (2048, 1024), "0001.png": (10, 2048)}

    def test_captions_are_copied_and_unreadable_images_skipped(self, source_folder, tmp_path):
        saved(source_folder / "a.png", quarters())
        (source_folder / "a.txt").write_text("a café", encoding="utf-8")
        (source_folder / "b.png").write_bytes(b"broken")
        saved(source_folder / "c.png", quarters())
        (source_folder / "c.mask.png").write_bytes(b"broken")
        saved(source_folder / "d.png", quarters())
        run_examples = load_examples(self.import_images(tmp_path, "txt"), self.settings())
        assert [(e.path.name, e.caption) for e in run_examples] == [("0000.png", "a café"), ("0003.png", "")]

    def test_copies_are_made_once(self, source_folder, tmp_path):
        saved(source_folder / "a.png", quarters())
        copy = self.import_images(tmp_path) / "0000.png"
        before = copy.read_bytes()
        (source_folder / "a.png").unlink()
        self.import_images(tmp_path)
        assert copy.read_bytes() == before

    def test_interrupted_import_leaves_nothing(self, source_folder, tmp_path):
        for name in "abc":
            saved(source_folder / f"{name}.png", quarters())
        answers = iter([False, False, True])
        import_images(source_folder, "none", tmp_path / "images", lambda: next(answers))
        assert not (tmp_path / "images").exists()
        assert len([*self.import_images(tmp_path).iterdir()]) == 3
        assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "source"]

    def test_examples_follow_the_settings(self, source_folder, tmp_path):
        saved(source_folder / "a.png", quarters(600, 300))
        saved(source_folder / "a.mask.png", quarters(600, 300).convert("L"))
        folder = self.import_images(tmp_path)
        (example,) = load_examples(folder, self.settings())
        assert (example.size, example.mask_path, example.use_masks) == ((64, 64), folder / "0000.mask.png", True)
        (bucketed,) = load_examples(folder, self.settings(buckets=True, masks=False))
        assert (bucketed.size, bucketed.mask_path, bucketed.use_masks) == ((88, 48), None, False)

    def test_missing_images_are_an_error(self, tmp_path):
        with pytest.raises(UnusableFile, match="pictures are gone"):
            load_examples(tmp_path / "images", self.settings())


def test_broken_decoder_is_logged_and_costs_its_own_format_alone(tmp_path, monkeypatch, caplog):
    (tmp_path / "pillow_jxl.py").write_text("raise OSError('no library')")
    monkeypatch.syspath_prepend(tmp_path)
    decoders.available_formats.cache_clear()
    try:
        assert {"PNG", "JPEG", "WEBP"} <= set(decoders.available_formats())
    finally:
        decoders.available_formats.cache_clear()
    assert "pillow_jxl is installed and cannot be used" in caplog.text
    assert "no library" in caplog.text
