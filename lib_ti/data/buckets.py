"""Aspect-ratio buckets: the sizes that images are trained at where they keep their shape.

The sides are multiples of a step and the areas about equal, as in NovelAI's aspect ratio bucketing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def bucket_step(resolution: int) -> int:
    """What the sides of buckets are multiples of: 64 pixels, or an eighth of a small resolution."""
    return 64 if resolution >= 512 else max(8, resolution // 64 * 8)


def aspect_buckets(resolution: int, step: int) -> Iterator[tuple[int, int]]:
    """Sizes (width, height) of about resolution² pixels, from 1:2 to 2:1."""
    for width in range(max(step, resolution // 2 // step * step), resolution * 2 + 1, step):
        height = max(step, round(resolution * resolution / width / step) * step)
        if 0.5 <= width / height <= 2:
            yield from {(width, height), (height, width)}


def select_bucket(size: tuple[int, int], resolution: int, step: int) -> tuple[int, int]:
    """The bucket (width, height) whose aspect ratio is nearest to that of an image of `size`."""
    aspect = np.log(size[0] / size[1])
    buckets = {*aspect_buckets(resolution, step), (resolution, resolution)}
    return min(buckets, key=lambda bucket: abs(np.log(bucket[0] / bucket[1]) - aspect))
