"""A synthetic set as a cache: all clips rendered in several processes, continued after any interruption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mol.common.environment import available_cores, versions_of
from mol.common.errors import SettingsError
from mol.common.workers import in_processes
from mol.data.cache import Cache, CacheSettings, CacheWriter, sole_cache_writer
from mol.synth.clip_plan import FPS, ClipPlan, SynthSettings, plan_clips
from mol.synth.faces import SOURCE_DISTRIBUTIONS, FaceImage, load_faces
from mol.synth.render import render_clip
from mol.vision.landmarks import LandmarkDetector
from mol.vision.video import sample_starts

# Raised whenever the same settings would give different bytes.
GENERATOR = 1


def clip_rows(plans: Sequence[ClipPlan], faces: Sequence[FaceImage], settings: SynthSettings) -> list[dict[str, Any]]:
    """The index of the cache, one entry per sub-clip.

    `SynthSettings` and `ClipPlan` explain the numbers. Amplitude 0 marks a clip without an expression; only clips with
    a blink have the key ``blink``, the frame in which the eyes are closed.
    """
    rows = []
    for plan in plans:
        interval, _ = sample_starts(plan.length, settings.frames)
        row = {
            "dataset": "synthetic",
            "subject": faces[plan.face].subject,
            "clip": plan.clip,
            "interval": interval,
            "label": settings.emotions.index(plan.emotion),
            "emotion": plan.emotion,
            "action_units": plan.action_units,
            "onset": plan.onset,
            "apex": plan.apex,
            "offset": plan.offset,
            "length": plan.length,
            "fps": FPS,
            "amplitude": round(plan.amplitude, 6),
            "picture": faces[plan.face].name,
        }
        if plan.blink is not None:
            row["blink"] = plan.blink.closed
        rows += [{**row, "start": start} for start in plan.starts]
    return rows


def synthesize(
    path: str | Path,
    settings: SynthSettings | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], object] | None = None,
    detector: LandmarkDetector | None = None,
    faces: Sequence[FaceImage] | None = None,
) -> Cache:
    """Render a synthetic set into a cache; an interrupted run is continued, a finished cache is kept.

    Args:
        path: folder of the cache.
        settings: what to render.
        workers: number of processes, by default one per core; 1 renders in this process.
        progress: called with (rows done, total), once before the first row and after every one.
        detector: finds the 68 landmarks of the pictures; dlib by default.
        faces: those pictures of the settings' people that take part, such as those of some people; all by default.
    Returns:
        The finished cache.
    Raises:
        CacheSettingsError: the folder holds a set with other settings.
        InUseError: another process fills the cache.
        StorageError: the disk is full or failed.
        MissingExtraError: the pictures or the detector are not installed.
    """
    settings = settings or SynthSettings()
    workers = workers if workers is not None else available_cores()
    if workers < 1:
        raise SettingsError(f"workers must be at least 1, got {workers}.")
    with sole_cache_writer(path, "mol synth"):
        return _synthesize(path, settings, workers, progress or (lambda done, total: None), detector, faces)


def _synthesize(
    path: str | Path,
    settings: SynthSettings,
    workers: int,
    report: Callable[[int, int], object],
    detector: LandmarkDetector | None,
    faces: Sequence[FaceImage] | None,
) -> Cache:
    some = {} if faces is None else {"subjects": list(dict.fromkeys(face.subject for face in faces))}
    if faces is None:
        faces = load_faces(settings.sources, settings.people, settings.pictures, detector)
    plans = plan_clips(faces, settings)
    jobs = [(plan, faces[plan.face], start, settings) for plan in plans for start in plan.starts]
    cache_settings = CacheSettings(
        kind="synthetic",
        classes=settings.emotions,
        settings={"generator": GENERATOR, **recorded(settings), **some},
        versions=_versions(settings.sources),
        frames=settings.frames,
        size=settings.size,
    )
    with CacheWriter(path, cache_settings, clip_rows(plans, faces, settings)) as writer:
        pending = writer.pending()
        done, total = len(jobs) - len(pending), len(jobs)
        report(done, total)
        # Starting a process takes longer than rendering two clips.
        workers = workers if len(pending) >= 2 * workers else 1
        kept = "The rendered clips are kept."
        for index, clip in in_processes(render_clip, (jobs[row] for row in pending), workers, kept=kept):
            writer.write(pending[index], *clip)
            done += 1
            report(done, total)
        return Cache.open(writer.finish())


def recorded(settings: SynthSettings) -> dict[str, Any]:
    """The settings as a cache records them: without blinks unless there are any, as before there was that setting."""
    content = asdict(settings)
    if not settings.blinks:
        del content["blinks"]
    return content


def _versions(sources: Sequence[str]) -> dict[str, str]:
    faces = (SOURCE_DISTRIBUTIONS[name] for name in sources)
    return versions_of(["numpy", "opencv-contrib-python-headless", "dlib-bin", *faces])
