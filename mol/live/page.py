"""The page and its files, made once when the server starts."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from mol.pictures.markup import Markup, element
from mol.pictures.page_style import PAGE_STYLE
from mol.viewer.page import class_colours

Assets = dict[str, tuple[bytes, str]]
"""Name in the address → content and media type."""

_SHARED = ("data.js", "stage.js")
_OWN = ("chart.js", "camera.js", "link.js", "live.js")
SCRIPTS = _SHARED + _OWN
"""In the order in which the page loads them."""


def make_assets(classes: Sequence[str]) -> Assets:
    """The page, its style for so many classes and its scripts; nothing else is ever served."""
    style = PAGE_STYLE + class_colours(len(classes)) + _text("mol.viewer", "viewer.css") + _text("mol.live", "live.css")
    scripts = Markup("\n".join(element("script", src=name, defer=True) for name in SCRIPTS))
    page = _text("mol.live", "live.html").replace("<!-- scripts -->", scripts)
    found = {"live.html": (page.encode(), "text/html"), "live.css": (style.encode(), "text/css")}
    for name in SCRIPTS:
        package = "mol.viewer" if name in _SHARED else "mol.live"
        found[name] = (("'use strict';\n" + _text(package, name)).encode(), "text/javascript")
    return found


def refusal_page(why: str) -> str:
    """What a browser shows whose request was refused."""
    return "<!doctype html>\n" + element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", "MOL live: refused"),
            element("style", Markup(PAGE_STYLE)),
        ),
        element(
            "body",
            element(
                "header",
                element("p", "MOL · live", class_="eyebrow"),
                element("h1", "This page is not shown"),
                element("p", f"The request was refused: {why}.", class_="lead"),
            ),
            element(
                "main",
                element(
                    "p",
                    "The live view is open to whoever has its whole address, which ends in a token that is new each "
                    "time. Copy the address from the terminal in which ",
                    element("code", "mol live"),
                    " runs, and open it in a browser on the same machine. If the terminal is gone, start ",
                    element("code", "mol live"),
                    " again.",
                ),
            ),
        ),
        lang="en",
    )


def _text(package: str, name: str) -> str:
    return resources.files(package).joinpath("assets", name).read_text(encoding="utf-8")
