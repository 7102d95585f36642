"""Text from and for the user: what can be stored, what can be printed, and how an option is written."""

from __future__ import annotations


def is_encodable(text: str) -> bool:
    """Whether text can be encoded as UTF-8; a command line in another encoding arrives with lone surrogates, which cannot."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def printable(text: str) -> str:
    r"""Escape the control characters of text from a file or a file's name, which could otherwise steer a terminal.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(c if c.isprintable() or not is_encodable(c) else repr(c)[1:-1] for c in text)


def option_flag(name: str) -> str:
    """The command-line flag of a setting.

    >>> option_flag("preview_every")
    '--preview-every'
    """
    return "--" + name.replace("_", "-")


def unquoted(path: str) -> str:
    """A path without the quotes that file managers put around it, and without spaces outside of them.

    >>> unquoted(' "/my pictures" ')
    '/my pictures'
    """
    stripped = path.strip()
    for first, last in (('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"), ("«", "»")):
        if len(stripped) > 1 and stripped[0] == first and stripped[-1] == last:
            return stripped[1:-1].strip()
    return path
