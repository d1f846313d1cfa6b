"""A made-up data set, as somebody would add it to ``mol/data/sets``; test_new_set.py copies this file there."""

from __future__ import annotations

from pathlib import Path

from mol.data.manifest import Clip, Loaded, OnError, numbered_frames
from mol.data.sets.collector import ClipCollector, named_emotion, relative_path, required, spellings
from mol.data.sets.dataset import DataSet
from mol.data.sets.folders import SetNotFoundError, clip_folder, find_folders, find_sheet, subject_folders
from mol.data.sets.sheets import read_sheet

_COLUMNS = {"subject": ["Who"], "clip": ["Clip"], "onset": ["From"], "offset": ["To"], "emotion": ["Emotion"]}
_EMOTIONS = spellings("joy", "anger", glad="joy")


def load_lab(root: Path, on_error: OnError = "raise") -> Loaded:
    """Read the videos of a laboratory."""
    sheet = find_sheet(root, SET.sheets, "annotation sheet of the laboratory")
    people = subject_folders(find_folders(root, ["videos"]), SET.subject_pattern)
    if not people:
        raise SetNotFoundError(f"no folder videos with lab1, lab2, … under {root}; unpack it there.")
    found = ClipCollector(on_error)
    for row in read_sheet(sheet, _COLUMNS):
        with found.row(row.source, row.text("clip")):
            folder = clip_folder(people, row.text("subject"), row.text("clip"))
            onset, offset = required(row.whole("onset"), "From"), required(row.whole("offset"), "To")
            onset, _, offset = found.check_interval(onset, None, offset, numbered_frames(folder), folder)
            clip = Clip(
                dataset=SET.name,
                subject=row.text("subject"),
                clip=row.text("clip"),
                path=relative_path(folder, root),
                onset=onset,
                apex=None,
                offset=offset,
                emotion=named_emotion(row.text("emotion"), _EMOTIONS),
                fps=SET.fps,
                source=row.source,
            )
            found.add(clip)
    return found.loaded(sheet)


SET = DataSet(
    name="lab",
    title="Videos of a laboratory",
    load=load_lab,
    citation='Doe et al., "Videos of a Laboratory", 2026',
    access="the laboratory",
    tree="""
Lab/
  lab_sheet.csv
  videos/lab1/a/1.jpg
""",
    fps=60.0,
    sheets=("lab_sheet.csv",),
    subject="lab1",
    subject_pattern=r"lab\d",
    counts={"joy": 1, "anger": 1},
    people=("lab1", "lab2"),
)
