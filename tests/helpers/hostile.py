"""Names that a file from a stranger may hold, and that something takes for more than a name."""

from __future__ import annotations

# Paths, formulas of matplotlib and LaTeX, markup and emoji of rich, HTML, formulas of spreadsheets, control characters.
NAMES = (
    "x/../../../victim/evil",
    "/tmp/victim",
    r"$\foo$",
    "a$b$^{c",
    "[/x]",
    "[bold]b[/bold]",
    ":smile:",
    "</script><img src=x onerror=alert(1)>",
    '=HYPERLINK("http://example.org")',
    "@SUM(A1)",
    "-1+1",
    "+1",
    "'=1",
    "\tx",
    "\x1b[31mred\x1b]0;title\x07",
    "100%_&#{",
    "two\nlines",
    "\u202eabc",
    "_hidden",
    "*",
    "微" * 100,
)
