"""Pictures as the trainer will see them: cut to size, and with what a mask leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_ti.errors import UnusableFile
from lib_ti.webui.images.thumbnails import encoded

SHOWN = 256  # pixels
MOST = 60  # pictures; more make no clearer view


def views(
    folder: Path, shown: Mapping[str, Mapping[str, Any]], side: int, buckets: bool, masks: bool
) -> list[dict[str, Any]]:
    """For each picture its size in training, the cut, and its mask where it has one that counts."""
    from lib_ti.data import images
    from lib_ti.training.import_images import bucket_step

    made = []
    for number, about in list(shown.items())[:MOST]:
        path = folder / f"{number}.png"
        try:
            picture = images.decode(path)
            size = images.bucket_of(picture.size, side, bucket_step(side)) if buckets else (side, side)
            mask_file = folder / f"{number}.mask.png"
            mask = images.weight_of(picture, mask_file if mask_file.exists() else None) if masks else None
        except UnusableFile:
            continue
        small = max(size) / min(SHOWN, max(size))
        at = (max(1, round(size[0] / small)), max(1, round(size[1] / small)))
        made.append({
            "id": number, "name": about["name"], "width": size[0], "height": size[1],
            "image": encoded(images.flatten(images.fit(picture, *at)), SHOWN),
            "mask": encoded(images.fit(mask, *at), SHOWN) if mask is not None else None,
        })  # fmt: skip
    return made
