"""Emotion, flow and landmarks of the faces in any video: from a file and a trained network to a folder of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mol.common.checks import require_at_most, require_not_negative, require_one_of, require_positive
from mol.common.errors import CheckpointError, SettingsError
from mol.common.memory import failures_named
from mol.common.terminal import Track, say, silently, tracking
from mol.data.sets.registry import set_of_folder
from mol.network.estimates import FRAMES
from mol.prediction.alignment import ALIGNMENTS
from mol.prediction.describe import NO_NEUTRAL_CLASS, describe_prediction
from mol.prediction.files import Files
from mol.prediction.page import Shown, write_prediction_page
from mol.prediction.result import Prediction, Scene
from mol.prediction.watch import DETECT_WIDTH, Listener, WatchSettings, check_people, predict_video, watch
from mol.prediction.weights import Weights, read_weights
from mol.prediction.windows import Window
from mol.scoring.calibration import temperature_of
from mol.viewer.thinning import PAGE_MINUTES
from mol.vision.footage import Footage
from mol.vision.landmark_files import read_landmarks
from mol.vision.sources import open_footage
from mol.vision.tracking import MAX_GAP

__all__ = [
    "NO_NEUTRAL_CLASS",
    "PredictConfig",
    "Prediction",
    "Window",
    "describe_prediction",
    "predict",
    "predict_people",
    "predict_video",
]


@dataclass
class PredictConfig:
    """Emotion, optical flow and landmarks of a face video, by a trained network; the emotion alone by a baseline.

    Attributes:
        video: a video file, or a folder of frames numbered in their names.
        weights: run folder of `mol train`, a checkpoint folder inside one, or an ONNX file of `mol export`, which
            onnxruntime runs on the CPU, without PyTorch.
        out: folder to write predictions.json, frames.csv, page.html, overview.png, overlay.mp4 and arrays.npz to; with
            `people` "all" or a number, all but the page to its subfolders person-1, person-2, … .
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
        people: whose faces are read: "all" gives everybody who stays for a second at least a result, a number the most
            prominent people, "largest" the one with the largest face. By default there must be one person; a face that
            is seen beside it in less than a tenth of the frames is left out.
        several: older name of a setting: "largest" is people="largest".
        on_error: where a frame shows no usable face, "raise" stops and "skip" leaves its windows out and lists them. Of
            several people each is read where it is seen.
        max_gap: if no face is found in up to this many frames in a row, their landmarks are interpolated in time.
        batch_size: windows at once.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "32", "bf16-mixed" for bfloat16 where it is safe, or "auto": bfloat16 if the device, also a
            processor, computes in it.
        overlay: write the overlay video.
        page: write page.html, which shows the video with all of this in any browser, offline.
        page_minutes: minutes of video of which the page holds every frame; of the rest of a longer one it holds few.
        save_arrays: write arrays.npz with flow and landmarks of every window.
        format: of the table of frames: "csv" or "parquet".
        alignment: "window" aligns and normalises every window by itself; "shared" keeps the alignment of one window
            while the face stays in place, so that MOL computes what windows share once: faster, with slightly other
            numbers.
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
    people: Literal["all", "largest"] | int | None = None
    several: Literal["raise", "largest"] = "raise"
    on_error: Literal["raise", "skip"] = "raise"
    max_gap: int = MAX_GAP
    batch_size: int = 4
    device: str = "auto"
    precision: Literal["32", "bf16-mixed", "auto"] = "32"
    overlay: bool = True
    page: bool = True
    page_minutes: float = PAGE_MINUTES
    save_arrays: bool = False
    format: Literal["csv", "parquet"] = "csv"
    alignment: Literal["window", "shared"] = "window"

    def __post_init__(self) -> None:
        require_positive(self, "interval", "stride", "fps", "batch_size", "page_minutes")
        require_at_most(
            self, page_minutes=10**6, interval=10**9, stride=10**9, fps=10**6, batch_size=10**6, detect_width=10**6
        )
        if self.fps is not None and self.fps < 0.001:
            raise SettingsError(f"fps={self.fps} must be at least 0.001")
        if self.max_gap < 0:
            raise SettingsError(f"max_gap={self.max_gap} must not be negative; 0 interpolates no landmarks")
        require_not_negative(self, "detect_width")
        check_people(self.people)
        require_one_of(self, "several", ("raise", "largest"))
        require_one_of(self, "format", ("csv", "parquet"))
        require_one_of(self, "alignment", ALIGNMENTS)
        require_one_of(self, "on_error", ("raise", "skip"))
        require_one_of(self, "precision", ("32", "bf16-mixed", "auto"))

    @property
    def watching(self) -> WatchSettings:
        """How the video is watched."""
        return WatchSettings(
            interval=self.interval,
            stride=self.stride,
            interpolate=self.interpolate,
            people=self.people or ("largest" if self.several == "largest" else None),
            on_error=self.on_error,
            max_gap=self.max_gap,
            detect_width=self.detect_width,
            batch_size=self.batch_size,
            precision=self.precision,
            alignment=self.alignment,
        )


def run_predict(config: PredictConfig) -> None:
    """Predict a video and print the result."""
    with tracking() as track:
        results = predict_people(config, track)
    for prediction, files in results:
        if prediction.person.number is not None:
            say(f"person {prediction.person.number}")
        say(describe_prediction(prediction))
        for name, path in files.items():
            say(f"{name:<12}{path}")


def predict(config: PredictConfig, track: Track = silently) -> tuple[Prediction, dict[str, Path]]:
    """`predict_people` for one person, or the most prominent one."""
    return predict_people(config, track)[0]


def predict_people(config: PredictConfig, track: Track = silently) -> list[tuple[Prediction, dict[str, Path]]]:
    """Read a video and a network, predict, write the results.

    Args:
        config: see `PredictConfig`.
        track: progress display.
    Returns:
        For each person the prediction, and the files written: kind → path.
    Raises:
        MOLError: of the kind that fits; it names the file, frame or setting, and the remedy.
    """
    trained = read_weights(config.weights, config.device, config.precision)
    config = replace(config, precision=trained.precision)  # type: ignore[arg-type]
    check_normalisation(trained.state, config.weights)
    video = open_video(config.video, config.fps)
    given = read_landmarks(Path(config.landmarks), len(video)) if config.landmarks else None
    opened: list[Files] = []
    height, width = video.shape
    remedy = "scale the pictures down, or give a smaller --batch-size or --overlay false"
    with ExitStack() as closing, failures_named(FRAMES * height * width, f"a few frames of {config.video}", remedy):

        def listeners(scene: Scene) -> Sequence[Listener]:
            folder = folder_of(scene, config)
            files = Files(scene, folder, config.overlay, config.save_arrays, config.format, config.page)
            closing.callback(files.close)
            opened.append(files)
            return files.listeners

        predictions = watch(
            trained.model,
            video,
            trained.classes,
            config.watching,
            network=trained.network,
            landmarks=given,
            calibration=temperature_of(trained.state),
            listeners=listeners,
            track=track,
        )
        people = list(zip(predictions, opened, strict=True))
        written = [files.write(prediction, config.video, track) for prediction, files in people]
        # Of all people, and large: what a full disk must not cost comes before it.
        page = _write_page(predictions, opened, config, trained)
        results = []
        for (prediction, files), before in zip(people, written, strict=True):
            last = files.write_predictions(prediction, _facts(prediction, config, trained), config.video)
            results.append((prediction, {**before, **last, **page}))
        return results


def _write_page(
    predictions: Sequence[Prediction], files: Sequence[Files], config: PredictConfig, trained: Weights
) -> dict[str, Path]:
    """The page of all people, if one is wanted."""
    people = [
        Shown(prediction, kept.page.looks) for prediction, kept in zip(predictions, files, strict=True) if kept.page
    ]
    if not people:
        return {}
    facts = {"Network": f"{trained.network.title}, step {trained.state['step']}", "Windows": _windows(predictions[0])}
    path = Path(config.out) / "page.html"
    return {"page": write_prediction_page(path, people, Path(config.video).name, facts, config.page_minutes)}


def _windows(prediction: Prediction) -> str:
    apart = prediction.seconds_apart
    step = f"{prediction.interval} apart" if apart is None else f"{1000 * apart:.0f} ms apart"
    return f"{len(prediction.trace)} of {FRAMES} frames, {step}"


def folder_of(scene: Scene, config: PredictConfig) -> Path:
    """Where the results of a person go."""
    out = Path(config.out)
    return out if scene.person.number is None else out / f"person-{scene.person.number}"


def open_video(video: str, fps: float | None) -> Footage:
    """A video, at a rate that is given or, for a folder of frames, at that of the data set that it belongs to.

    Args:
        video: a video file, or a folder of frames.
        fps: frames per second; None for the video's own.
    Raises:
        MediaError: it cannot be read.
    """
    path = Path(video)
    if fps:
        return open_footage(path, folder_fps=fps).at_rate(fps)
    known = set_of_folder(path) if path.is_dir() else None
    if known is None:
        return open_footage(path)
    title, rate = known
    note = f"the folder belongs to {title}: {rate:g} frames per second; --fps sets another rate"
    return open_footage(path, folder_fps=rate, rate_notes=(note,))


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


def _facts(prediction: Prediction, config: PredictConfig, trained: Weights) -> dict[str, Any]:
    """What predictions.json says of the run."""
    return {
        "network": {
            "name": trained.network.name,
            "checkpoint": str(trained.source),
            "step": trained.state["step"],
            **trained.state["model"],
        },
        "settings": {**asdict(config), "interval": prediction.interval, "stride": prediction.stride},
        "versions": trained.versions,
    }
