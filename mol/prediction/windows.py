"""A window of T frames that slides over a video: find the face, align, run the network, map back to the picture.

Every window is aligned by one similarity transform, that of the median landmarks over its own frames: within a window
the detector's jitter cannot become motion, and from window to window the face may move through the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from mol.common.errors import ClipError, FaceError, NoFaceError
from mol.common.terminal import Track, silently
from mol.data.clips import CROP
from mol.data.manifest import NEUTRAL
from mol.network.model import FRAMES
from mol.networks.interface import FLOW, LANDMARKS, Network
from mol.networks.mol import NETWORK as MOL
from mol.prediction.sampling import Skipped, long_windows, plan_windows, split_at_gaps
from mol.prediction.stillness import NOISE_FACTORS, STILL_CLIPS, Stillness, sensor_noise, still_frames
from mol.scoring.calibration import Temperature, apply_temperature
from mol.scoring.metrics import require_probabilities
from mol.vision.align import AlignSettings, align_clip, transform_points
from mol.vision.landmarks import DlibDetector, LandmarkDetector
from mol.vision.tracking import MAX_GAP, FaceFollower, fill_short_gaps, follow_face
from mol.vision.video import Video, interpolate_frames

DETECT_WIDTH = 640
"""Width in pixels down to which wider frames are averaged for face detection, as in `mol extract`."""

NO_EXPRESSION = "no expression"
STILL_FACE = "not distinguishable from a still face"
DISAGREEMENT = "the windows disagree"


@dataclass(frozen=True)
class Window:
    """The network's output for T frames.

    Attributes:
        frames: (T,) frame numbers.
        matrix: (2, 3) float64, picture → crop: pixels of the video to those of the 128×128 square that is seen.
        probabilities: (C,) float32.
        flow: (T-1, 2, 128, 128) float16, (dx, dy) in pixels of the crop, sampled frame t to t+1; None if the network
            estimates none.
        landmarks: (T-1, 68, 2) float32, (x, y) in pixels of the video, of sampled frames 2..T; None if the network
            estimates none.
        detected: (T, 68, 2) float32, the detector's points, in pixels of the video.
    """

    frames: np.ndarray
    matrix: np.ndarray
    probabilities: np.ndarray
    flow: np.ndarray | None
    landmarks: np.ndarray | None
    detected: np.ndarray

    @property
    def start(self) -> int:
        return int(self.frames[0])

    @property
    def end(self) -> int:
        return int(self.frames[-1])

    def picture_flow(self) -> np.ndarray | None:
        """The flow vectors in pixels of the video, on the grid of the crop: (T-1, 2, 128, 128) float32."""
        if self.flow is None:
            return None
        back = np.linalg.inv(self.matrix[:, :2]).astype(np.float32)
        return np.einsum("ij,tjyx->tiyx", back, self.flow.astype(np.float32))


@dataclass(frozen=True)
class Prediction:
    """The network's output for a video.

    Attributes:
        video: the frames.
        classes: C names.
        interval, stride: in frames; on average where the windows are sampled in time.
        windows: in the order of time.
        skipped: windows that were left out.
        probabilities: (C,) mean over the windows.
        stillness: the network's probabilities of still clips of the face.
        interpolated_from: number of frames before interpolation in time, or None.
        notes: how the network reads a window, and what it does not estimate.
        calibration: the network's temperature, or why it has none; None as `predict_video` gives it. Probabilities are
            stored without it, so that it changes no verdict; `calibrated` applies it.
        seconds_apart: seconds between a window's frames if they are sampled in time, because the frame rate varies;
            None if they are sampled by number.
    """

    video: Video
    classes: list[str]
    interval: int
    stride: int
    windows: list[Window]
    skipped: list[Skipped]
    probabilities: np.ndarray
    stillness: Stillness
    interpolated_from: int | None = None
    notes: tuple[str, ...] = ()
    calibration: Temperature | None = None
    seconds_apart: float | None = None

    @property
    def predicted(self) -> str | None:
        """The class of the whole video; None if it can't be told from a still face."""
        return self.class_of(self.probabilities)

    @property
    def verdict(self) -> str:
        """The result for the whole video, in words.

        Windows that are no still face, but of different classes, can have the mean probabilities of one: they disagree.
        """
        found = self.verdict_of(self.probabilities)
        still = [self.class_of(window.probabilities) is None for window in self.windows]
        return DISAGREEMENT if found == STILL_FACE and sum(still) < len(still) / 2 else found

    @property
    def knows_neutral(self) -> bool:
        """Whether the network has a class for faces without an expression."""
        return NEUTRAL in self.classes

    @property
    def temperature(self) -> float | None:
        """None if the network isn't calibrated."""
        return self.calibration.value if self.calibration else None

    @property
    def kind_of_probability(self) -> str:
        """What `calibrated` gives, for texts."""
        return "mean probability" if self.temperature is None else "calibrated probability"

    def calibrated(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities (..., C) of the vote or of windows at the temperature, as they are reported.

        Each window is calibrated as if it were the only one; the order of the classes stays.
        """
        return apply_temperature(probabilities, self.temperature).astype(probabilities.dtype)

    def class_of(self, probabilities: np.ndarray) -> str | None:
        """The most probable class; None if the probabilities (C,) could be those of a still face.

        A network with a class "neutral" may give it to a still face.
        """
        winner = self.classes[int(np.argmax(probabilities))]
        return winner if winner == NEUTRAL or not self.stillness.covers(probabilities) else None

    def verdict_of(self, probabilities: np.ndarray) -> str:
        """The class in words: an emotion, "no expression" or "not distinguishable from a still face"."""
        found = self.class_of(probabilities)
        return STILL_FACE if found is None else NO_EXPRESSION if found == NEUTRAL else found

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.video.duration

    def centre_of(self, window: Window | Skipped) -> float:
        """Time of the middle of a window, in seconds."""
        seconds = self.video.seconds
        return float(seconds[window.start] + seconds[window.end]) / 2


def predict_video(
    model: nn.Module,
    video: Video,
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
    network: Network = MOL,
) -> Prediction:
    """Slide a window of T = 8 frames over a video and run the network on each.

    Args:
        model: in evaluation mode.
        video: grey frames.
        classes: names in the order of the logits.
        interval: frames between two sampled frames; see `PredictConfig`.
        stride: frames between the starts of two windows.
        interpolate: lengthen a video of fewer than T frames.
        landmarks: (L, 68, 2) in pixels, NaN where a frame has none; by default the detector's.
        detector: by default dlib's, following the face; called with the frames in the order of time.
        detect_width: wider frames are averaged down to this width, in pixels, for dlib's face detection; 0 for never.
        several: what to do if a frame shows several faces.
        on_error: what to do if a frame has no usable face.
        max_gap: greatest number of frames in a row whose landmarks are interpolated if no face is found in them.
        batch_size: windows at once.
        precision: "32" or "bf16-mixed".
        track: progress display.
        network: what kind of network `model` is; MOL by default.
    Raises:
        ClipError: the video is shorter than one window, every window has a gap in time, or the network's
            probabilities are not finite.
        NoFaceError, SeveralFacesError: naming the frame; with on_error="skip" only if no window is left.
    """
    original = len(video)
    if interpolate and 2 <= original < FRAMES:
        video, landmarks = _lengthen(video, landmarks)
    plan = plan_windows(video, interval, stride)
    samples, torn = split_at_gaps(video, plan.samples)
    used = sorted({int(frame) for window in samples for frame in window})
    if landmarks is None:
        detector = detector or FaceFollower(DlibDetector(width=detect_width))
        found = _detect(video, used, detector, several, on_error, max_gap, track)
    else:
        found = _given(video, used, landmarks, on_error, max_gap)
    points, problems = found.points, found.lost
    chosen = [window for window in samples if not any(int(frame) in problems for frame in window)]
    faceless = [_skip(window, problems) for window in samples if any(int(frame) in problems for frame in window)]
    if not chosen:
        raise NoFaceError(f"no window of the video has a usable face in all its {FRAMES} frames: {faceless[0].reason}")
    windows: list[Window] = []
    batches = [chosen[first : first + batch_size] for first in range(0, len(chosen), batch_size)]
    for batch in track(batches, "running the network"):
        windows += _run_network(network, model, video, points, batch, precision)
    mean = np.mean([window.probabilities for window in windows], axis=0)
    return Prediction(
        video,
        list(classes),
        plan.interval,
        plan.stride,
        windows,
        sorted([*torn, *faceless], key=lambda window: window.start),
        mean,
        _read_still_clips(network, model, video, windows, precision),
        original if original != len(video) else None,
        (*video.rate_notes, *video.notes, *long_windows(video, chosen), *_notes(network), *found.notes(video)),
        seconds_apart=plan.seconds_apart,
    )


@dataclass(frozen=True)
class _Found:
    """The face in the frames that windows use.

    Attributes:
        points: (L, 68, 2), NaN where the face is lost or nobody looked for it.
        lost: frame → why it has none.
        filled: frames whose points were interpolated.
    """

    points: np.ndarray
    lost: dict[int, str]
    filled: list[int]

    def notes(self, video: Video) -> list[str]:
        """What to know about interpolated frames."""
        if not self.filled:
            return []
        names = [video.names[index] for index in self.filled[:5]] + ["…"] * (len(self.filled) > 5)
        frames = "1 frame" if len(self.filled) == 1 else f"{len(self.filled)} frames"
        return [f"no face was found in {frames} ({', '.join(names)}); the landmarks there are interpolated in time"]


def _notes(network: Network) -> list[str]:
    """How a network reads a window, and what it does not estimate."""
    notes = [network.window_note] if network.window_note else []
    if FLOW not in network.estimates:
        notes.append(f"{network.title} estimates no optical flow; the pictures show none")
    if LANDMARKS not in network.estimates:
        notes.append(f"{network.title} estimates no landmarks; the pictures show those of the detector")
    return notes


def _lengthen(video: Video, landmarks: np.ndarray | None) -> tuple[Video, np.ndarray | None]:
    """A video of T frames over the same time, and its landmarks, by linear interpolation."""
    length = len(video)
    times = np.linspace(0, length - 1, FRAMES)
    names = [f"frame {time:.2f} (interpolated)" for time in times]
    fps = video.fps * (FRAMES - 1) / (length - 1)
    seconds = np.interp(times, np.arange(length), video.seconds)
    longer = Video(
        interpolate_frames(video.frames, FRAMES), fps, names, seconds, notes=video.notes, rate_notes=video.rate_notes
    )
    if landmarks is None:
        return longer, None
    earlier = np.minimum(times.astype(int), length - 2)
    weight = (times - earlier)[:, None, None]
    return longer, (landmarks[earlier] * (1 - weight) + landmarks[earlier + 1] * weight).astype(np.float32)


def _detect(
    video: Video,
    used: Sequence[int],
    detector: LandmarkDetector,
    several: Literal["raise", "largest"],
    on_error: Literal["raise", "skip"],
    max_gap: int,
    track: Track,
) -> _Found:
    """Follow the face through the frames in `used`."""
    frames = (video.frames[index] for index in track(used, "finding the face"))
    try:
        found = follow_face(frames, detector, [video.names[index] for index in used], several, on_error, max_gap)
    except FaceError as error:
        raise type(error)(f"{error} Or leave the windows with this frame out: --on-error skip.") from error
    points = np.full((len(video), 68, 2), np.nan, np.float32)
    points[list(used)] = found.points
    lost = {used[place]: str(error) for place, error in found.lost.items()}
    return _Found(points, lost, [used[place] for place in found.filled])


def _given(video: Video, used: Sequence[int], landmarks: np.ndarray, on_error: str, max_gap: int) -> _Found:
    """Given landmarks, with short gaps filled."""
    if landmarks.shape != (len(video), 68, 2):
        raise ClipError(f"landmarks must be ({len(video)}, 68, 2) for this video, not {landmarks.shape}")
    points = landmarks.copy()
    points[list(used)], places = fill_short_gaps(landmarks[list(used)], max_gap)
    lacking = [index for index in used if not np.isfinite(points[index]).all()]
    if lacking and on_error == "raise":
        raise NoFaceError(
            f"the given landmarks have no points for {video.names[lacking[0]]}, and they are interpolated over at most "
            f"{max_gap} frames in a row (--max-gap) and half of all; fill them in, or leave the windows with this "
            "frame out: --on-error skip."
        )
    lost = {index: f"the given landmarks have no points for {video.names[index]}" for index in lacking}
    return _Found(points, lost, [used[place] for place in places])


def _skip(window: np.ndarray, problems: Mapping[int, str]) -> Skipped:
    first = next(int(frame) for frame in window if int(frame) in problems)
    return Skipped(int(window[0]), int(window[-1]), problems[first])


def _run_network(
    network: Network,
    model: nn.Module,
    video: Video,
    points: np.ndarray,
    samples: Sequence[np.ndarray],
    precision: str,
) -> list[Window]:
    """Align a batch of windows, run the network, map its output back to the video."""
    aligned = [align_clip(video.frames[sample], points[sample], AlignSettings()) for sample in samples]
    margin = (AlignSettings().size - CROP) // 2
    device = next(model.parameters()).device
    inputs = network.window_inputs(np.stack([frames for frames, _, _ in aligned]), device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
        output = model(inputs)
    probabilities = torch.softmax(output.logits.float(), dim=-1).cpu().numpy()
    require_probabilities(probabilities, [f"frames {sample[0]} to {sample[-1]}" for sample in samples])
    flow = None if output.flow is None else output.flow.to(torch.float16).cpu().numpy()
    landmarks = None if output.landmarks is None else output.landmarks.float().cpu().numpy()
    windows = []
    for index, sample in enumerate(samples):
        matrix = aligned[index][2][0] - np.array([[0, 0, margin], [0, 0, margin]])
        moved = None if flow is None else flow[index]
        placed = None if landmarks is None else transform_points(inverse(matrix), landmarks[index])
        windows.append(Window(sample, matrix, probabilities[index], moved, placed, points[sample]))
    return windows


def _read_still_clips(
    network: Network, model: nn.Module, video: Video, windows: Sequence[Window], precision: str
) -> Stillness:
    """Run the network on first frames of windows, each repeated with noise as of the video under its own alignment."""
    chosen = [windows[place] for place in np.linspace(0, len(windows) - 1, STILL_CLIPS).round().astype(int)]
    noises = [sensor_noise(_face_box(video, window)) for window in {window.start: window for window in chosen}.values()]
    noise = float(np.sqrt(np.mean(np.square(noises))))
    rng = np.random.default_rng(0)
    sample, read = np.arange(FRAMES), []
    for window, factor in zip(chosen, NOISE_FACTORS, strict=True):
        frames = still_frames(video.frames[window.start], FRAMES, factor * noise, rng)
        still = Video(frames, video.fps, [video.names[window.start]] * FRAMES)
        read += _run_network(network, model, still, window.detected, [sample], precision)
    return Stillness(np.stack([window.probabilities for window in read]), noise)


def _face_box(video: Video, window: Window) -> np.ndarray:
    """The part of a window's frames that holds the face in all of them: (T, h, w)."""
    height, width = video.frames.shape[1:]
    low = np.floor(window.detected.min(axis=(0, 1))).astype(int).clip(0)
    high = np.ceil(window.detected.max(axis=(0, 1))).astype(int).clip(0, (width, height))
    return video.frames[window.frames, low[1] : high[1], low[0] : high[0]]


def inverse(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a (2, 3) affine matrix."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.concatenate([linear, -linear @ matrix[:, 2:]], axis=1)
