"""Which pictures make up each step's batch."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator, Sequence

from lib_ti.randomness import derive


def batches(groups: Sequence[Hashable], size: int, seed: int, start: int = 0) -> Iterator[list[int]]:
    """For each step from `start` on, the indices of its `size` pictures, all of one group (bucket).

    Pictures are dealt in rounds, each round a new shuffle of all. A step comes due when its group has been dealt enough
    pictures, so each picture is used as often as any other, in small groups too.
    """
    dealt: dict[Hashable, list[int]] = {group: [] for group in groups}
    done, turn = 0, 0
    while True:
        order = list(range(len(groups)))
        random.Random(derive(seed, "order", turn)).shuffle(order)
        turn += 1
        for picture in order:
            hand = dealt[groups[picture]]
            hand.append(picture)
            if len(hand) == size:
                if done >= start:
                    yield list(hand)
                done += 1
                hand.clear()
