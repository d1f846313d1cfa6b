"""HTML that is safe by construction: elements escape their text."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any

_VOID = frozenset({"br", "hr", "img", "meta"})


class Markup(str):
    """Text that is HTML already; every other text is escaped when it becomes a child of an element."""


def element(_name: str, *children: Any, **attributes: Any) -> Markup:
    """One HTML (or SVG) element.

    Args:
        children: `Markup` as it is, other values escaped as text, lists flattened, None left out.
        attributes: underscores become hyphens, a trailing one is dropped (``class_``); None and False are left out,
            True gives an attribute without a value.
    """
    written = "".join(_attribute(name, value) for name, value in attributes.items() if value not in (None, False))
    return Markup(f"<{_name}{written}>" + ("" if _name in _VOID else f"{join(children)}</{_name}>"))


def _attribute(name: str, value: Any) -> str:
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value), quote=True)}"'


def join(children: Iterable[Any]) -> Markup:
    """Children one after another, escaped if they are not `Markup`."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, (list, tuple)):
            parts.append(join(child))
        else:
            parts.append(html.escape(str(child), quote=False))
    return Markup("".join(parts))


def data_uri(content: bytes, kind: str) -> str:
    """A ``data:`` URI; `kind` is a media type such as ``"image/png"``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def table(head: Sequence[Any], rows: Sequence[Sequence[Any]], caption: str, class_: str = "numbers") -> Markup:
    """A table whose first column names its rows; it scrolls sideways in its own box if the page is narrow.

    Args:
        head: column heads, the first for the names of the rows.
        rows: cells; the first of each row is its head.
        caption: what the table is.
        class_: ``"numbers"`` aligns all but the first column to the right, ``"words"`` to the left.
    """
    heads = element("tr", [element("th", text, scope="col") for text in head])
    body = [
        element("tr", element("th", row[0], scope="row"), [element("td", cell) for cell in row[1:]]) for row in rows
    ]
    content = element(
        "table", element("caption", caption), element("thead", heads), element("tbody", body), class_=class_
    )
    return element("div", content, class_="scroll", role="region", aria_label=caption, tabindex="0")


def facts(pairs: Iterable[tuple[str, Any]], class_: str = "facts") -> Markup:
    """A list of names and values."""
    return element(
        "dl",
        [element("div", element("dt", name), element("dd", value)) for name, value in pairs],
        class_=class_,
    )


def banner(title: str, reasons: Sequence[str], class_: str = "warning") -> Markup:
    """A box that cannot be overlooked, on the screen and on paper."""
    return element(
        "div",
        element("strong", title),
        element("ul", [element("li", reason) for reason in reasons]) if reasons else None,
        class_=f"banner {class_}",
        role="note",
    )
