"""A prediction in words and numbers: predictions.json, written as the windows come, and the lines on the terminal."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.scratch import Scratch
from mol.common.storage import write_atomic
from mol.network.model import FRAMES
from mol.prediction.result import NO_EXPRESSION, STILL_FACE, Prediction, Scene
from mol.prediction.sampling import Skipped
from mol.prediction.windows import Window
from mol.vision.points import interocular_distance

NO_NEUTRAL_CLASS = (
    "The network was trained without neutral clips: for any face, moving or not, it finds one of its emotions the most "
    "probable."
)

# Action units that the terminal shows, the most probable ones.
_UNITS = 5
# Stands for the windows in the frame of the document.
_HERE = "the windows"
_CHUNK = 1 << 20


class Entries:
    """The windows' entries of predictions.json, kept on disk until the rest is known.

    Args:
        scene: whose windows they are.
        folder: where the working file lies.
    Raises:
        StorageError: the disk is full.
    """

    def __init__(self, scene: Scene, folder: Path) -> None:
        self._scene = scene
        self._seconds = scene.video.seconds
        self._scratch = Scratch(folder, "make space in the first place: predictions.json alone needs that much")
        self._size = 0

    def hear(self, number: int, window: Window) -> None:
        """Describe the next window."""
        entry = compact_json(describe_window(window, self._scene, self._seconds)).rstrip("\n")
        data = ((",\n" if number else "") + textwrap.indent(entry, "    ")).encode("utf-8", "backslashreplace")
        self._scratch.write(data)
        self._size += len(data)

    def write(self, path: Path, document: Mapping[str, Any]) -> None:
        """Write the document with the entries in the place of its windows, atomically.

        Args:
            path: predictions.json.
            document: whose key "windows" is replaced.
        Raises:
            StorageError: the file could not be written.
        """
        before, after = compact_json({**document, "windows": [_HERE]}).split(f'    "{_HERE}"', 1)

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                file.write(before.encode("utf-8", "backslashreplace"))
                for start in range(0, self._size, _CHUNK):
                    file.write(self._scratch.read(start, min(_CHUNK, self._size - start)))
                file.write(after.encode("utf-8", "backslashreplace"))

        write_atomic(path, write)

    def close(self) -> None:
        """Give the space back."""
        self._scratch.close()


def describe(prediction: Prediction, facts: Mapping[str, Any], path: str) -> dict[str, Any]:
    """All of predictions.json but the windows.

    Args:
        prediction: of one person.
        facts: of the run: network, settings, versions.
        path: of the video.
    """
    video = prediction.video
    height, width = video.shape
    return {
        "format": 1,
        "video": {
            "path": path,
            "frames": len(video),
            "interpolated_from": prediction.interpolated_from,
            "fps": video.fps,
            "variable_rate": video.has_variable_rate,
            "seconds": round(prediction.duration, 4),
            "width": width,
            "height": height,
        },
        **facts,
        "person": prediction.person.number,
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
            **_describe_units(prediction.unit_probabilities, prediction),
            "windows": len(prediction.trace),
            "skipped": len(prediction.skipped),
        },
        "notes": list(prediction.notes),
        "windows": [],
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


def describe_window(window: Window, scene: Scene, seconds: np.ndarray) -> dict[str, Any]:
    """A window's entry in predictions.json.

    Args:
        window: one of the scene's.
        scene: the person.
        seconds: (L,) times of the video's frames.
    """
    return {
        "start": window.start,
        "frames": window.frames.tolist(),
        "seconds": _rounded(seconds[window.frames]),
        "predicted": scene.class_of(window.probabilities),
        "verdict": scene.verdict_of(window.probabilities),
        "distance_from_still": _rounded([scene.stillness.distance(window.probabilities)])[0],
        "probabilities": _named(scene.classes, scene.calibrated(window.probabilities)),
        **_describe_units(window.action_units, scene),
        "picture_to_crop": np.round(window.matrix, 5).tolist(),
        **_describe_flow(window),
        **_describe_landmarks(window),
    }


def _describe_units(probabilities: np.ndarray | None, scene: Scene) -> dict[str, Any]:
    if probabilities is None:
        return {}
    return {"action_units": _named([f"AU{unit}" for unit in scene.action_units], probabilities)}


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
    count = len(prediction.trace)
    lines = [f"{count} window{'s' if count != 1 else ''} over {prediction.duration:.1f} s: {prediction.verdict}"]
    if prediction.predicted is not None:
        probabilities = prediction.calibrated(prediction.probabilities)
        ranked = sorted(zip(prediction.classes, probabilities, strict=True), key=lambda pair: -pair[1])
        named = ", ".join(f"{name} {value:.2f}" for name, value in ranked[:3])
        lines[0] += f"; {prediction.kind_of_probability}: {named}"
    if prediction.calibration:
        lines.append(f"probabilities: {prediction.calibration.describe()}")
    if prediction.unit_probabilities is not None:
        units = zip(prediction.action_units, prediction.unit_probabilities, strict=True)
        ranked_units = sorted(units, key=lambda pair: -pair[1])[:_UNITS]
        named_units = ", ".join(f"AU {unit} {value:.2f}" for unit, value in ranked_units)
        lines.append(f"action units, mean probability: {named_units}")
    verdicts = [prediction.verdict_of(probabilities) for probabilities in prediction.trace.probabilities]
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
            frames = ", ".join(f"{start}–{end}" for start, end in _merged(left_out))
            lines.append(f"windows left out {why}: {len(left_out)} (frames {frames})")
    lines += [f"note: {note}" for note in prediction.notes]
    return "\n".join(lines)


def _merged(windows: Sequence[Skipped]) -> Iterator[tuple[int, int]]:
    """First and last frames of windows, those that overlap or touch as one."""
    first = last = None
    for window in windows:
        if last is not None and first is not None and window.start > last + 1:
            yield first, last
            first = None
        first = window.start if first is None else first
        last = window.end if last is None else max(last, window.end)
    if first is not None and last is not None:
        yield first, last
