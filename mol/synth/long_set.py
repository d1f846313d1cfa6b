"""A set of long synthetic recordings, ``mol synth --layout long``: films, what happens in them, and when.

    layout.json              the settings; written first
    videos/p01_take1.mkv     lossless (FFV1), grey; each renamed into place when it is complete
    videos/p01_take1.csv     what happens in it: a truth for mol spot --truth
    expressions.csv          all of it in one table: mol prepare --dataset long
    truth.json               who has whose face, action units and amplitudes; written last

Scores on such a set say nothing about spotting in real recordings.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.environment import available_cores
from mol.common.errors import SettingsError, StorageError
from mol.common.extras import require
from mol.common.locks import beside, only_one
from mol.common.storage import write_atomic, write_csv, write_json
from mol.common.workers import in_processes
from mol.data.sets.long import TABLE
from mol.synth.faces import FaceImage, load_faces
from mol.synth.layouts import GENERATOR, Progress, claim_root
from mol.synth.long_plan import Event, LongPlan, LongSettings, plan_long
from mol.synth.long_render import render_long
from mol.vision.landmarks import LandmarkDetector

LAYOUT = "long"
_TRUTH = "truth.json"
_COLUMNS = ("subject", "video", "path", "kind", "onset", "apex", "offset", "emotion")


def write_long(
    out: str | Path,
    settings: LongSettings | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    detector: LandmarkDetector | None = None,
) -> list[LongPlan]:
    """Render a set; an interrupted run is continued, a finished set is left as it is.

    Args:
        out: root of the set: missing, empty, or from an earlier run with the same settings.
        settings: of the recordings.
        workers: number of processes, by default one per core; 1 renders in this process.
        progress: called with (recordings done, total).
        detector: finds the 68 landmarks of the pictures; dlib by default.
    Raises:
        SettingsError: `out` holds a set with other settings; the differences are shown.
        InUseError: another process writes the set.
        StorageError: `out` holds something else, or the disk failed.
        MissingExtraError: the pictures, the detector or FFmpeg are not installed.
    """
    root, settings = Path(out), settings or LongSettings()
    if workers is not None and workers < 1:
        raise SettingsError(f"workers must be at least 1, got {workers}.")
    plans = plan_long(settings)
    if (root / _TRUTH).is_file():
        claim_root(root, _head(settings))
        return plans
    with only_one(beside(root), root, "mol synth --layout", "choose another --out"):
        claim_root(root, _head(settings))
        _render(root, plans, settings, workers, progress or (lambda done, total: None), detector)
        _write_tables(root, plans, settings)
    return plans


def film_of(plan: LongPlan) -> str:
    """Path of a recording, relative to the root of its set."""
    return f"videos/{plan.name}.mkv"


def _head(settings: LongSettings) -> dict[str, Any]:
    return {"layout": LAYOUT, "generator": GENERATOR, "rendered": True, **asdict(settings)}


def _render(
    root: Path,
    plans: Sequence[LongPlan],
    settings: LongSettings,
    workers: int | None,
    report: Progress,
    detector: LandmarkDetector | None,
) -> None:
    pending = [plan for plan in plans if not (root / film_of(plan)).is_file()]
    report(len(plans) - len(pending), len(plans))
    if not pending:
        return
    faces: dict[str, list[FaceImage]] = {}
    for face in load_faces(("orl",), max(plan.person for plan in pending), settings.pictures, detector):
        faces.setdefault(face.subject, []).append(face)
    jobs = []
    for plan in pending:
        own = faces[f"orl-s{plan.person:02d}"]
        jobs.append((root / film_of(plan), plan, own[plan.picture % len(own)], settings))
    workers = min(workers or available_cores(), len(jobs))
    done = len(plans) - len(pending)
    for _ in in_processes(_render_film, jobs, workers, kept="The rendered recordings are kept."):
        done += 1
        report(done, len(plans))


def _render_film(path: Path, plan: LongPlan, face: FaceImage, settings: LongSettings) -> None:
    height, width = (settings.enlarge * side for side in face.image.shape)
    frames = render_long(plan, face, settings)
    write_atomic(path, partial(_encode, frames, (height, width), settings.fps))


def _encode(frames: Iterable[np.ndarray], extent: tuple[int, int], fps: float, path: Path) -> None:
    """Encode grey frames without loss; the same bytes for the same frames."""
    av = require("av", extra="data")
    try:
        # An absolute path: FFmpeg takes a relative one with a colon for an address.
        with av.open(os.path.abspath(path), "w", format="matroska", options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(1001))
            stream.pix_fmt = "gray"
            stream.height, stream.width = extent
            stream.options = {"level": "3", "slices": "4", "threads": "1"}
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
            container.mux(stream.encode())
    except av.error.FFmpegError as error:
        raise StorageError(f"FFmpeg could not encode {path.name} ({error}); free some space and run again.") from error


def _write_tables(root: Path, plans: Sequence[LongPlan], settings: LongSettings) -> None:
    """What happens: per recording, in one table, and with everything that is known of it."""
    rows = []
    for plan in plans:
        own = [_row(plan, event) for event in plan.events] or [[plan.subject, plan.video, film_of(plan), *[""] * 5]]
        write_csv((root / film_of(plan)).with_suffix(".csv"), _COLUMNS, own)
        rows += own
    write_csv(root / TABLE, _COLUMNS, rows)
    people = {plan.subject: f"orl-s{plan.person:02d}" for plan in plans}
    videos = [
        {
            "subject": plan.subject,
            "video": plan.video,
            "path": film_of(plan),
            "frames": plan.length,
            "fps": settings.fps,
            "events": [_described(event) for event in plan.events],
        }
        for plan in plans
    ]
    write_json(root / _TRUTH, {"layout": LAYOUT, "people": people, "videos": videos})


def _row(plan: LongPlan, event: Event) -> list[Any]:
    head = [plan.subject, plan.video, film_of(plan)]
    return [*head, event.kind, event.onset, event.apex, event.offset, event.emotion or ""]


def _described(event: Event) -> dict[str, Any]:
    return {
        "kind": event.kind,
        "onset": event.onset,
        "apex": event.apex,
        "offset": event.offset,
        "emotion": event.emotion,
        "action_units": sorted(event.intensities or {}),
        "amplitude": round(event.amplitude, 6),
    }
