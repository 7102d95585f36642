"""Batches of equal image size, as a function of the seed and the step alone, so that a resumed run goes on identically."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator, Sequence

from lib_ti.randomness import derive_seed


def sample_batches(buckets: Sequence[Hashable], batch_size: int, seed: int, start_step: int = 0) -> Iterator[list[int]]:
    """Yield the image indices of each step from `start_step` on, without end.

    Each epoch goes through all images in a new order. An image joins the pending batch of its bucket, which is yielded once
    it is full. Batches may span epochs, so images of small buckets are used as often as all others.

    Args:
        buckets: of each image; a batch holds images of one bucket.
        batch_size: images per step.
        seed: of the order.
        start_step: steps that a resumed run has done already.
    """
    pending: dict[Hashable, list[int]] = {bucket: [] for bucket in buckets}
    step, epoch = 0, 0
    while True:
        order = list(range(len(buckets)))
        random.Random(derive_seed(seed, "order", epoch)).shuffle(order)
        epoch += 1
        for index in order:
            batch = pending[buckets[index]]
            batch.append(index)
            if len(batch) == batch_size:
                if step >= start_step:
                    yield list(batch)
                step += 1
                batch.clear()
