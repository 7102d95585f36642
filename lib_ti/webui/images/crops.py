"""Show images as they will be trained on: resized and cropped, with their masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_ti.errors import UnusableFile
from lib_ti.webui.images.thumbnails import encode_thumbnail

PREVIEW_SIDE = 256  # pixels
MAX_PREVIEWS = 60


def preview_crops(
    folder: Path, records: Mapping[str, Mapping[str, Any]], resolution: int, use_buckets: bool, use_masks: bool
) -> list[dict[str, Any]]:
    """For each image of a draft its training size, the crop, and the mask where it has an effect.

    Args:
        folder: of the draft.
        records: of its images by id, as in `Draft.images`.
        resolution: that is trained at.
        use_buckets: whether images keep their shape.
        use_masks: whether masks and alpha channels weight the loss.
    """
    from lib_ti.data import buckets, images

    previews = []
    for image_id, record in list(records.items())[:MAX_PREVIEWS]:
        size = (resolution, resolution)
        try:
            image = images.decode(folder / f"{image_id}.png")
            if use_buckets:
                size = buckets.select_bucket(image.size, resolution, buckets.bucket_step(resolution))
            mask_path = folder / f"{image_id}.mask.png"
            mask = images.read_mask(image, mask_path if mask_path.exists() else None) if use_masks else None
        except UnusableFile:
            continue
        scale = max(size) / min(PREVIEW_SIDE, max(size))
        preview_size = (max(1, round(size[0] / scale)), max(1, round(size[1] / scale)))
        crop = images.flatten(images.resize_and_crop(image, *preview_size))
        mask_crop = None if mask is None else images.resize_and_crop(mask, *preview_size)
        previews.append({
            "id": image_id, "name": record["name"], "width": size[0], "height": size[1],
            "image": encode_thumbnail(crop, PREVIEW_SIDE),
            "mask": None if mask_crop is None else encode_thumbnail(mask_crop, PREVIEW_SIDE),
        })  # fmt: skip
    return previews
