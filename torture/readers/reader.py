"""A reader and the examples that are tried on it: a valid folder, some edits, and the function that reads it."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from mol.common.errors import MOLError
from torture import sandbox
from torture.outcome import Outcome
from torture.readers.edits import Edit, Edits
from torture.sandbox import Limits
from torture.unit import Session, Unit

# Edits after which the file must be refused: a text is no film, whatever it names.
MUST_REFUSE = frozenset({"content"})
# Edits after which the file must be read like any other.
MUST_READ = frozenset({"rename"})


Variants = Mapping[str, Callable[[Path, Path], object]]
"""Valid folders by name, each a function (materials, folder) that makes one."""


@dataclass(frozen=True)
class Reader:
    """A function that reads files, and what it is tried on.

    Attributes:
        name: in the table.
        target: examples in half an hour.
        seconds: of processor time that these take, roughly.
        read: reads the example in the current folder.
        variants: what the examples are made of.
        edits: what may be done to a valid folder.
        mend: makes checksums right again, so that edits are not all refused by them; None if there are none.
        prepare: imports what `read` needs, before processes are forked.
        limits: of one example.
    """

    name: str
    target: int
    seconds: float
    read: Callable[[], object]
    variants: Variants
    edits: Callable[[Path], Edits]
    mend: Callable[[Path], object] | None = None
    prepare: Callable[[], object] = lambda: None
    limits: Limits = field(default_factory=Limits)

    def with_(self, **changes: Any) -> Reader:
        """This reader with some attributes changed."""
        return replace(self, **changes)

    def unit(self) -> Unit:
        """This reader as a unit of the campaign."""
        return Unit("readers", self.name, self.target, self.seconds, partial(_fuzz, self), partial(_repeat, self))


def _fuzz(reader: Reader, session: Session) -> None:
    """Draw examples with Hypothesis until enough were tried."""
    reader.prepare()
    bases, strategies = {}, []
    for name, make in reader.variants.items():
        bases[name] = session.work / "bases" / name
        bases[name].mkdir(parents=True)
        make(session.materials, bases[name])
        lists = st.lists(reader.edits(bases[name]), min_size=1, max_size=3)
        strategies.append(st.tuples(st.just(name), lists, st.booleans()))
    for base in bases.values():
        _import_what_is_read(reader, session, base)
    gc.collect()
    gc.freeze()  # what is there now is not looked at again in every process that is forked
    session.begin()
    for name, base in bases.items():
        outcomes = [_tried(reader, session, base, [], False)]
        if outcomes[0].kind == "hung":  # on a machine that does much else; an example that hangs is counted
            outcomes.append(_tried(reader, session, base, [], False))
        if outcomes[-1].kind != "result":
            raise RuntimeError(f"{reader.name}: the valid example {name} is not read: {', '.join(map(str, outcomes))}")
    round_ = 0
    while session.goes_on():  # Hypothesis ends early where it finds nothing new to draw
        before = session.done
        _examples(reader, session, bases, st.one_of(strategies), round_)
        round_ += 1
        if session.done == before and session.goes_on():
            session.note("no new examples are left to draw")
            break


def _import_what_is_read(reader: Reader, session: Session, base: Path) -> None:
    """Import whatever reading a valid example imports, once here instead of in every process that is forked."""

    def read() -> None:
        before = set(sys.modules)
        try:
            reader.read()
        finally:
            Path("modules").write_text("\n".join(set(sys.modules) - before))

    box = _fresh_box(session.work)
    shutil.copytree(base, box / "example", symlinks=True)
    sandbox.run(read, box, box / "example", reader.limits, (MOLError,))
    found = box / "example" / "modules"
    for name in found.read_text().split() if found.is_file() else ():
        with suppress(Exception):  # some are only made, not found
            import_module(name)


def _examples(
    reader: Reader,
    session: Session,
    bases: Mapping[str, Path],
    strategy: st.SearchStrategy[tuple[str, list[Edit], bool]],
    round_: int,
) -> None:
    @seed(session.seed + round_)
    @settings(
        max_examples=max(1, session.target - session.done),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def example(drawn: tuple[str, list[Edit], bool]) -> None:
        if not session.goes_on():
            return
        name, done, mended = drawn
        outcome = _tried(reader, session, bases[name], done, mended)
        if session.count(outcome):
            done, outcome = _shortest(reader, session, bases[name], done, mended, outcome)
            case = {"variant": name, "edits": [one.to_json() for one in done], "mended": mended}
            session.keep(outcome, case, session.work / "box" / "example")

    example()


def _shortest(
    reader: Reader, session: Session, base: Path, edits: list[Edit], mended: bool, outcome: Outcome
) -> tuple[list[Edit], Outcome]:
    """As few of the edits as give the same outcome; the folder of the example is left as they make it."""
    kept = list(edits)
    for one in edits:
        fewer = [other for other in kept if other is not one]
        if fewer and _tried(reader, session, base, fewer, mended).key == outcome.key:
            kept = fewer
    # The same once more, for the files; what is only seen at times keeps what was said of it first.
    again = _tried(reader, session, base, kept, mended)
    return kept, again if again.key == outcome.key else outcome


def _tried(reader: Reader, session: Session, base: Path, edits: Sequence[Edit], mended: bool) -> Outcome:
    """Make the example and read it."""
    box = _fresh_box(session.work)
    example = box / "example"
    shutil.copytree(base, example, symlinks=True)
    made = [one for one in edits if one.apply(example)]
    if mended and reader.mend is not None:
        reader.mend(example)
    return _judged(sandbox.run(reader.read, box, example, reader.limits, (MOLError,)), made)


def _judged(outcome: Outcome, edits: Sequence[Edit]) -> Outcome:
    """The outcome, in the light of what had to come out."""
    if not edits:
        return outcome
    what = {one.what for one in edits}
    if outcome.kind == "result" and edits[-1].what in MUST_REFUSE:
        return Outcome("wrong", "read as if valid", str(edits[-1].arguments), edits[-1].what)
    if outcome.kind == "refused" and what <= MUST_READ:
        return Outcome("wrong", "valid but refused", outcome.message, edits[-1].what)
    return outcome


def _fresh_box(work: Path) -> Path:
    """A folder with the place of an example in it, and a neighbour that must not change."""
    box = work / "box"
    if box.exists():
        for folder, _, _ in os.walk(box):
            os.chmod(folder, 0o755)
        shutil.rmtree(box)
    (box / "victim").mkdir(parents=True)
    (box / "victim" / "file").write_text("nobody may write here\n")
    return box


def _repeat(reader: Reader, session: Session, case: Mapping[str, Any], files: Path | None) -> Outcome:
    """Read the files of a reproducer."""
    reader.prepare()
    base = session.work / "base"
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    reader.variants[case["variant"]](session.materials, base)  # some readers also learn there what does not vary
    box = _fresh_box(session.work)
    example = box / "example"
    if files is None:
        raise FileNotFoundError("the reproducer holds no files")
    shutil.copytree(files, example, symlinks=True, copy_function=_copy)
    edits = [Edit(**one) for one in case["edits"]]
    return _judged(sandbox.run(reader.read, box, example, reader.limits, (MOLError,)), edits)


def _copy(source: str, target: str) -> None:
    """Like shutil's, but a named pipe is made and not read."""
    if Path(source).is_fifo():
        os.mkfifo(target)
    else:
        shutil.copy2(source, target, follow_symlinks=False)
