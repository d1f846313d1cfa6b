"""What is known about one data set: a module of this package has a loader and a constant ``SET``, a `DataSet`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from mol.data.manifest import Loader


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set: what it is called, how to get it, how to read it and what it should contain.

    The texts are Markdown; ``python -m mol.data.sets`` makes the sections of ``docs/datasets.md`` from them.

    Attributes:
        name: value of ``--dataset``; also the data set of its clips, except where a loader reads several sets.
        title: as its authors write it.
        load: its loader. Keyword parameters after `root` and `on_error` are options of ``mol prepare``.
        citation: the publication to cite; empty if there is none.
        access: whom to ask for the data set and what they require; empty if nobody needs to be asked.
        url: the authors' page; empty if not known.
        tree: its folders and files as unpacked, starting with the root; empty if they are up to the user.
        quirks: (known irregularity, what the loader does about it).
        remarks: anything else that a user should know.
        fps: frames per second; 0 if the clips differ or do not say.
        camera_fps: folder of a camera → frames per second, where a data set was recorded with several.
        sheets: file names of the annotation sheet with ``*`` and ``?``, preferred ones first.
        telltales: names of other files and folders, with ``*`` and ``?``, that only this data set has.
        subject: example of a subject's name.
        subject_pattern: regular expression that matches every subject's name; empty if any name is allowed.
        people: all subjects, where known.
        counts: emotion → number of clips as annotated; empty if not known.
        protocols: protocols to use, where `mol.data.protocols` does not tell; empty otherwise.
        stated_clips: number of clips according to the authors, where `counts` is not known; 0 if neither is.
    """

    name: str
    title: str
    load: Loader
    citation: str = ""
    access: str = ""
    url: str = ""
    tree: str = ""
    quirks: tuple[tuple[str, str], ...] = ()
    remarks: str = ""
    fps: float = 0.0
    camera_fps: Mapping[str, float] = field(default_factory=dict)
    sheets: tuple[str, ...] = ()
    telltales: tuple[str, ...] = ()
    subject: str = ""
    subject_pattern: str = ""
    people: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    stated_clips: int = 0
    protocols: str = ""

    @property
    def clips(self) -> int:
        """Number of clips that the whole data set has; 0 if not known."""
        return sum(self.counts.values()) or self.stated_clips

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the loader's own options."""
        return tuple(inspect.signature(self.load).parameters)[2:]

    def allows_subject(self, name: str) -> bool:
        """Whether a subject of this data set can have this name."""
        return not self.subject_pattern or re.fullmatch(self.subject_pattern, name) is not None

    def has_name_of(self, names: Collection[str]) -> bool:
        """Whether any of these file and folder names, in lower case, is one that only this data set has."""
        patterns = [pattern.lower() for pattern in (*self.sheets, *self.telltales)]
        return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
