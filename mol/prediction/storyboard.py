"""A prediction as pictures: which frames the overview shows, and what each frame of the overlay video shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.terminal import Track
from mol.network.estimates import CROP, FRAMES
from mol.pictures.faces import flow_maximum
from mol.pictures.overview import Overview, Timeline, overview_picture
from mol.prediction.overlay import OverlayFrame, OverlayStyle, write_overlay
from mol.prediction.result import STILL_FACE, Prediction
from mol.prediction.sampling import Skipped
from mol.prediction.tape import Tape, interpolated, points_of
from mol.prediction.watch import strip_of
from mol.prediction.windows import Window, inverse
from mol.vision.align import transform_points, warp_picture

_SQUARE = np.array([[0, 0], [CROP, 0], [CROP, CROP], [0, CROP]]) - 0.5


def overview_of(path: Path, prediction: Prediction, name: str) -> None:
    """Write the overview picture of a prediction."""
    video, seconds = prediction.video, prediction.video.seconds
    shown, why = _shown_window(prediction)
    numbers = strip_of(video)
    seen = [prediction.shown.get(int(prediction.nearest[number])) for number in numbers]
    wanted = np.union1d(numbers, shown.frames[1:])
    place = {number: index for index, number in enumerate(wanted.tolist())}
    pictures = list(video.walk(wanted.tolist()))
    strip = list(zip(seen, numbers.tolist(), strict=True))
    overview_picture(
        path,
        Overview(
            title=f"{name}: {prediction.verdict.replace('_', ' ')}",
            subtitle=_subtitle(prediction),
            window_title=f"{why}: {_content_of(shown)}",
            frames=[pictures[place[number]] for number in numbers.tolist()],
            frame_times=[float(seconds[number]) for number in numbers],
            frame_points=[
                interpolated(*points_of(window), number, seconds) if window else None for window, number in strip
            ],
            frame_boxes=[transform_points(inverse(window.matrix), _SQUARE) if window else None for window in seen],
            crops=np.stack([warp_picture(pictures[place[n]], shown.matrix, CROP) for n in shown.frames[1:].tolist()]),
            crop_times=[float(second) for second in seconds[shown.frames[1:]]],
            crop_points=None if shown.landmarks is None else transform_points(shown.matrix, shown.landmarks),
            crop_detected=transform_points(shown.matrix, shown.detected[1:]),
            crop_flow=None if shown.flow is None else shown.flow.astype(np.float32),
            timeline=timeline_of(prediction),
        ),
    )


def _shown_window(prediction: Prediction) -> tuple[Window, str]:
    """The window shown in detail, and why."""
    if prediction.predicted is None:
        window = prediction.shown[prediction.furthest]
        distance = float(prediction.stillness.distance(window.probabilities))
        return window, f"The window furthest from a still face ({distance:.3f})"
    winner = int(np.argmax(prediction.probabilities))
    window = prediction.shown[prediction.strongest[winner]]
    probability = float(prediction.calibrated(window.probabilities)[winner])
    predicted = prediction.predicted.replace("_", " ")
    return window, f"The window that says {predicted} most ({probability:.2f})"


def _content_of(window: Window) -> str:
    """What the pictures of a window show."""
    landmarks = "landmarks" if window.landmarks is not None else "the detector's landmarks"
    return landmarks + (", and flow from the frame before" if window.flow is not None else "; no flow is estimated")


def _subtitle(prediction: Prediction) -> str:
    video = prediction.video
    apart = "consecutive frames" if prediction.interval == 1 else f"frames {prediction.interval} apart"
    if prediction.seconds_apart is not None:
        apart = f"frames {1000 * prediction.seconds_apart:.0f} ms apart"
    average = " on average" if video.has_variable_rate else ""
    parts = [
        f"{len(video)} frames, {prediction.duration:.1f} s at {video.fps:.4g} fps{average}",
        f"{len(prediction.trace)} windows of {FRAMES} {apart}",
    ]
    if prediction.predicted is not None:
        highest = prediction.calibrated(prediction.probabilities).max()
        parts.append(f"{prediction.kind_of_probability} {highest:.2f}")
    if not prediction.knows_neutral:
        parts.append("trained without neutral clips")
    if prediction.skipped:
        parts.append(f"windows skipped: {len(prediction.skipped)}")
    if prediction.interpolated_from:
        parts.append(f"interpolated from {prediction.interpolated_from} frames")
    return "  ·  ".join(parts)


def timeline_of(prediction: Prediction) -> Timeline:
    """Probability over time; neighbouring skipped windows become one gap."""
    trace = prediction.trace
    return Timeline(
        times=trace.centres,
        probabilities=prediction.calibrated(trace.probabilities),
        classes=prediction.classes,
        duration=prediction.duration,
        mean=prediction.calibrated(prediction.probabilities),
        gaps=_gaps(prediction),
        winner=None if prediction.predicted is None else int(np.argmax(prediction.probabilities)),
        distances=prediction.stillness.distance(trace.probabilities),
        still=prediction.stillness.between,
        limit=prediction.stillness.limit,
        is_calibrated=prediction.temperature is not None,
    )


def _gaps(prediction: Prediction) -> list[tuple[float, float]]:
    """Stretches of time (seconds) whose nearest window was skipped: half way to the neighbours, within the video."""
    seconds = prediction.video.seconds

    def centre_of(window: Skipped) -> float:
        return float(seconds[window.start] + seconds[window.end]) / 2

    skipped = [(centre_of(window), True) for window in prediction.skipped]
    known = sorted([*skipped, *((centre, False) for centre in prediction.trace.centres.tolist())])
    centres = np.array([centre for centre, _ in known])
    reach = prediction.stride / 2 / prediction.video.fps
    edges = np.concatenate([[centres[0] - reach], (centres[1:] + centres[:-1]) / 2, [centres[-1] + reach]])
    edges = edges.clip(0, prediction.duration)
    gaps: list[tuple[float, float]] = []
    for index, (_, is_skipped) in enumerate(known):
        if is_skipped and gaps and gaps[-1][1] == edges[index]:
            gaps[-1] = (gaps[-1][0], float(edges[index + 1]))
        elif is_skipped:
            gaps.append((float(edges[index]), float(edges[index + 1])))
    return gaps


def write_overlay_of(path: Path, prediction: Prediction, tape: Tape, track: Track) -> None:
    """Write the overlay video of a prediction whose windows are on a tape."""
    flows = tape.flow_sample()
    caption = "per frame" if prediction.interval == 1 else f"over {prediction.interval} frames"
    if prediction.seconds_apart is not None:
        caption = f"over {1000 * prediction.seconds_apart:.0f} ms"
    style = OverlayStyle(
        classes=prediction.classes,
        flow_maximum=flow_maximum(flows, percentile=99) if flows else None,
        flow_caption=caption,
        winners=_winners(prediction),
        duration=prediction.duration,
    )
    numbers = track(range(len(prediction.video)), "drawing the overlay")
    write_overlay(path, _overlay_frames(prediction, tape, numbers), style, prediction.video.fps)


def _overlay_frames(prediction: Prediction, tape: Tape, numbers: Any) -> Iterator[OverlayFrame]:
    seconds = prediction.video.seconds
    for number, picture in zip(numbers, prediction.video.walk(), strict=True):
        known: dict[str, Any] = {}
        if (drawn := tape.matrix_and_points(number, seconds)) is not None:
            probabilities = prediction.trace.probabilities[prediction.nearest[number]]
            known = {
                "points": drawn[1],
                "flow": tape.flow(number),
                "matrix": drawn[0],
                "probabilities": prediction.calibrated(probabilities),
                "verdict": _heading(prediction, probabilities),
            }
        yield OverlayFrame(picture, float(seconds[number]), number, **known)


def _heading(prediction: Prediction, probabilities: np.ndarray) -> str:
    """The verdict of a window, short enough for the overlay's panel."""
    verdict = prediction.verdict_of(probabilities)
    return "like a still face" if verdict == STILL_FACE else verdict


def _winners(prediction: Prediction) -> np.ndarray:
    """Start, end (seconds) and winning class, −1 if like a still face, of each run of frames with the same winner."""
    of_window = [
        -1 if prediction.class_of(probabilities) is None else int(np.argmax(probabilities))
        for probabilities in prediction.trace.probabilities
    ]
    stretches: list[list[float]] = []
    # Each frame is shown until the next one.
    bounds = [*prediction.video.seconds.tolist(), prediction.duration]
    for number, window in enumerate(prediction.nearest.tolist()):
        if window < 0:
            continue
        winner = of_window[window]
        if stretches and stretches[-1][2] == winner and stretches[-1][1] == bounds[number]:
            stretches[-1][1] = bounds[number + 1]
        else:
            stretches.append([bounds[number], bounds[number + 1], winner])
    return np.array(stretches).reshape(-1, 3)
