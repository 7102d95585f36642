"""Seeds derived from what they are used for.

Every random number of a training comes from a seed that names (seed, purpose, step, index in the batch). So a resumed run
draws the same numbers as an uninterrupted one, gradient accumulation the same as one large batch, and no generator's state
has to be saved.
"""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Hash all parts into a seed in 0 .. 2⁶³-1, the same on every machine."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
