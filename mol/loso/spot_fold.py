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
from collections.abc import Mapping, Sequence
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
    videos = []
    for folder in config.videos:
        manifest = read_manifest(Path(folder))
        if not manifest.recordings:
            raise SettingsError(
                f"{folder} lists no long videos: its data set has none, or it was made by an earlier version of mol "
                "prepare; make it again, or name another"
            )
        videos += [LongVideo(manifest, recording) for recording in manifest.recordings]
    return videos


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
    scored = _kinds(videos)
    held_out = [video for video in videos if video.person == fold.person]
    watched = {video.name: _watch(video, config, trained, folder) for video in held_out}
    chosen_on = _people_to_choose_on(videos, training, config.spot_people) if held_out else []
    others = [_watch(video, config, trained, folder) for video in videos if video.person in chosen_on]
    parameters, share, chosen = _choose(others, scored, trained.classes)
    content = {
        "parameters": asdict(parameters),
        "chosen_on": {"people": chosen_on, **chosen},
        "share": share,
        "kinds": list(scored),
        "videos": [_found(one, parameters, share, scored) for one in watched.values()],
    }
    write_parameters(folder / PARAMETERS, parameters, chosen_on=chosen_on, **chosen)
    write_json(folder / SPOTTING, content)
    shutil.rmtree(folder / _KEPT, ignore_errors=True)


def _kinds(videos: Sequence[LongVideo]) -> tuple[str, ...]:
    """Kinds that are annotated at all: where only micro-expressions are, nothing else can be a false alarm."""
    annotated = {one.kind for video in videos for one in video.recording.expressions}
    return tuple(kind for kind in (MICRO, MACRO) if kind in annotated)


def _people_to_choose_on(videos: Sequence[LongVideo], people: Sequence[str], most: int) -> list[str]:
    """At most this many of the people who have long videos, spread evenly over them."""
    able = [person for person in dict.fromkeys(video.person for video in videos) if person in set(people)]
    if len(able) <= most:
        return able
    return [able[int((part + 0.5) * len(able) / most)] for part in range(most)]


def _choose(
    watched: Sequence[Watched], scored: Sequence[str], classes: Sequence[str]
) -> tuple[SpotParameters, float, dict[str, Any]]:
    """Parameters and the baseline's p, and their F1 on the videos that they were chosen on."""
    kind = OVERALL if MACRO in scored else MICRO
    usable = [one for one in watched if one.trace is not None]
    if not any(one.truth for one in usable):
        return fitting(SpotParameters(), classes), SHARE, {"f1": None, "share_f1": None}
    candidates = [(one.candidates, one.truth) for one in usable if one.candidates is not None]
    parameters, f1 = choose_parameters(candidates, kind)
    curves = [(one.curve, one.trace, one.truth) for one in usable if one.curve is not None and one.trace is not None]
    share, share_f1 = choose_share(curves, kind)
    return fitting(parameters, classes), share, {"f1": f1, "share_f1": share_f1}


def _watch(video: LongVideo, config: LosoConfig, trained: Trained, folder: Path) -> Watched:
    """What the network and the baseline say of a video; from the fold's folder if they have said it before."""
    manifest, recording = video
    path = manifest.root / recording.path
    numbers: Sequence[int] = list(numbered_pictures(path)) if path.is_dir() else ()
    part = path_parts([video.name])[0]
    kept = folder / _KEPT / f"{part}.npz"
    if not kept.is_file():
        _run(open_footage(path, folder_fps=recording.fps or None), kept, config, trained)
    with np.load(kept) as stored:
        content = dict(stored)
    truth = expressions_of(recording, numbers or range(int(content["length"])))
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


def _run(film: Footage, kept: Path, config: LosoConfig, trained: Trained) -> None:
    """Run network and baseline on a video, and keep what they say."""
    settings = WatchSettings(people="largest", on_error="skip", precision=config.precision)
    try:
        sighting = watch_video(trained.model, trained.network, film, trained.classes, settings)[0]
    except (ClipError, FaceError) as problem:
        content: Mapping[str, Any] = {"problem": np.array(str(problem)), "length": np.array(len(film))}
    else:
        content = _content(sighting, film)
    write_atomic(kept, lambda temporary: np.savez(temporary, **content))


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


def _found(watched: Watched, parameters: SpotParameters, share: float, scored: Sequence[str]) -> dict[str, Any]:
    """What spotting.json says of a video."""
    ways: dict[str, list[Expression]] = {NETWORK: [], BASELINE: []}
    if watched.trace is not None and watched.candidates is not None and watched.curve is not None:
        ways[NETWORK] = choose_among(watched.candidates, parameters)
        ways[BASELINE] = spot_peaks(watched.curve, watched.trace, share)
    else:
        say(f"note: nothing can be found in {watched.video.name}: {watched.problem}")
    return {
        "video": watched.video.recording.video,
        "path": watched.video.recording.path,
        "problem": watched.problem,
        "annotated": [asdict(one) for one in watched.truth if one.kind in scored],
        "found": {way: [asdict(one) for one in found if one.kind in scored] for way, found in ways.items()},
    }
