"""A prediction as pictures: which frames the overview shows, and what each frame of the overlay video shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.terminal import Track
from mol.data.clips import CROP
from mol.network.model import FRAMES
from mol.pictures.faces import flow_maximum
from mol.pictures.overview import Overview, Timeline, overview_picture
from mol.prediction.overlay import OverlayFrame, OverlayStyle, write_overlay
from mol.prediction.windows import STILL_FACE, Prediction, Window, inverse
from mol.vision.align import transform_points, warp_picture

_STRIP = 8


def overview_of(path: Path, prediction: Prediction, name: str) -> None:
    """Write the overview picture of a prediction."""
    video, seconds = prediction.video, prediction.video.seconds
    shown, why = _shown_window(prediction)
    numbers = np.unique(np.linspace(0, len(video) - 1, _STRIP).round().astype(int))
    seen = [window_at(prediction, int(number)) for number in numbers]
    square = np.array([[0, 0], [CROP, 0], [CROP, CROP], [0, CROP]]) - 0.5
    overview_picture(
        path,
        Overview(
            title=f"{name}: {prediction.verdict.replace('_', ' ')}",
            subtitle=_subtitle(prediction),
            window_title=f"{why}: {_content_of(shown)}",
            frames=[video.frames[number] for number in numbers],
            frame_times=[float(seconds[number]) for number in numbers],
            frame_points=[
                points_at(window, int(number), seconds) if window else None
                for window, number in zip(seen, numbers, strict=True)
            ],
            frame_boxes=[transform_points(inverse(window.matrix), square) if window else None for window in seen],
            crops=np.stack([warp_picture(frame, shown.matrix, CROP) for frame in video.frames[shown.frames[1:]]]),
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
        distances = [float(prediction.stillness.distance(window.probabilities)) for window in prediction.windows]
        place = int(np.argmax(distances))
        return prediction.windows[place], f"The window furthest from a still face ({distances[place]:.3f})"
    winner = int(np.argmax(prediction.probabilities))
    probabilities = [float(prediction.calibrated(window.probabilities)[winner]) for window in prediction.windows]
    place = int(np.argmax(probabilities))
    predicted = prediction.predicted.replace("_", " ")
    return prediction.windows[place], f"The window that says {predicted} most ({probabilities[place]:.2f})"


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
        f"{len(prediction.windows)} windows of {FRAMES} {apart}",
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
    probabilities = np.stack([window.probabilities for window in prediction.windows])
    return Timeline(
        times=np.array([prediction.centre_of(window) for window in prediction.windows]),
        probabilities=prediction.calibrated(probabilities),
        classes=prediction.classes,
        duration=prediction.duration,
        mean=prediction.calibrated(prediction.probabilities),
        gaps=_gaps(prediction),
        winner=None if prediction.predicted is None else int(np.argmax(prediction.probabilities)),
        distances=prediction.stillness.distance(probabilities),
        still=prediction.stillness.between,
        limit=prediction.stillness.limit,
        is_calibrated=prediction.temperature is not None,
    )


def _gaps(prediction: Prediction) -> list[tuple[float, float]]:
    """Stretches of time (seconds) whose nearest window was skipped: half way to the neighbours, within the video."""
    skipped = [(prediction.centre_of(window), True) for window in prediction.skipped]
    known = sorted([*skipped, *((prediction.centre_of(window), False) for window in prediction.windows)])
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


def window_at(prediction: Prediction, number: int) -> Window | None:
    """The window over frame `number` whose middle is nearest, or None if no window covers it."""
    covering = [window for window in prediction.windows if window.frames[0] <= number <= window.frames[-1]]
    time = prediction.video.seconds[number]
    return min(covering, key=lambda window: abs(prediction.centre_of(window) - time)) if covering else None


def points_at(window: Window, number: int, seconds: np.ndarray) -> np.ndarray:
    """Landmarks at frame `number`, interpolated in time between the sampled frames; (68, 2).

    They are the network's, or the detector's if the network estimates none.

    Args:
        window: one that covers the frame.
        number: of the frame.
        seconds: (L,) times of the video's frames.
    """
    known = (window.frames, window.detected) if window.landmarks is None else (window.frames[1:], window.landmarks)
    frames, landmarks = known
    place = np.interp(seconds[number], seconds[frames], np.arange(len(landmarks)))
    earlier = min(int(place), len(landmarks) - 2)
    weight = place - earlier
    return landmarks[earlier] * (1 - weight) + landmarks[earlier + 1] * weight


def flow_at(window: Window, number: int) -> np.ndarray | None:
    """The network's flow over the pair of sampled frames around frame `number`; (2, 128, 128) float32, crop pixels."""
    if window.flow is None:
        return None
    pair = int(np.searchsorted(window.frames, number, side="right")) - 1
    return window.flow[min(pair, len(window.flow) - 1)].astype(np.float32)


def write_overlay_of(path: Path, prediction: Prediction, track: Track) -> None:
    """Write the overlay video of a prediction."""
    sample = [window.flow for window in prediction.windows[:: max(1, len(prediction.windows) // 32)]]
    flows = [flow for flow in sample if flow is not None]
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
    write_overlay(path, _overlay_frames(prediction, numbers), style, prediction.video.fps)


def _overlay_frames(prediction: Prediction, numbers: Any) -> Iterator[OverlayFrame]:
    video, seconds = prediction.video, prediction.video.seconds
    for number in numbers:
        window = window_at(prediction, number)
        known: dict[str, Any] = {}
        if window is not None:
            known = {
                "points": points_at(window, number, seconds),
                "flow": flow_at(window, number),
                "matrix": window.matrix,
                "probabilities": prediction.calibrated(window.probabilities),
                "verdict": _heading(prediction, window),
            }
        yield OverlayFrame(video.frames[number], float(seconds[number]), number, **known)


def _heading(prediction: Prediction, window: Window) -> str:
    """The verdict of a window, short enough for the overlay's panel."""
    verdict = prediction.verdict_of(window.probabilities)
    return "like a still face" if verdict == STILL_FACE else verdict


def _winners(prediction: Prediction) -> np.ndarray:
    """Start, end (seconds) and winning class, −1 if like a still face, of each run of frames with the same winner."""
    stretches: list[list[float]] = []
    # Each frame is shown until the next one.
    bounds = [*prediction.video.seconds.tolist(), prediction.duration]
    for number in range(len(prediction.video)):
        window = window_at(prediction, number)
        if window is None:
            continue
        still = prediction.class_of(window.probabilities) is None
        winner = -1 if still else int(np.argmax(window.probabilities))
        if stretches and stretches[-1][2] == winner and stretches[-1][1] == bounds[number]:
            stretches[-1][1] = bounds[number + 1]
        else:
            stretches.append([bounds[number], bounds[number + 1], winner])
    return np.array(stretches).reshape(-1, 3)
