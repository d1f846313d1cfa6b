"""HTML that is safe by construction: elements escape their text, and the page needs nothing from outside."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mol.report.style import STYLE

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


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        anchor: for links to it.
        title: in the contents and above it.
        content: the whole element.
    """

    anchor: str
    title: str
    content: Markup


def section(title: str, note: Any, *content: Any) -> Section:
    """A part of a page: its title and a short note at the side, its content beside them."""
    anchor = title.lower().replace(" ", "-")
    markup = element(
        "section",
        element("div", element("h2", title), element("p", note) if note else None, class_="side"),
        element("div", *content, class_="main"),
        id=anchor,
    )
    return Section(anchor, title, markup)


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


def page(title: str, header: Markup, sections: Sequence[Section], footer: str) -> str:
    """A whole document: header, contents, sections, footer; styles inside, no scripts, nothing loaded.

    Args:
        title: of the browser's window.
        header: what comes above the contents.
        sections: in order.
        footer: the last line.
    """
    links = [element("a", section.title, href=f"#{section.anchor}") for section in sections]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        # So that the page loads nothing even if a name in the data were taken for markup.
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        ),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    body = element(
        "body",
        header,
        element("nav", links, aria_label="Contents"),
        element("main", [section.content for section in sections]),
        element("footer", footer),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"
