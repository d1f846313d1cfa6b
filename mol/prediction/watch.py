"""The windows of a video as a stream: every frame is decoded, looked at and let go.

The video is gone through a few times. First every face is followed; then still clips of the person are read; then the
windows, each aligned as soon as its last frame has come, and read in batches. Whoever wants more of a window than its
`Trace` listens: a window is let go when all listeners have had it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from mol.common.checks import require_one_of
from mol.common.errors import NoFaceError, SettingsError
from mol.common.terminal import Track, silently
from mol.network.estimates import FLOW, FRAMES, LANDMARKS
from mol.prediction.alignment import ALIGNMENTS, SharedReader, WindowReader, anchors_of, read_still
from mol.prediction.people import People, Person, find_people, given_person
from mol.prediction.regions import REGIONS, flow_by_region
from mol.prediction.result import Prediction, Scene
from mol.prediction.sampling import Skipped, WindowPlan, long_windows, nearest_windows, plan_windows, split_at_gaps
from mol.prediction.stillness import NOISE_FACTORS, STILL_CLIPS, Stillness, sensor_noise, still_frames
from mol.prediction.trace import Trace
from mol.prediction.windows import Window, align_window
from mol.scoring.calibration import Temperature
from mol.vision.align import transform_points
from mol.vision.crowd import Crowd
from mol.vision.footage import Footage
from mol.vision.landmarks import DlibDetector, LandmarkDetector
from mol.vision.tracking import MAX_GAP
from mol.vision.video import Video, interpolate_frames

if TYPE_CHECKING:  # an exported network runs without PyTorch
    from mol.networks.interface import Network
    from mol.prediction.windows import AnyModel, AnyNetwork

DETECT_WIDTH = 640
"""Width in pixels down to which wider frames are averaged for face detection, as in `mol extract`."""
STRIP = 8
"""Frames of the video that the overview shows."""

Listener = Callable[[int, Window], None]
"""Gets the number of each window, from 0 on, and the window; in the order of time."""


@dataclass(frozen=True)
class WatchSettings:
    """How a video is watched; see `mol.prediction.predict.PredictConfig`."""

    interval: int | None = None
    stride: int | None = None
    interpolate: bool = False
    people: People = None
    on_error: Literal["raise", "skip"] = "raise"
    max_gap: int = MAX_GAP
    detect_width: int = DETECT_WIDTH
    batch_size: int = 4
    precision: str = "32"
    alignment: Literal["window", "shared"] = "window"

    def __post_init__(self) -> None:
        check_people(self.people)
        require_one_of(self, "on_error", ("raise", "skip"))
        require_one_of(self, "alignment", ALIGNMENTS)


def check_people(people: object) -> None:
    """Check who is to be read.

    Raises:
        SettingsError: neither "all" nor "largest" nor a number of people.
    """
    if people in (None, "all", "largest") or (isinstance(people, int) and not isinstance(people, bool) and people > 0):
        return
    raise SettingsError(f'people={people!r} must be "all", "largest" or a number of people from 1 on')


def watch(
    model: AnyModel,
    video: Footage,
    classes: Sequence[str],
    settings: WatchSettings | None = None,
    *,
    network: AnyNetwork | None = None,
    landmarks: np.ndarray | None = None,
    detector: LandmarkDetector | None = None,
    calibration: Temperature | None = None,
    listeners: Callable[[Scene], Sequence[Listener]] = lambda scene: (),
    track: Track = silently,
) -> list[Prediction]:
    """Slide a window of T = 8 frames over a video and run the network on each, for each person.

    Memory does not grow with the video but for a few kilobytes a window: landmarks of the frames that windows use, and
    the trace.

    Args:
        model: in evaluation mode.
        video: in memory, or decoded on demand (`mol.vision.sources.open_footage`).
        classes: names in the order of the logits.
        settings: how to watch.
        network: what kind of network `model` is; MOL by default.
        landmarks: (L, 68, 2) in pixels, NaN where a frame has none; by default the detector's.
        detector: by default dlib's; called with the frames in the order of time.
        calibration: the network's temperature.
        listeners: called for each person before the windows are read.
        track: progress display.
    Returns:
        One prediction for each person, the most prominent first.
    Raises:
        ClipError: the video is shorter than one window, every window has a gap in time, or the network's
            probabilities are not finite.
        NoFaceError: no window has a usable face, or with on_error="raise" a frame has none.
        SeveralFacesError: several people are there, and the settings don't say who is read.
    """
    settings, network = settings or WatchSettings(), network or _usual_network()
    original = len(video)
    if settings.interpolate and 2 <= original < FRAMES:
        video, landmarks = _lengthen(video, landmarks)
    plan = plan_windows(video, settings.interval, settings.stride)
    kept, torn = split_at_gaps(video, plan.samples)
    samples = np.stack(kept)
    used = np.unique(samples)
    if landmarks is None:
        cast, notes = find_people(
            video,
            used,
            Crowd(detector or DlibDetector(width=settings.detect_width)),  # let go with all the faces that it knows
            settings.people,
            settings.on_error,
            settings.max_gap,
            track,
        )
    else:
        cast, notes = [given_person(video, used, landmarks, settings.on_error, settings.max_gap)], []
    scenes = []
    for person in cast:
        scene = _scene(model, video, classes, settings, network, plan, samples, torn, person, calibration)
        if scene is not None:
            notes_here = (*scene.notes, *notes, *person.notes(video))
            scenes.append(
                replace(scene, notes=notes_here, interpolated_from=None if original == len(video) else original)
            )
    if not scenes:
        raise NoFaceError(
            f"no window of the video shows one person in all its {FRAMES} frames; use a smaller --interval."
        )
    return _read(model, network, video, scenes, settings, listeners, track)


def predict_video(
    model: AnyModel,
    video: Footage,
    classes: Sequence[str],
    *,
    interval: int | None = None,
    stride: int | None = None,
    interpolate: bool = False,
    landmarks: np.ndarray | None = None,
    detector: LandmarkDetector | None = None,
    detect_width: int = DETECT_WIDTH,
    several: Literal["raise", "largest"] = "raise",
    on_error: Literal["raise", "skip"] = "raise",
    max_gap: int = MAX_GAP,
    batch_size: int = 4,
    precision: str = "32",
    track: Track = silently,
    network: AnyNetwork | None = None,
) -> Prediction:
    """`watch` for one person, with all windows kept in memory.

    Args:
        several: "raise" reads the only person there, "largest" the one with the largest face.
        model, video, classes, landmarks, detector, network, track: as for `watch`.
        interval, stride, interpolate, detect_width, on_error, max_gap, batch_size, precision: see `PredictConfig`.
    Raises:
        MOLError: as `watch`.
    """
    settings = WatchSettings(
        interval=interval,
        stride=stride,
        interpolate=interpolate,
        people="largest" if several == "largest" else None,
        on_error=on_error,
        max_gap=max_gap,
        detect_width=detect_width,
        batch_size=batch_size,
        precision=precision,
    )
    windows: list[Window] = []
    (prediction,) = watch(
        model,
        video,
        classes,
        settings,
        network=network,
        landmarks=landmarks,
        detector=detector,
        listeners=lambda scene: [lambda number, window: windows.append(window)],
        track=track,
    )
    return replace(prediction, windows=windows)


def _usual_network() -> Network:
    from mol.networks.mol import NETWORK

    return NETWORK


def _scene(
    model: AnyModel,
    video: Footage,
    classes: Sequence[str],
    settings: WatchSettings,
    network: AnyNetwork,
    plan: WindowPlan,
    samples: np.ndarray,
    torn: list[Skipped],
    person: Person,
    calibration: Temperature | None,
) -> Scene | None:
    """What is known of a person before the windows are read; None if one of several people has no window."""
    chosen, faceless = person.sort(samples, video)
    if not len(chosen):
        if person.number is not None:
            return None
        raise NoFaceError(f"no window of the video has a usable face in all its {FRAMES} frames: {faceless[0].reason}")
    anchors = anchors_of(chosen, person, settings.alignment)
    return Scene(
        video=video,
        classes=list(classes),
        interval=plan.interval,
        stride=plan.stride,
        person=person,
        samples=chosen,
        nearest=nearest_windows(chosen, video.seconds),
        skipped=sorted([*torn, *faceless], key=lambda window: window.start),
        anchors=anchors,
        stillness=_read_still_clips(network, model, video, person, chosen, anchors, settings),
        notes=(*video.rate_notes, *video.notes, *long_windows(video, list(chosen)), *network_notes(network)),
        calibration=calibration,
        seconds_apart=plan.seconds_apart,
        action_units=() if network.action_units is None else network.action_units.units,
    )


def network_notes(network: AnyNetwork) -> list[str]:
    """How a network reads a window, and what it does not estimate."""
    notes = [network.window_note] if network.window_note else []
    if FLOW not in network.estimates:
        notes.append(f"{network.title} estimates no optical flow; the pictures show none")
    if LANDMARKS not in network.estimates:
        notes.append(f"{network.title} estimates no landmarks; the pictures show those of the detector")
    return notes


def _lengthen(video: Footage, landmarks: np.ndarray | None) -> tuple[Video, np.ndarray | None]:
    """A video of T frames over the same time, and its landmarks, by linear interpolation."""
    length = len(video)
    times = np.linspace(0, length - 1, FRAMES)
    names = [f"frame {time:.2f} (interpolated)" for time in times]
    fps = video.fps * (FRAMES - 1) / (length - 1)
    seconds = np.interp(times, np.arange(length), video.seconds)
    frames = interpolate_frames(np.stack(list(video.walk())), FRAMES)
    longer = Video(frames, fps, names, seconds, notes=video.notes, rate_notes=video.rate_notes)
    if landmarks is None:
        return longer, None
    earlier = np.minimum(times.astype(int), length - 2)
    weight = (times - earlier)[:, None, None]
    return longer, (landmarks[earlier] * (1 - weight) + landmarks[earlier + 1] * weight).astype(np.float32)


def _read(
    model: AnyModel,
    network: AnyNetwork,
    video: Footage,
    scenes: Sequence[Scene],
    settings: WatchSettings,
    listeners: Callable[[Scene], Sequence[Listener]],
    track: Track,
) -> list[Prediction]:
    """Read the windows of all people in one go through the video."""
    recorders = [_Recorder(scene) for scene in scenes]
    hearing = [(recorder.hear, *listeners(scene)) for recorder, scene in zip(recorders, scenes, strict=True)]

    def say(windows: Iterable[tuple[int, Window]]) -> None:
        for whose, window in windows:
            number = len(recorders[whose])
            for hear in hearing[whose]:
                hear(number, window)

    how = (settings.batch_size, settings.precision)
    together = WindowReader(network, model, *how)
    alone = [SharedReader(network, model, whose, scene.anchors, *how) for whose, scene in enumerate(scenes)]
    for whose, frames, pictures in _windows_in_time(video, [scene.samples for scene in scenes], track):
        detected = scenes[whose].person.at(frames)
        if settings.alignment == "shared":
            say(alone[whose].take(frames, pictures, detected))
        else:
            say(together.take(whose, frames, pictures, detected))
    say(together.finish())
    for reader in alone:
        say(reader.finish())
    return [recorder.prediction() for recorder in recorders]


def _windows_in_time(
    video: Footage, samples: Sequence[np.ndarray], track: Track
) -> Iterator[tuple[int, np.ndarray, list[np.ndarray]]]:
    """Whose window, its frame numbers and its frames, as soon as its last frame has come.

    Args:
        video: the frames; only those between the first and the last frame of a window are held.
        samples: for each person (n, T) frame numbers, in the order of time.
        track: progress display.
    """
    used = np.unique(np.concatenate([of_person.ravel() for of_person in samples]))
    waiting = [deque(of_person) for of_person in samples]
    held: dict[int, np.ndarray] = {}
    numbers = used.tolist()
    for number, picture in zip(numbers, video.walk(track(numbers, "running the network")), strict=True):
        held[number] = picture
        for whose, windows in enumerate(waiting):
            while windows and windows[0][-1] <= number:
                frames = windows.popleft()
                yield whose, frames, [held[frame] for frame in frames.tolist()]
        needed = min((int(windows[0][0]) for windows in waiting if windows), default=number + 1)
        for past in [frame for frame in held if frame < needed]:
            del held[past]


class _Recorder:
    """Keeps of a person's windows what a `Prediction` needs."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        count = len(scene.samples)
        self._probabilities = np.empty((count, len(scene.classes)), np.float32)
        self._units = np.zeros(len(scene.action_units))
        self._flow = np.full((count, FRAMES - 1, len(REGIONS), 2), np.nan, np.float32)
        self._strip = {number for number in scene.nearest[strip_of(scene.video)].tolist() if number >= 0}
        self._shown: dict[int, Window] = {}
        self._best: dict[int, tuple[float, int, Window]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def hear(self, number: int, window: Window) -> None:
        """Take in the next window."""
        self._count += 1
        self._probabilities[number] = window.probabilities
        if window.action_units is not None:
            self._units += window.action_units
        if window.flow is not None:
            points = transform_points(window.matrix, window.detected[:-1])
            self._flow[number] = flow_by_region(window.flow, points)
        if number in self._strip:
            self._shown[number] = replace(window, flow=None)
        scene = self._scene
        values = [
            *scene.calibrated(window.probabilities).tolist(),
            float(scene.stillness.distance(window.probabilities)),
        ]
        for what, value in enumerate(values):
            if what not in self._best or value > self._best[what][0]:
                self._best[what] = (value, number, window)

    def prediction(self) -> Prediction:
        """What was predicted."""
        scene = self._scene
        seconds = scene.video.seconds
        trace = Trace(
            tuple(scene.classes),
            scene.video.fps,
            scene.duration,
            len(scene.video),
            scene.samples,
            seconds[scene.samples],
            self._probabilities,
            self._flow,
        )
        best = [self._best[what] for what in sorted(self._best)]
        known = {field.name: getattr(scene, field.name) for field in fields(Scene)}
        return Prediction(
            **known,
            trace=trace,
            probabilities=self._probabilities.mean(axis=0),
            unit_probabilities=self._units / len(self) if scene.action_units else None,
            shown={**self._shown, **{number: window for _, number, window in best}},
            strongest=tuple(number for _, number, _ in best[:-1]),
            furthest=best[-1][1],
        )


def strip_of(video: Footage) -> np.ndarray:
    """Numbers of the frames that the overview shows, spread over the video."""
    return np.unique(np.linspace(0, len(video) - 1, STRIP).round().astype(int))


def _read_still_clips(
    network: AnyNetwork,
    model: AnyModel,
    video: Footage,
    person: Person,
    samples: np.ndarray,
    anchors: np.ndarray,
    settings: WatchSettings,
) -> Stillness:
    """Run the network on first frames of windows, each repeated with noise as of the video under its own alignment."""
    chosen = np.linspace(0, len(samples) - 1, STILL_CLIPS).round().astype(int)
    wanted = np.union1d(chosen, anchors[chosen])
    pictures, noises, held_by = {}, [], {}
    for place, (_, frames, held) in enumerate(_windows_in_time(video, [samples[wanted]], silently)):
        number = int(wanted[place])
        if number in chosen:
            pictures[number] = held[0]
            noises.append(sensor_noise(_face_box(held, person.at(frames))))
        if number in anchors[chosen] and settings.alignment == "shared":
            held_by[number] = align_window(frames, held, person.at(frames))
    noise = float(np.sqrt(np.mean(np.square(noises))))
    rng = np.random.default_rng(0)
    read: list[Window] = []
    for number, factor in zip(chosen.tolist(), NOISE_FACTORS, strict=True):
        still = list(still_frames(pictures[number], FRAMES, factor * noise, rng))
        detected = person.at(samples[number])
        anchor = held_by.get(int(anchors[number]))
        read += read_still(network, model, samples[number], still, detected, anchor, settings.precision)
    return Stillness(np.stack([window.probabilities for window in read]), noise)


def _face_box(pictures: Iterable[np.ndarray], detected: np.ndarray) -> np.ndarray:
    """The part of a window's frames that holds the face in all of them: (T, h, w)."""
    pictures = list(pictures)
    height, width = pictures[0].shape
    low = np.floor(detected.min(axis=(0, 1))).astype(int).clip(0)
    high = np.ceil(detected.max(axis=(0, 1))).astype(int).clip(0, (width, height))
    return np.stack([picture[low[1] : high[1], low[0] : high[0]] for picture in pictures])
