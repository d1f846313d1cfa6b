"""Reads the generated parts of Markdown pages."""

from __future__ import annotations


def generated_part(page: str, name: str) -> str:
    """The text between the comments of this name, without blank lines around it."""
    (text,) = (rest.partition(f"<!-- {name}: end -->")[0] for rest in page.split(f"<!-- {name}: start -->")[1:])
    return text.strip("\n")
