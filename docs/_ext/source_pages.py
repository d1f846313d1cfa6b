"""Links from Markdown to files of the repository that are no pages lead to the highlighted text of the file.

MyST makes a download of such a link; a reader wants to look at it.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder
from sphinx.environment import BuildEnvironment

FOLDER = "_source"
LEXERS = {".cu": "cuda", ".cuh": "cuda", ".h": "cpp"}


def link_to_pages(app: Sphinx, doctree: nodes.document) -> None:
    """Replace downloads of files of the repository by links to their pages, and remember the files."""
    if not isinstance(app.builder, StandaloneHTMLBuilder):
        return
    docname = app.env.docname
    for node in list(doctree.findall(addnodes.download_reference)):
        relative, _ = app.env.relfn2path(node["reftarget"], docname)
        page = f"{FOLDER}/{relative}"
        files_of(app.env).setdefault(docname, set()).add(relative)
        # From the page's own folder up to the site, then down: docnames are paths from the site's root.
        uri = "../" * docname.count("/") + app.builder.get_target_uri(page)
        node.replace_self(nodes.reference("", "", *node.children, refuri=uri, internal=True))


def files_of(env: BuildEnvironment) -> dict[str, set[str]]:
    """The files linked from each page; kept with the environment."""
    if not hasattr(env, "source_page_files"):
        env.source_page_files = {}  # type: ignore[attr-defined]
    files: dict[str, set[str]] = env.source_page_files  # type: ignore[attr-defined]
    return files


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    files_of(env).pop(docname, None)


def merge(app: Sphinx, env: BuildEnvironment, docnames: list[str], other: BuildEnvironment) -> None:
    files_of(env).update(files_of(other))


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """One page for every linked file."""
    assert isinstance(app.builder, StandaloneHTMLBuilder)
    for relative in sorted(set().union(*files_of(app.env).values())):
        path = Path(app.srcdir) / relative
        code = path.read_text(encoding="utf-8")
        body = app.builder.highlighter.highlight_block(code, lexer_of(path), linenos="inline")
        yield f"{FOLDER}/{relative}", {"title": relative, "body": f"<h1>{escape(relative)}</h1>\n{body}"}, "page.html"


def lexer_of(path: Path) -> str:
    try:
        return LEXERS.get(path.suffix) or get_lexer_for_filename(path.name).aliases[0]
    except ClassNotFound:
        return "text"


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", link_to_pages)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True}
