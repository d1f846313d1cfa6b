"""``mol loso --task spot``: what a fold does after its training, to spot in the long videos of the person held out.

The network of a fold runs on the long videos of the person held out, and of a few of the people trained on, on which
the parameters of spotting are chosen. What it says is kept until the fold is done (``spotting/*.npz``), so that a fold
that is interrupted goes on with the next video. It leaves

    spotting.json     found and annotated expressions of every video of the person held out, by way of spotting; the
                      parameters, and on whom they were chosen
    parameters.json   the parameters, for mol spot --parameters
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mol.common.errors import ClipError, FaceError, SettingsError
from mol.common.names import path_parts
from mol.common.storage import write_atomic, write_json
from mol.common.terminal import say
from mol.data.manifest import Manifest, read_manifest
from mol.data.recordings import Recording
from mol.loso.folds import Fold
from mol.loso.settings import LosoConfig
from mol.networks.registry import find_network
from mol.networks.trained import Trained
from mol.prediction.trace import Trace
from mol.prediction.watch import WatchSettings
from mol.scoring.expression import MACRO, MICRO, Expression
from mol.scoring.spotting import OVERALL
from mol.spotting.baseline import choose_share, main_direction_curve, spot_peaks
from mol.spotting.command import BASELINE, NETWORK, SHARE
from mol.spotting.parameters_file import write_parameters
from mol.spotting.sighting import Sighting, watch_video
from mol.spotting.spot import (
    Candidates,
    SpotParameters,
    choose_among,
    choose_parameters,
    find_candidates,
    fitting,
    require_flow,
)
from mol.spotting.truth import expressions_of
from mol.vision.footage import Footage
from mol.vision.sources import open_footage
from mol.vision.video import numbered_pictures

SPOTTING = "spotting.json"
PARAMETERS = "parameters.json"
_KEPT = "spotting"


class LongVideo(NamedTuple):
    """A recording, and where it is."""

    manifest: Manifest
    recording: Recording

    @property
    def person(self) -> str:
        """``dataset/subject``."""
        return f"{self.recording.dataset}/{self.recording.subject}"

    @property
    def name(self) -> str:
        """``dataset/subject/video``."""
        return f"{self.person}/{self.recording.video}"


@dataclass(frozen=True)
class Watched:
    """A long video that a network has gone through.

    Attributes:
        video: which.
        truth: annotated expressions, frames counted from 0.
        trace: what the network says; None if the video has no usable window.
        curve: the baseline's, for each window.
        candidates: what may be an expression.
        problem: why there is no usable window.
    """

    video: LongVideo
    truth: list[Expression]
    trace: Trace | None = None
    curve: np.ndarray | None = None
    candidates: Candidates | None = None
    problem: str = ""


def long_videos(config: LosoConfig) -> list[LongVideo]:
    """The recordings of the manifests that the settings name.

    Raises:
        SettingsError: no manifest is named, none has recordings, or the network estimates no flow.
        DataError: a manifest is damaged.
    """
    if not config.videos:
        raise SettingsError("--task spot needs the long videos: --videos MANIFEST, the folder that mol prepare wrote")
    require_flow(find_network(config.network))
    return [video for folder in config.videos for video in recordings_of(Path(folder))]


def recordings_of(folder: Path) -> list[LongVideo]:
    """The recordings of a manifest.

    Raises:
        SettingsError: it has none.
        DataError: it is damaged.
    """
    manifest = read_manifest(folder)
    if not manifest.recordings:
        raise SettingsError(
            f"{folder} lists no long videos: its data set has none, or it was made by an earlier version of mol "
            "prepare; make it again, or name another"
        )
    return [LongVideo(manifest, recording) for recording in manifest.recordings]


def require_people(videos: Sequence[LongVideo], people: Sequence[str]) -> None:
    """Check that somebody who is held out has a long video.

    Args:
        videos: all of them.
        people: ``dataset/subject`` of the clips.
    Raises:
        SettingsError: nobody has.
    """
    if not {video.person for video in videos} & set(people):
        raise SettingsError(
            f"the long videos are of {videos[0].person}, …, and the clips of {people[0]}, …: nobody is in both; name "
            "the manifests that the caches were extracted from"
        )


def spot_fold(config: LosoConfig, fold: Fold, trained: Trained, training: Sequence[str], folder: Path) -> None:
    """Choose parameters, and spot in the long videos of the person held out.

    Args:
        config: of the run.
        fold: which.
        trained: the network of the fold.
        training: ``dataset/subject`` of the people to choose the parameters on: those set aside by
            ``inner_validation``, or some of those trained on.
        folder: of the fold.
    Raises:
        MOLError: a video cannot be read.
    """
    videos = long_videos(config)
    scored = annotated_kinds(videos)
    parts = path_parts([video.name for video in videos])
    kept = {video.name: folder / _KEPT / f"{part}.npz" for video, part in zip(videos, parts, strict=True)}

    # Long videos show others at times, and nobody at others.
    settings = WatchSettings(people="largest", on_error="skip", precision=config.precision)

    def watched(people: Sequence[str]) -> list[Watched]:
        chosen = [video for video in videos if video.person in people]
        return [watch_recording(video, kept[video.name], trained, settings) for video in chosen]

    held_out = watched([fold.person])
    chosen_on = _people_to_choose_on(videos, training, config.spot_people) if held_out else []
    others = watched(chosen_on)
    parameters, share, chosen = choose(others, scored, trained.classes)
    content = {
        "parameters": asdict(parameters),
        "chosen_on": {"people": chosen_on, **chosen},
        "share": share,
        "kinds": list(scored),
        "videos": [_described(one, parameters, share, scored) for one in held_out],
    }
    write_parameters(folder / PARAMETERS, parameters, chosen_on=chosen_on, **chosen)
    write_json(folder / SPOTTING, content)
    shutil.rmtree(folder / _KEPT, ignore_errors=True)


def annotated_kinds(videos: Sequence[LongVideo]) -> tuple[str, ...]:
    """Kinds that are annotated at all: where only micro-expressions are, nothing else can be a false alarm."""
    annotated = {one.kind for video in videos for one in video.recording.expressions}
    return tuple(kind for kind in (MICRO, MACRO) if kind in annotated)


def _people_to_choose_on(videos: Sequence[LongVideo], people: Sequence[str], most: int) -> list[str]:
    """At most this many of the people who have long videos, spread evenly over them."""
    able = [person for person in dict.fromkeys(video.person for video in videos) if person in set(people)]
    if len(able) <= most:
        return able
    return [able[int((part + 0.5) * len(able) / most)] for part in range(most)]


def choose(
    watched: Sequence[Watched], scored: Sequence[str], classes: Sequence[str]
) -> tuple[SpotParameters, float, dict[str, Any]]:
    """Parameters and the baseline's p, and their F1 on the videos that they were chosen on.

    Args:
        watched: videos of people who are not scored; without any expression in them the usual values are taken.
        scored: kinds that are annotated.
        classes: that the network knows.
    """
    kind = OVERALL if MACRO in scored else MICRO
    usable = [one for one in watched if one.trace is not None]
    if not any(one.truth for one in usable):
        return fitting(SpotParameters(), classes), SHARE, {"f1": None, "share_f1": None}
    candidates = [(one.candidates, one.truth) for one in usable if one.candidates is not None]
    parameters, f1 = choose_parameters(candidates, kind)
    curves = [(one.curve, one.trace, one.truth) for one in usable if one.curve is not None and one.trace is not None]
    share, share_f1 = choose_share(curves, kind)
    return fitting(parameters, classes), share, {"f1": f1, "share_f1": share_f1}


def watch_recording(video: LongVideo, kept: Path, trained: Trained, settings: WatchSettings) -> Watched:
    """What the network and the baseline say of a video.

    Args:
        video: which.
        kept: file that holds it, if they have said it before; written otherwise.
        trained: the network.
        settings: how to watch.
    Raises:
        MOLError: the video cannot be read.
    """
    path = video.manifest.root / video.recording.path
    numbers: Sequence[int] = list(numbered_pictures(path)) if path.is_dir() else ()
    if not kept.is_file():
        content = _watch(open_footage(path, folder_fps=video.recording.fps or None), trained, settings)
        write_atomic(kept, lambda temporary: np.savez(temporary, **content))
    with np.load(kept) as stored:
        content = dict(stored)
    truth = expressions_of(video.recording, numbers or range(int(content["length"])))
    if "problem" in content:
        return Watched(video, truth, problem=str(content["problem"]))
    trace = Trace(
        tuple(trained.classes),
        float(content["fps"]),
        float(content["duration"]),
        int(content["length"]),
        *(content[name] for name in ("frames", "seconds", "probabilities", "flow")),
    )
    return Watched(video, truth, trace, content["curve"], find_candidates(trace))


def _watch(film: Footage, trained: Trained, settings: WatchSettings) -> dict[str, Any]:
    """Run network and baseline on a video: arrays of the trace and the curve, or why there is none."""
    try:
        sighting = watch_video(trained.model, trained.network, film, trained.classes, settings)[0]
    except (ClipError, FaceError) as problem:
        return {"problem": np.array(str(problem)), "length": np.array(len(film))}
    return _content(sighting, film)


def _content(sighting: Sighting, film: Footage) -> dict[str, Any]:
    trace = sighting.trace
    return {
        "fps": np.array(trace.fps),
        "duration": np.array(trace.duration),
        "length": np.array(trace.length),
        "frames": trace.frames,
        "seconds": trace.seconds,
        "probabilities": trace.probabilities,
        "flow": trace.flow,
        "curve": main_direction_curve(sighting, film),
    }


def found_in(watched: Watched, parameters: SpotParameters, share: float) -> dict[str, list[Expression]]:
    """Way of spotting → what it finds in a video.

    Args:
        watched: the video.
        parameters: of the network's way.
        share: p of the baseline.
    """
    if watched.trace is None or watched.candidates is None or watched.curve is None:
        return {NETWORK: [], BASELINE: []}
    return {
        NETWORK: choose_among(watched.candidates, parameters),
        BASELINE: spot_peaks(watched.curve, watched.trace, share),
    }


def _described(watched: Watched, parameters: SpotParameters, share: float, scored: Sequence[str]) -> dict[str, Any]:
    """What spotting.json says of a video."""
    if watched.problem:
        say(f"note: nothing can be found in {watched.video.name}: {watched.problem}")
    found = found_in(watched, parameters, share)
    return {
        "video": watched.video.recording.video,
        "path": watched.video.recording.path,
        "problem": watched.problem,
        "annotated": [asdict(one) for one in watched.truth if one.kind in scored],
        "found": {way: [asdict(one) for one in some if one.kind in scored] for way, some in found.items()},
    }
