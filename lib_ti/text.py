"""Text from outside: whether it can be stored, and how it can be printed."""

from __future__ import annotations


def is_encodable(text: str) -> bool:
    """Whether text has a UTF-8 form; a command line in another encoding arrives with lone surrogates, which have none."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def printable(text: str) -> str:
    r"""Text from a file or a file's name, with control characters escaped, so that it cannot steer a terminal.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(c if c.isprintable() or not is_encodable(c) else repr(c)[1:-1] for c in text)
