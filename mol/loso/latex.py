"""Tables for papers (LaTeX, package booktabs)."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    # After the end of a row these would be its options.
    **{character: f"{{{character}}}" for character in "[]*"},
}


def escape_latex(text: str) -> str:
    """Escape text, so that LaTeX prints it as it is, in one line and without control characters."""
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).split())
    return re.sub("|".join(map(re.escape, _SPECIAL)), lambda found: _SPECIAL[found.group()], line)


def latex_table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str, label: str) -> str:
    """A table for package booktabs, its first column aligned to the left and the others to the right.

    Args:
        head, rows, caption: plain text; it is escaped here.
        label: for references to the table.
    """
    lines = [" & ".join(map(escape_latex, row)) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{escape_latex(caption)}}}",
            rf"  \label{{{re.sub(r'[^A-Za-z0-9:-]', '-', label)}}}",
            rf"  \begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"    \toprule",
            "    " + " & ".join(map(escape_latex, head)) + r" \\",
            r"    \midrule",
            *(f"    {line}" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )
