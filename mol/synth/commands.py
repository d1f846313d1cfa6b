"""``mol synth``: its settings and its output."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path

from mol.common.names import shortened
from mol.common.terminal import counting, say, saying_when_stopped
from mol.pictures.contact_sheet import contact_sheet
from mol.synth.clip_plan import SynthSettings
from mol.synth.layout_plan import LayoutSettings
from mol.synth.layouts import LAYOUTS, write_layout
from mol.synth.long_plan import LongSettings
from mol.synth.long_set import LAYOUT as LONG
from mol.synth.long_set import write_long
from mol.synth.synthetic_set import synthesize

_CONTINUE = "stopped; the rendered clips are kept. Run the same command again to continue."


@dataclass(frozen=True)
class SynthConfig(SynthSettings):
    """Where a synthetic set goes; `SynthSettings` says what it is like.

    Attributes:
        out: folder of the cache.
        workers: number of processes; 0 for one per core.
        sheet: also draw a contact sheet of some clips, next to the cache (needs the extra "report").
    """

    out: str = "cache/synth"
    workers: int = 0
    sheet: bool = True

    def settings(self) -> SynthSettings:
        return SynthSettings(**{field.name: getattr(self, field.name) for field in fields(SynthSettings)})


@dataclass(frozen=True)
class LayoutConfig(LayoutSettings):
    """Where a synthetic set in a data set's own folders goes; `LayoutSettings` says what it is like.

    Attributes:
        layout: whose folders and sheets to write; a name from the list at the end of the help text.
        out: root of the data set; data/LAYOUT by default.
        workers: number of processes; 0 for one per core.
    """

    layout: str = "smic"
    out: str | None = None
    workers: int = 0

    def settings(self) -> LayoutSettings:
        return LayoutSettings(**{field.name: getattr(self, field.name) for field in fields(LayoutSettings)})


@dataclass(frozen=True)
class LongConfig(LongSettings):
    """Where a set of long recordings goes; `LongSettings` says what it is like.

    Attributes:
        layout: "long".
        out: root of the set; data/long by default.
        workers: number of processes; 0 for one per core.
    """

    layout: str = LONG
    out: str | None = None
    workers: int = 0

    def settings(self) -> LongSettings:
        return LongSettings(**{field.name: getattr(self, field.name) for field in fields(LongSettings)})


def run_synth(config: SynthConfig) -> None:
    """Render a synthetic set into a cache."""
    with saying_when_stopped(_CONTINUE), counting("rendering clips") as count:
        cache = synthesize(config.out, config.settings(), config.workers or None, count)
    say(f"{len(cache)} clips of {len(cache.subjects)} people: {config.out}")
    if config.sheet:
        picture = Path(config.out).with_name(f"{shortened(Path(config.out).name, 200)}-contact-sheet.png")
        say(f"contact sheet: {contact_sheet(cache, picture)}")
    say(f"next: mol train --cache {config.out}")


def describe_layouts() -> str:
    """The layouts in one line, for ``mol synth --layout smic --help``."""
    return f"layouts: {', '.join(LAYOUTS)}; long, with settings of its own (mol synth --layout long --help)"


def run_layout(config: LayoutConfig) -> None:
    """Render a synthetic set in a data set's own folders and sheets."""
    out = config.out or f"data/{config.layout}"
    with saying_when_stopped(_CONTINUE), counting("rendering clips") as count:
        plan = write_layout(config.layout, out, config.settings(), config.workers or None, count)
    say(f"{len(plan.clips)} clips of {len({clip.person for clip in plan.clips})} people: {out}")
    say("Real faces under motion that we made: scores on them say nothing about recognition.")
    neutral = f" --neutral {config.neutral}" if config.neutral else ""
    say(f"next: mol prepare --dataset {config.layout.removesuffix('-cropped')} --root {out}{neutral}")


def run_long(config: LongConfig) -> None:
    """Render long recordings in which expressions are to be spotted."""
    out = config.out or f"data/{LONG}"
    with saying_when_stopped(_CONTINUE), counting("rendering recordings") as count:
        plans = write_long(out, config.settings(), config.workers or None, count)
    shown = Counter(event.kind for plan in plans for event in plan.events)
    what = ", ".join(f"{number} {kind}" for kind, number in sorted(shown.items()))
    say(f"{len(plans)} recordings of {config.people} people, {config.minutes:g} minutes each ({what}): {out}")
    say("Real faces under motion that we made: scores on them say nothing about spotting in real recordings.")
    say(f"next: mol prepare --dataset {LONG} --root {out} --neutral 6")
