"""HTML and SVG put together from Python, with everything escaped that is not markup already."""

from __future__ import annotations

import html
from collections.abc import Iterable

_VOID = frozenset({"img", "meta", "br", "line", "path", "polyline", "polygon", "rect"})
"""Elements without content, of HTML and of SVG; both write them the same way here."""


class Html(str):
    """Markup. Any other text is escaped where it is put into an element."""

    __slots__ = ()


def join(parts: Iterable[str]) -> Html:
    """The parts one after another; those that are no markup are escaped."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part, quote=False) for part in parts))


def element(name: str, /, *children: str, **attributes: object) -> Html:
    """An element. Underscores in attributes' names stand for hyphens, one at the end for none; None leaves an attribute out.

    >>> element("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    texts = (
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    opening = f"<{name}{''.join(texts)}>"
    if name in _VOID:
        return Html(opening[:-1] + "/>")
    return Html(f"{opening}{join(children)}</{name}>")


def page(title: str, style: str, *body: str) -> str:
    """A whole page that needs no other file and runs no script."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">'),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(style)),
    )
    return f"<!doctype html>\n{element('html', head, element('body', element('main', *body)), lang='en')}\n"
