"""Reading pictures of any kind that people have, and refusing what is none."""

from __future__ import annotations

import codecs
import functools
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lib_ti.errors import UnusableFile

LARGEST = 120_000_000  # pixels; a picture that claims more is a mistake or an attack
LONGEST_SIDE = 2048  # of the copies a run keeps; no training resolution needs more
_COMPANIONS = {".txt", ".json", ".caption", ".npz", ".md", ".csv", ".yaml", ".toml", ".db", ".ini"}
_NUMBER_IN_FRONT = re.compile(r"^[-\d]+\s*")


@dataclass(frozen=True)
class PictureFile:
    """A picture in the user's folder, with what lies beside it."""

    path: Path

    @property
    def mask(self) -> Path | None:
        """NAME.mask.png beside NAME.jpg; also NAME.jpg.mask.png."""
        for stem in (self.path.stem, self.path.name):
            if (path := self.path.with_name(f"{stem}.mask.png")).exists():
                return path
        return None

    @property
    def caption_file(self) -> Path | None:
        path = self.path.with_suffix(".txt")
        return path if path.exists() else None

    def caption(self, source: str) -> str:
        """Its caption from `source`: txt, file-name, or none. Line ends become spaces."""
        if source == "txt" and self.caption_file:
            return " ".join(text_of(self.caption_file.read_bytes()).split())
        if source == "file-name":
            words = _NUMBER_IN_FRONT.sub("", self.path.stem) or self.path.stem
            return " ".join(words.replace("_", " ").split())
        return ""


def text_of(data: bytes) -> str:
    """UTF-8, even if cut off within a letter, or what old Windows programs write."""
    try:
        return codecs.getincrementaldecoder("utf-8-sig")().decode(data)
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def find(folder: Path) -> list[PictureFile]:
    """The files of a folder that are meant to be pictures, by name. Whether they are, `decode` tells."""
    return [PictureFile(path) for path in sorted(folder.iterdir()) if path.is_file() and _meant(path)]


def _meant(path: Path) -> bool:
    return (
        not path.name.startswith(".")
        and not path.name.lower().endswith(".mask.png")
        and path.suffix.lower() not in _COMPANIONS
        and path.name.lower() not in ("thumbs.db", "desktop.ini")
    )


@functools.cache
def _formats() -> tuple[str, ...]:
    """Pillow's readers of pictures. Others of its readers start programs: Ghostscript, for anything that looks like EPS."""
    Image.init()
    wanted = (
        "PNG",
        "JPEG",
        "MPO",
        "WEBP",
        "GIF",
        "BMP",
        "DIB",
        "TIFF",
        "PPM",
        "TGA",
        "ICO",
        "JPEG2000",
        "AVIF",
        "PCX",
        "SGI",
    )
    return tuple(name for name in wanted if name in Image.OPEN)


def check(path: Path) -> tuple[int, int]:
    """Decode a picture whole and return its width and height. Raises UnusableFile."""
    return decode(path).size


def size_of(path: Path) -> tuple[int, int]:
    """Width and height as the file says, without decoding it: for a run's own copies. Raises UnusableFile."""
    try:
        with path.open("rb") as file:
            return Image.open(file, formats=_formats()).size
    except Exception as error:  # as in `decode`
        raise UnusableFile(path, "not a picture that can be read") from error


def decode(path: Path) -> Image.Image:
    """The picture upright, RGB or RGBA with 8 bits a channel; of an animation the first frame. Raises UnusableFile."""
    try:
        with path.open("rb") as file:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's own limit on size is a warning; the limit below is an error
                picture = Image.open(file, formats=_formats())
            if picture.width * picture.height > LARGEST:
                raise UnusableFile(
                    path, f"{picture.width}×{picture.height} pixels is too large; reduce the picture first"
                )
            picture.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))  # a JPEG can be decoded at a half or a quarter, quickly
            upright = ImageOps.exif_transpose(picture)
            return _eight_bits(upright if upright is not None else picture)
    except UnusableFile:
        raise
    except Image.DecompressionBombError as error:
        raise UnusableFile(path, "far too large; reduce the picture first") from error
    except Exception as error:  # decoders of damaged files raise anything: struct.error, ValueError, SyntaxError …
        reason = "truncated" if "truncated" in str(error).lower() else "not a picture that can be read"
        raise UnusableFile(path, reason) from error


def _eight_bits(picture: Image.Image) -> Image.Image:
    mode = picture.mode
    if mode.startswith("I") or mode == "F":
        return _gray(np.asarray(picture).astype(np.float64), deep=mode != "F").convert("RGB")
    if mode in ("RGBA", "LA", "La", "RGBa", "PA") or "transparency" in picture.info:
        return picture.convert("RGBA")
    return picture.convert("RGB")


def _gray(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], deep: bool) -> Image.Image:
    """16-bit and floating-point grays, which Pillow would clip rather than scale."""
    values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
    top = float(values.max(initial=0.0))
    if deep:
        full = 255.0 if top <= 255 else 65535.0 if top <= 65535 else top
    else:
        full = 1.0 if top <= 1 else 255.0 if top <= 255 else top
    return Image.fromarray((values.clip(0, full) / full * 255).round().astype(np.uint8), "L")


def reduced(picture: Image.Image, longest: int = LONGEST_SIDE) -> Image.Image:
    """The picture, no longer than `longest` either way."""
    if max(picture.size) <= longest:
        return picture
    scale = longest / max(picture.size)
    return picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS
    )


def without_metadata(picture: Image.Image) -> Image.Image:
    """Only the pixels: no EXIF, no position, no comments."""
    bare = Image.new(picture.mode, picture.size)
    bare.paste(picture)
    return bare


def fit(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Resized to cover width × height and cropped about the centre."""
    scale = max(width / picture.width, height / picture.height)
    if scale == 1:
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        return picture.crop((left, top, left + width, top + height))
    # cut first: a strip that was resized whole would fill the memory
    x, y = max(0.0, picture.width - width / scale) / 2, max(0.0, picture.height - height / scale) / 2
    box = (x, y, picture.width - x, picture.height - y)
    return picture.resize((width, height), Image.Resampling.LANCZOS, box)


def flatten(picture: Image.Image) -> Image.Image:
    """RGB; what is transparent becomes white, as on paper."""
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    ground = Image.new("RGB", picture.size, (255, 255, 255))
    ground.paste(picture, mask=picture.getchannel("A"))
    return ground


def weight_of(picture: Image.Image, mask: Path | None) -> Image.Image | None:
    """How much each pixel counts ("L"): the mask file's brightness, else the alpha; None where all count alike."""
    if mask is not None:
        weight = flatten(decode(mask)).convert("L").resize(picture.size, Image.Resampling.BILINEAR)
    elif picture.mode == "RGBA":
        weight = picture.getchannel("A")
    else:
        return None
    low, high = weight.getextrema()
    return None if low == high else weight


def aspect_buckets(resolution: int, step: int) -> Iterator[tuple[int, int]]:
    """Sizes of about resolution² pixels whose sides are multiples of `step`, from 1:2 to 2:1."""
    for width in range(max(step, resolution // 2 // step * step), resolution * 2 + 1, step):
        height = max(step, round(resolution * resolution / width / step) * step)
        if 0.5 <= width / height <= 2:
            yield from {(width, height), (height, width)}


def bucket_of(size: tuple[int, int], resolution: int, step: int) -> tuple[int, int]:
    """The bucket (width, height) whose shape is nearest to a picture's."""
    shape = np.log(size[0] / size[1])
    return min(
        {*aspect_buckets(resolution, step), (resolution, resolution)}, key=lambda b: abs(np.log(b[0] / b[1]) - shape)
    )
