"""``mol spot``: where in a video micro- and macro-expressions are, by a trained network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mol.common.checks import require_at_most, require_not_negative, require_one_of, require_positive
from mol.common.devices import fastest_precision, start_fabric
from mol.common.environment import versions
from mol.common.memory import failures_named
from mol.common.storage import write_json
from mol.common.terminal import Track, console, say, silently, tracking
from mol.data.annotations import LONGEST_EXPRESSION
from mol.data.manifest import NEUTRAL
from mol.network.checkpoint import find_checkpoint
from mol.network.model import FRAMES
from mol.networks.registry import DEFAULT
from mol.networks.trained import Trained, load_model
from mol.prediction.page import PageLooks, Shown, write_prediction_page
from mol.prediction.predict import check_normalisation, open_video
from mol.prediction.result import Scene
from mol.prediction.watch import DETECT_WIDTH, Listener, WatchSettings, check_people
from mol.scoring.calibration import temperature_of
from mol.scoring.expression import KINDS, Expression
from mol.scoring.spotting import score_video
from mol.spotting.baseline import main_direction_curve, spot_peaks
from mol.spotting.parameters_file import read_parameters
from mol.spotting.results import expression_table, score_table, write_expressions
from mol.spotting.sighting import Sighting, watch_video
from mol.spotting.spot import SpotParameters, choose_among, find_candidates, fitting, require_flow, shows_micro
from mol.spotting.truth import read_truth
from mol.viewer.thinning import PAGE_MINUTES
from mol.vision.footage import Footage
from mol.vision.landmark_files import read_landmarks
from mol.vision.tracking import MAX_GAP
from mol.vision.video import numbered_pictures

NO_NEUTRAL = (
    "the network was trained without neutral clips, so it can't say that nothing happens; expressions are spotted by "
    "the flow alone"
)
NETWORK, BASELINE, NOTHING = "network", "MDMD", "nothing"
"""Ways of spotting, as tables name them."""
SHARE = 0.2
"""p of the baseline where none was chosen."""


@dataclass
class SpotConfig:
    """Micro-expressions, macro-expressions and blinks in a video: onset, apex, offset, emotion, confidence.

    Attributes:
        video: a video file, or a folder of frames numbered in their names.
        weights: run folder of `mol train`, or a checkpoint folder inside one; a network trained with neutral clips.
        out: folder to write expressions.csv, spotting.json and page.html to.
        truth: CSV of annotated expressions (onset, offset; if known apex, kind, emotion) to score against; frames are
            counted from 0 in a file, in a folder they are the numbers in the pictures' names.
        parameters: JSON of what counts as an expression, as `mol loso --task spot` chooses it on the people trained on;
            by default values chosen on synthetic recordings.
        interval: frames from one of a window's 8 frames to the next; by default what lets a window last 0.5 seconds.
        stride: frames from one window's start to the next; by default a quarter of a window.
        fps: frames per second, evenly spaced; by default each frame's own time stamp is used, for a folder of frames
            the rate of the data set that it belongs to, or 25.
        landmarks: CSV or NPZ with points in pixels, instead of dlib's, as for `mol predict`.
        detect_width: frames wider than this are averaged down to it for face detection; 0 never scales down.
        people: whose faces are read, as for `mol predict`: "all", "largest" or a number; with "all" or a number each
            person has a folder of their own, person-1, person-2, …; a truth is that of the first.
        on_error: where a frame shows no usable face, "raise" stops and "skip" leaves its windows out and says so.
        max_gap: if no face is found in up to this many frames in a row, their landmarks are interpolated in time.
        batch_size: windows at once.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "32", "bf16-mixed" for bfloat16 where it is safe, or "auto": bfloat16 if the device computes in it.
        page: write page.html, which shows the video with what was found in any browser, offline.
        page_minutes: minutes of video of which the page holds every frame; of the rest of a longer one it holds few.
        baseline: with a truth, also score the challenges' baseline, on TV-L1 flow, and finding nothing.
    """

    video: str
    weights: str
    out: str = "spotting"
    truth: str | None = None
    parameters: str | None = None
    interval: int | None = None
    stride: int | None = None
    fps: float | None = None
    landmarks: str | None = None
    detect_width: int = DETECT_WIDTH
    people: Literal["all", "largest"] | int | None = None
    on_error: Literal["raise", "skip"] = "raise"
    max_gap: int = MAX_GAP
    batch_size: int = 4
    device: str = "auto"
    precision: Literal["32", "bf16-mixed", "auto"] = "32"
    page: bool = True
    page_minutes: float = PAGE_MINUTES
    baseline: bool = True

    def __post_init__(self) -> None:
        require_positive(self, "interval", "stride", "fps", "batch_size", "page_minutes")
        require_at_most(self, page_minutes=10**6)
        require_at_most(self, interval=10**9, stride=10**9, fps=10**6, batch_size=10**6, detect_width=10**6)
        require_not_negative(self, "detect_width", "max_gap")
        check_people(self.people)
        require_one_of(self, "on_error", ("raise", "skip"))
        require_one_of(self, "precision", ("32", "bf16-mixed", "auto"))

    @property
    def watching(self) -> WatchSettings:
        """How the video is watched."""
        own = vars(self)
        return WatchSettings(**{name: own[name] for name in vars(WatchSettings()) if name in own})


class Spotted(NamedTuple):
    """What was found of one person.

    Attributes:
        expressions: in the order of their onsets, with frames counted from 0.
        numbers: of the frames, as the tables name them.
        sighting: what it was found in.
        notes: what to know.
        scores: way of spotting → scores against the truth; empty without one.
        files: kind → path.
    """

    expressions: list[Expression]
    numbers: Sequence[int]
    sighting: Sighting
    notes: tuple[str, ...]
    scores: dict[str, Any]
    files: dict[str, Path]


def run_spot(config: SpotConfig) -> None:
    """Spot in a video and print what was found."""
    with tracking() as track:
        people = spot_people(config, track)
    for spotted in people:
        if spotted.sighting.person is not None:
            say(f"person {spotted.sighting.person}")
        _print(spotted)


def _print(spotted: Spotted) -> None:
    say(f"{spotted.sighting.trace.duration:.1f} s: {summary_of(spotted.expressions)}")
    if spotted.expressions:
        console().print(expression_table(spotted.expressions, spotted.numbers, spotted.sighting.seconds))
    if spotted.scores:
        console().print(score_table(spotted.scores))
    for note in spotted.notes:
        say(f"note: {note}")
    for name, path in spotted.files.items():
        say(f"{name:<12}{path}")


def summary_of(expressions: Sequence[Expression]) -> str:
    """How many of each kind were found, in words."""
    found = Counter(one.kind for one in expressions)
    return ", ".join(f"{found[kind]} {kind}" for kind in KINDS if found[kind]) or "nothing found"


def spot_video(config: SpotConfig, track: Track = silently) -> Spotted:
    """`spot_people` for one person, or the most prominent one."""
    return spot_people(config, track)[0]


def spot_people(config: SpotConfig, track: Track = silently) -> list[Spotted]:
    """Read a video and a network, spot, score if there is a truth, write the results.

    Args:
        config: see `SpotConfig`.
        track: progress display.
    Returns:
        What was found of each person, the most prominent first.
    Raises:
        MOLError: of the kind that fits; it names the file, frame or setting, and the remedy.
    """
    if config.precision == "auto":
        config = replace(config, precision=fastest_precision(config.device))  # type: ignore[arg-type]
    parameters = read_parameters(Path(config.parameters)) if config.parameters else SpotParameters()
    fabric = start_fabric(config.device, config.precision)
    trained = load_model(config.weights, fabric.device)
    check_normalisation(trained.state, config.weights)
    require_flow(trained.network)
    parameters = fitting(parameters, trained.classes)
    video, path = open_video(config.video, config.fps), Path(config.video)
    numbers: Sequence[int] = list(numbered_pictures(path)) if path.is_dir() else range(len(video))
    # Before the network runs, so that a wrong table costs nothing.
    truth = read_truth(Path(config.truth), path, numbers, video.fps, trained.classes) if config.truth else None
    given = read_landmarks(Path(config.landmarks), len(video)) if config.landmarks else None
    height, width = video.shape
    out = Path(config.out)
    with ExitStack() as closing, failures_named(FRAMES * height * width, f"a few frames of {path}", "scale it down"):
        looks: list[PageLooks] = []

        def more(scene: Scene) -> Sequence[Listener]:
            if not config.page:
                return ()
            looks.append(PageLooks(scene, out))
            closing.callback(looks[-1].close)
            return [looks[-1].hear]

        sightings = watch_video(
            *(trained.model, trained.network, video, trained.classes, config.watching, given, track),
            more=more,
            calibration=temperature_of(trained.state),
        )
        found = [choose_among(find_candidates(sighting.trace), parameters) for sighting in sightings]
        page = _write_page(sightings, found, looks, config, trained)
        people = []
        for place, (sighting, expressions) in enumerate(zip(sightings, found, strict=True)):
            scores = {} if truth is None or place else _scores(truth, expressions, sighting, video, config.baseline)
            notes = (*sighting.notes, *_notes(video.fps, trained.classes, expressions))
            content = _describe(config, trained, sighting, parameters, expressions, numbers, notes, scores)
            folder = out / (f"person-{sighting.person}" if sighting.person is not None else "")
            files = {**_write(folder, content, expressions, numbers, sighting), **page}
            people.append(Spotted(expressions, numbers, sighting, notes, scores, files))
    return people


def _write_page(
    sightings: Sequence[Sighting],
    found: Sequence[Sequence[Expression]],
    looks: Sequence[PageLooks],
    config: SpotConfig,
    trained: Trained,
) -> dict[str, Path]:
    """The page of all people, if one is wanted."""
    people = [
        Shown(sighting.prediction, kept.looks, expressions, summary_of(expressions))
        for sighting, kept, expressions in zip(sightings, looks, found, strict=bool(looks))
        if sighting.prediction is not None
    ]
    if not people:
        return {}
    facts = {"Network": f"{trained.network.title}, step {trained.state['step']}"}
    path = Path(config.out) / "page.html"
    return {"page": write_prediction_page(path, people, Path(config.video).name, facts, config.page_minutes)}


def _notes(fps: float, classes: Sequence[str], expressions: Sequence[Expression]) -> list[str]:
    notes = []
    if NEUTRAL not in classes:
        notes.append(NO_NEUTRAL)
    if not shows_micro(fps):
        frames = LONGEST_EXPRESSION * fps
        notes.append(
            f"at {fps:g} frames per second a micro-expression has {frames:.2g} frames at most, too few to be seen "
            "rising and falling; only longer expressions are found"
        )
    if not expressions:
        notes.append("nothing was found; a weaker expression may be there, see --parameters")
    return notes


def _scores(
    truth: Sequence[Expression], found: Sequence[Expression], sighting: Sighting, video: Footage, baseline: bool
) -> dict[str, Any]:
    """Way of spotting → scores."""
    scores = {NETWORK: score_video(truth, found).describe()}
    if baseline:
        peaks = spot_peaks(main_direction_curve(sighting, video), sighting.trace, SHARE)
        scores[BASELINE] = score_video(truth, peaks).describe()
        scores[NOTHING] = score_video(truth, []).describe()
    return scores


def _describe(
    config: SpotConfig,
    trained: Trained,
    sighting: Sighting,
    parameters: SpotParameters,
    expressions: Sequence[Expression],
    numbers: Sequence[int],
    notes: Sequence[str],
    scores: Mapping[str, Any],
) -> dict[str, Any]:
    """Content of spotting.json."""
    trace = sighting.trace
    return {
        "format": 1,
        "video": {
            "path": config.video,
            "frames": trace.length,
            "fps": trace.fps,
            "seconds": round(trace.duration, 4),
            "first_frame": numbers[0],
        },
        "network": {
            "name": trained.state.get("network", DEFAULT),
            "checkpoint": str(find_checkpoint(config.weights)),
            "step": trained.state["step"],
        },
        "settings": asdict(config),
        "parameters": asdict(parameters),
        "versions": versions(),
        "classes": list(trace.classes),
        "windows": len(trace),
        "expressions": [_described(one, numbers, sighting) for one in expressions],
        "notes": list(notes),
        "scores": dict(scores) or None,
    }


def _described(one: Expression, numbers: Sequence[int], sighting: Sighting) -> dict[str, Any]:
    frames = {"onset": one.onset, "apex": one.apex, "offset": one.offset}
    return {
        "kind": one.kind,
        "emotion": one.emotion,
        "confidence": one.confidence,
        **{name: numbers[frame] for name, frame in frames.items()},
        **{f"{name}_seconds": round(float(sighting.seconds[frame]), 4) for name, frame in frames.items()},
    }


def _write(
    out: Path, content: Mapping[str, Any], found: Sequence[Expression], numbers: Sequence[int], sighting: Sighting
) -> dict[str, Path]:
    """Write the tables; spotting.json last, so that if it is there, so are the others."""
    files = {"expressions": out / "expressions.csv", "spotting": out / "spotting.json"}
    write_expressions(files["expressions"], found, numbers, sighting.seconds)
    write_json(files["spotting"], content)
    return files
