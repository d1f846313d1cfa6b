"""The numbers of a report as files: CSV for programs, LaTeX for papers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mol.common.storage import write_csv, write_text
from mol.loso_scores import ERRORS, SCORES
from mol.report.runs import TITLES, UNITS, LosoRun, Spread

# What goes into a paper's table; the rest stands in the CSV.
PRINTED = (*SCORES, "epe_px", "nme")

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
}


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return re.sub("|".join(map(re.escape, _SPECIAL)), lambda found: _SPECIAL[found.group()], text)


def latex_table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str, label: str) -> str:
    """A LaTeX table (package booktabs) of plain text cells, the first column to the left.

    Args:
        head, rows: plain text; everything is escaped here.
        caption, label: of the table.
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


def plain(spread: Spread, name: str) -> str:
    """``0.812 ± 0.010``, errors in their unit; the deviation where there is one."""
    scale, digits = (UNITS[name].scale, UNITS[name].digits) if name in UNITS else (1, 3)
    text = f"{spread.mean * scale:.{digits}f}"
    return text if spread.deviation is None else f"{text} ± {spread.deviation * scale:.{digits}f}"


def heading(name: str) -> str:
    """Of a score or error, with its unit."""
    return f"{UNITS[name].title} ({UNITS[name].name})" if name in UNITS else TITLES[name]


def write_run_tables(folder: Path, run: LosoRun) -> None:
    """Write scores.csv, fold-means.csv, scores.tex and a confusion-GROUP.csv for each group."""
    names = (*SCORES, *ERRORS)
    for table, read in (("scores", run.score), ("fold-means", run.fold_mean)):
        rows = [[group, *(text for name in names for text in _texts(read(group, name)))] for group in run.groups]
        write_csv(folder / f"{table}.csv", ["set", *(head for name in names for head in (name, f"{name}_sd"))], rows)
    for group in run.groups:
        counts = [[name, *row] for name, row in zip(run.classes, run.confusion(group).tolist(), strict=True)]
        write_csv(folder / f"confusion-{group}.csv", ["true \\ predicted", *run.classes], counts)
    reportable = f" Not reportable: {'; '.join(run.reasons)}." if run.reasons else ""
    caption = f"Leave-one-subject-out, protocol {run.protocol}, pooled over folds per video.{reportable}"
    rows = [[group, *(plain(run.score(group, name), name) for name in PRINTED)] for group in run.groups]
    text = latex_table(["Set", *map(heading, PRINTED)], rows, caption, f"tab:{run.protocol}")
    write_text(folder / "scores.tex", text)


def _texts(spread: Spread) -> tuple[str, str]:
    return f"{spread.mean:.6f}", "" if spread.deviation is None else f"{spread.deviation:.6f}"
