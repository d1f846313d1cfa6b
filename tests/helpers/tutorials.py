"""Markdown pages that can be run: their blocks of code, and what the blocks are said to print.

python tests/helpers/tutorials.py PAGE [HEADING]    # run a page here, up to a heading if one is given
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mol.cli import main

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANYTHING = "…"


@dataclass(frozen=True)
class Step:
    """One block of Python, or one command of a console block.

    Attributes:
        kind: "python" or "console".
        code: the block, or the command without its prompt.
        output: what the page says that it prints; `ANYTHING` in a line stands for a part of it, alone for any lines.
        line: of the page, for messages.
    """

    kind: str
    code: str
    output: str
    line: int


def read_steps(page: Path, until: str | None = None) -> list[Step]:
    """The steps of a page from its top, to the heading `until` if one is given.

    Raises:
        ValueError: the heading is missing, or a block is none that can be run or compared.
    """
    text = page.read_text(encoding="utf-8")
    if until is not None:
        if f"\n{until}\n" not in text:
            raise ValueError(f"{page} has no heading {until!r}")
        text = text.partition(f"\n{until}\n")[0]
    steps: list[Step] = []
    for match in BLOCK.finditer(text):
        kind, content = match.groups()
        line = text.count("\n", 0, match.start()) + 2
        if kind == "python":
            steps.append(Step(kind, content, "", line))
        elif kind == "text" and steps and steps[-1].kind == "python" and not steps[-1].output:
            steps[-1] = Step("python", steps[-1].code, content, steps[-1].line)
        elif kind == "console" and content.startswith("$ "):
            steps += _commands(content, line)
        else:
            raise ValueError(f"{page}:{line}: a block {kind!r} here can't be run or compared")
    return steps


def _commands(content: str, line: int) -> Iterator[Step]:
    for command in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", content, re.MULTILINE):
        yield Step("console", command[1], command[2], line + content.count("\n", 0, command.start()))


def run_steps(page: Path, steps: list[Step], folder: Path) -> None:
    """Run the steps in one namespace and one folder.

    Raises:
        AssertionError: a step printed something else than the page says, or failed where the page doesn't say so.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    with _working_in(folder):
        for step in steps:
            where = f"{page.name}:{step.line}"
            if step.kind == "python":
                printed, failed = _run_python(step, page, names), False
            else:
                printed, failed = _run_command(step.code)
            assert failed == bool(re.search(r"^error: ", step.output, re.MULTILINE)), f"{where}: {printed}"
            assert matches(step.output, printed), f"{where} says\n\n{step.output}\nand printed\n\n{printed}"


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    # contextlib.chdir needs Python 3.11.
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _run_python(step: Step, page: Path, names: dict[str, object]) -> str:
    # Blank lines in front, so that a traceback names the line of the page.
    code = compile("\n" * (step.line - 1) + step.code, str(page), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    return printed.getvalue()


def _run_command(line: str) -> tuple[str, bool]:
    """What a command prints on both streams, and whether it failed; `mol` runs in this process, for its imports."""
    words = shlex.split(line)
    if words[0] != "mol":
        done = subprocess.run(["bash", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.stdout, done.returncode != 0
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        failed = main(words[1:]) != 0
    return printed.getvalue(), failed


def matches(said: str, printed: str) -> bool:
    """Whether a page's words fit an output; spaces at the end of a line don't count."""
    pattern = ""
    for line in said.splitlines():
        if line.strip() == ANYTHING:
            pattern += r"(?:[^\n]*\n)*?"
        else:
            pattern += re.escape(line.rstrip()).replace(re.escape(ANYTHING), r"[^\n]*") + r"\n"
    lines = "".join(f"{line.rstrip()}\n" for line in printed.splitlines())
    return re.fullmatch(pattern, lines) is not None


if __name__ == "__main__":
    page = Path(sys.argv[1]).resolve()
    run_steps(page, read_steps(page, *sys.argv[2:]), Path.cwd())
