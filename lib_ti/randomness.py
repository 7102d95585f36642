"""Random numbers as a function of what they are for.

Every draw of a training is named by (seed, purpose, step, index in the global batch). So a resumed run draws what an
uninterrupted one would, accumulation draws what one large batch would, and no generator's state is ever saved.
"""

from __future__ import annotations

import hashlib


def derive(*parts: int | str) -> int:
    """A number in 0 .. 2⁶³-1 that depends on all parts, the same on every machine."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
