"""Emotion, flow and landmarks of the face in any video: from a file and a trained network to a folder of results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mol.common.checks import require_at_most, require_not_negative, require_one_of, require_positive
from mol.common.devices import fastest_precision, start_fabric
from mol.common.environment import versions
from mol.common.errors import CheckpointError, SettingsError
from mol.common.memory import failures_named
from mol.common.storage import write_atomic, write_text
from mol.common.terminal import Track, say, silently, tracking
from mol.data.sets.registry import set_of_folder
from mol.network.checkpoint import find_checkpoint
from mol.network.model import FRAMES
from mol.networks.registry import DEFAULT
from mol.networks.trained import load_model
from mol.prediction.windows import DETECT_WIDTH, NO_EXPRESSION, STILL_FACE, Prediction, Window, predict_video
from mol.scoring.calibration import temperature_of
from mol.vision.landmark_files import read_landmarks
from mol.vision.points import interocular_distance
from mol.vision.tracking import MAX_GAP
from mol.vision.video import Video, read_video

__all__ = ["PredictConfig", "Prediction", "Window", "predict", "predict_video", "write_prediction"]

NO_NEUTRAL_CLASS = (
    "The network was trained without neutral clips: for any face, moving or not, it finds one of its emotions the most "
    "probable."
)


@dataclass
class PredictConfig:
    """Emotion, optical flow and landmarks of a face video, by a trained network; the emotion alone by a baseline.

    Attributes:
        video: a video file, or a folder of frames numbered in their names.
        weights: run folder of `mol train`, or a checkpoint folder inside one.
        out: folder to write predictions.json, overview.png, overlay.mp4 and arrays.npz to.
        interval: frames from one of a window's 8 frames to the next; by default an eighth of the video, at most what
            lets a window last 0.5 seconds.
        stride: frames from one window's start to the next; by default a quarter of a window.
        fps: frames per second, evenly spaced; by default each frame's own time stamp is used, for a folder of frames
            the rate of the data set that it belongs to, or 25.
        interpolate: lengthen a video of fewer than 8 frames by linear interpolation in time.
        landmarks: CSV (one row per frame, columns x_0…x_67, y_0…y_67) or NPZ (array "landmarks", frames × 68 × 2) with
            points in pixels, instead of dlib's; NaN or empty where a frame has no face.
        detect_width: frames wider than this are averaged down to it for face detection; landmarks are always found in
            the full frame. 0 never scales down.
        several: where a frame shows several faces, "raise" stops and "largest" takes the largest.
        on_error: where a frame shows no usable face, "raise" stops and "skip" leaves its windows out and lists them.
        max_gap: if no face is found in up to this many frames in a row, their landmarks are interpolated in time.
        batch_size: windows at once.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "32", "bf16-mixed" for bfloat16 where it is safe, or "auto": bfloat16 if the device, also a
            processor, computes in it.
        overlay: write the overlay video.
        save_arrays: write arrays.npz with flow and landmarks of every window.
    """

    video: str
    weights: str
    out: str = "prediction"
    interval: int | None = None
    stride: int | None = None
    fps: float | None = None
    interpolate: bool = False
    landmarks: str | None = None
    detect_width: int = DETECT_WIDTH
    several: Literal["raise", "largest"] = "raise"
    on_error: Literal["raise", "skip"] = "raise"
    max_gap: int = MAX_GAP
    batch_size: int = 4
    device: str = "auto"
    precision: Literal["32", "bf16-mixed", "auto"] = "32"
    overlay: bool = True
    save_arrays: bool = False

    def __post_init__(self) -> None:
        require_positive(self, "interval", "stride", "fps", "batch_size")
        require_at_most(self, interval=10**9, stride=10**9, fps=10**6, batch_size=10**6, detect_width=10**6)
        if self.fps is not None and self.fps < 0.001:
            raise SettingsError(f"fps={self.fps} must be at least 0.001")
        if self.max_gap < 0:
            raise SettingsError(f"max_gap={self.max_gap} must not be negative; 0 interpolates no landmarks")
        require_not_negative(self, "detect_width")
        require_one_of(self, "several", ("raise", "largest"))
        require_one_of(self, "on_error", ("raise", "skip"))
        require_one_of(self, "precision", ("32", "bf16-mixed", "auto"))


def run_predict(config: PredictConfig) -> None:
    """Predict a video and print the result."""
    with tracking() as track:
        prediction, files = predict(config, track)
    say(describe_prediction(prediction))
    for name, path in files.items():
        say(f"{name:<12}{path}")


def predict(config: PredictConfig, track: Track = silently) -> tuple[Prediction, dict[str, Path]]:
    """Read a video and a network, predict, write the results.

    Args:
        config: see `PredictConfig`.
        track: progress display.
    Returns:
        The prediction, and the files written: kind → path.
    Raises:
        MOLError: of the kind that fits; it names the file, frame or setting, and the remedy.
    """
    if config.precision == "auto":
        config = replace(config, precision=fastest_precision(config.device))  # type: ignore[arg-type]
    fabric = start_fabric(config.device, config.precision)
    trained = load_model(config.weights, fabric.device)
    check_normalisation(trained.state, config.weights)
    temperature = temperature_of(trained.state)
    video = _read(config)
    size, remedy = video.frames.nbytes, "give a shorter part of the video, a smaller --batch-size or --overlay false"
    with failures_named(size, f"the frames of {config.video}", remedy):
        given = read_landmarks(Path(config.landmarks), len(video)) if config.landmarks else None
        prediction = predict_video(
            trained.model,
            video,
            trained.classes,
            interval=config.interval,
            stride=config.stride,
            interpolate=config.interpolate,
            landmarks=given,
            detect_width=config.detect_width,
            several=config.several,
            on_error=config.on_error,
            max_gap=config.max_gap,
            batch_size=config.batch_size,
            precision=config.precision,
            track=track,
            network=trained.network,
        )
        prediction = replace(prediction, calibration=temperature)
        return prediction, write_prediction(prediction, config, trained.state, track)


def _read(config: PredictConfig) -> Video:
    """The video, at the rate that is given or, for a folder, at that of the data set that it belongs to."""
    path = Path(config.video)
    if config.fps:
        return read_video(path, folder_fps=config.fps).at_rate(config.fps)
    known = set_of_folder(path) if path.is_dir() else None
    if known is None:
        return read_video(path)
    title, fps = known
    video = read_video(path, folder_fps=fps)
    note = f"the folder belongs to {title}: {fps:g} frames per second; --fps sets another rate"
    return replace(video, rate_notes=(note,))


def check_normalisation(state: Mapping[str, Any], weights: str) -> None:
    """Refuse a network whose training normalisation can't be applied to one new video.

    Raises:
        CheckpointError: trained with another normalisation than per clip.
    """
    normalisation = state.get("normalisation", "clip")
    if normalisation != "clip":
        raise CheckpointError(
            f"{weights} was trained with normalisation={normalisation!r}, which needs all clips of a person; "
            'a new video can only be predicted by a network trained with normalisation="clip"'
        )


def write_prediction(
    prediction: Prediction, config: PredictConfig, state: Mapping[str, Any], track: Track = silently
) -> dict[str, Path]:
    """Write predictions.json, overview.png and, as the configuration says, overlay.mp4 and arrays.npz.

    Returns:
        The files written: kind → path.
    Raises:
        StorageError: a file could not be written.
    """
    # Drawing needs the extra "report", predicting doesn't.
    from mol.prediction.storyboard import overview_of, write_overlay_of

    out = Path(config.out)
    files = {"overview": out / "overview.png"}
    overview_of(files["overview"], prediction, Path(config.video).name)
    if config.overlay:
        files["overlay"] = out / "overlay.mp4"
        write_overlay_of(files["overlay"], prediction, track)
    if config.save_arrays:
        files["arrays"] = out / "arrays.npz"
        write_atomic(files["arrays"], lambda temporary: np.savez_compressed(temporary, **_arrays(prediction)))
    # Last, so that if predictions.json is there, so are the others.
    files["predictions"] = out / "predictions.json"
    write_text(files["predictions"], compact_json(_describe(prediction, config, state)))
    return files


def _arrays(prediction: Prediction) -> dict[str, Any]:
    windows = prediction.windows
    probabilities = np.stack([window.probabilities for window in windows])
    estimated = {
        "flow": [window.flow for window in windows if window.flow is not None],
        "landmarks": [window.landmarks for window in windows if window.landmarks is not None],
    }
    return {
        "frames": np.stack([window.frames for window in windows]),
        "picture_to_crop": np.stack([window.matrix for window in windows]),
        "probabilities": prediction.calibrated(probabilities),
        "uncalibrated_probabilities": probabilities,
        # What the network does not estimate is left out.
        **{name: np.stack(values) for name, values in estimated.items() if values},
        "detected": np.stack([window.detected for window in windows]),
        "still_probabilities": prediction.stillness.probabilities,
    }


def _describe(prediction: Prediction, config: PredictConfig, state: Mapping[str, Any]) -> dict[str, Any]:
    video = prediction.video
    return {
        "format": 1,
        "video": {
            "path": config.video,
            "frames": len(video),
            "interpolated_from": prediction.interpolated_from,
            "fps": video.fps,
            "variable_rate": video.has_variable_rate,
            "seconds": round(prediction.duration, 4),
            "width": video.frames.shape[2],
            "height": video.frames.shape[1],
        },
        "network": {
            "name": state.get("network", DEFAULT),
            "checkpoint": str(find_checkpoint(config.weights)),
            "step": state["step"],
            **state["model"],
        },
        "settings": {**asdict(config), "interval": prediction.interval, "stride": prediction.stride},
        "versions": versions(),
        "classes": prediction.classes,
        "still_clips": _describe_stillness(prediction),
        "vote": {
            "rule": _rule(prediction),
            "predicted": prediction.predicted,
            "verdict": prediction.verdict,
            "distance_from_still": _rounded([prediction.stillness.distance(prediction.probabilities)])[0],
            "probabilities": _named(prediction.classes, prediction.calibrated(prediction.probabilities)),
            "temperature": prediction.temperature,
            "calibration": prediction.calibration.describe() if prediction.calibration else None,
            "windows": len(prediction.windows),
            "skipped": len(prediction.skipped),
        },
        "notes": list(prediction.notes),
        "windows": [_describe_window(window, prediction) for window in prediction.windows],
        "skipped": [
            {"start": window.start, "end": window.end, "reason": window.reason} for window in prediction.skipped
        ],
    }


def _describe_stillness(prediction: Prediction) -> dict[str, Any]:
    stillness = prediction.stillness
    smallest, largest = stillness.between
    return {
        "clips": len(stillness.probabilities),
        "noise_grey_levels": round(stillness.noise, 3),
        "probabilities": _named(prediction.classes, stillness.mean),
        "distance": "total variation, before calibration",
        "distance_between_them": {"smallest": round(smallest, 4), "largest": round(largest, 4)},
        "still_up_to": round(stillness.limit, 4),
        "network_has_class_neutral": prediction.knows_neutral,
        **({} if prediction.knows_neutral else {"note": NO_NEUTRAL_CLASS}),
    }


def _rule(prediction: Prediction) -> str:
    mean = "mean probability over the windows"
    return mean if prediction.temperature is None else f"{mean}, at temperature {prediction.temperature:.3g}"


def _describe_window(window: Window, prediction: Prediction) -> dict[str, Any]:
    return {
        "start": window.start,
        "frames": window.frames.tolist(),
        "seconds": _rounded(prediction.video.seconds[window.frames]),
        "predicted": prediction.class_of(window.probabilities),
        "verdict": prediction.verdict_of(window.probabilities),
        "distance_from_still": _rounded([prediction.stillness.distance(window.probabilities)])[0],
        "probabilities": _named(prediction.classes, prediction.calibrated(window.probabilities)),
        "picture_to_crop": np.round(window.matrix, 5).tolist(),
        **_describe_flow(window),
        **_describe_landmarks(window),
    }


def _describe_flow(window: Window) -> dict[str, Any]:
    flow = window.picture_flow()
    if flow is None:
        return {}
    lengths = np.hypot(*np.moveaxis(flow, 1, 0)).reshape(FRAMES - 1, -1)
    return {"flow_px": {"mean": _rounded(lengths.mean(axis=1)), "largest": _rounded(lengths.max(axis=1))}}


def _describe_landmarks(window: Window) -> dict[str, Any]:
    if window.landmarks is None:
        return {}
    distance = np.linalg.norm(window.landmarks - window.detected[1:], axis=-1).mean(axis=-1)
    return {
        "landmarks_px": {
            "x": np.round(window.landmarks[..., 0].astype(float), 2).tolist(),
            "y": np.round(window.landmarks[..., 1].astype(float), 2).tolist(),
        },
        "landmarks_to_detector_nme": _rounded(distance / interocular_distance(window.detected[1:])),
    }


def _named(classes: Sequence[str], probabilities: np.ndarray) -> dict[str, float]:
    return dict(zip(classes, _rounded(probabilities), strict=True))


def _rounded(values: Iterable[Any]) -> list[float]:
    return [round(float(value), 4) for value in values]


def compact_json(value: Any) -> str:
    """JSON with two spaces of indent and each list of numbers on one line."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # A JSON string holds no raw line break, so this can only match lists.
    return re.sub(r"\[\n[\s\d.,eE+-]+\]", _on_one_line, text) + "\n"


def _on_one_line(numbers: re.Match[str]) -> str:
    return "[" + ", ".join(numbers[0].strip("[]").replace(",", " ").split()) + "]"


def describe_prediction(prediction: Prediction) -> str:
    """The result in a few lines; an emotion is only named where the video can be told from a still face."""
    count = len(prediction.windows)
    lines = [f"{count} window{'s' if count != 1 else ''} over {prediction.duration:.1f} s: {prediction.verdict}"]
    if prediction.predicted is not None:
        probabilities = prediction.calibrated(prediction.probabilities)
        ranked = sorted(zip(prediction.classes, probabilities, strict=True), key=lambda pair: -pair[1])
        named = ", ".join(f"{name} {value:.2f}" for name, value in ranked[:3])
        lines[0] += f"; {prediction.kind_of_probability}: {named}"
    if prediction.calibration:
        lines.append(f"probabilities: {prediction.calibration.describe()}")
    verdicts = [prediction.verdict_of(window.probabilities) for window in prediction.windows]
    shares = [(kind, verdicts.count(kind)) for kind in (NO_EXPRESSION, STILL_FACE) if kind in verdicts]
    lines += [f"{kind}: {found} of {count} windows" for kind, found in shares]
    distance = prediction.stillness.distance(prediction.probabilities)
    smallest, largest = prediction.stillness.between
    lines.append(
        f"distance from still clips of the same face: {distance:.3f} (these from one another: {smallest:.3f} to "
        f"{largest:.3f}; like a still face up to {prediction.stillness.limit:.3f})"
    )
    if not prediction.knows_neutral:
        lines.append(NO_NEUTRAL_CLASS)
    for is_gap, why in ((False, "because a frame has no usable face"), (True, "because of a gap in time")):
        left_out = [window for window in prediction.skipped if window.is_gap == is_gap]
        if left_out:
            frames = ", ".join(f"{window.start}–{window.end}" for window in left_out)
            lines.append(f"windows left out {why}: {len(left_out)} (frames {frames})")
    lines += [f"note: {note}" for note in prediction.notes]
    return "\n".join(lines)
