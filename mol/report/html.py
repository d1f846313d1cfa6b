"""The frame of report pages: sections, contents, one document that needs nothing from outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mol.pictures.markup import Markup, element
from mol.report.style import STYLE


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
