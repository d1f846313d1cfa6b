"""What is predicted of one person in a video, and what its probabilities say."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mol.data.manifest import NEUTRAL
from mol.prediction.people import Person
from mol.prediction.sampling import Skipped
from mol.prediction.stillness import Stillness
from mol.prediction.trace import Trace
from mol.prediction.windows import Window
from mol.scoring.calibration import Temperature, apply_temperature
from mol.vision.footage import Footage

NO_EXPRESSION = "no expression"
STILL_FACE = "not distinguishable from a still face"
DISAGREEMENT = "the windows disagree"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All that is known of a person in a video before the network reads the windows.

    Attributes:
        video: the frames.
        classes: C names.
        interval, stride: in frames; on average where the windows are sampled in time.
        person: whose face it is.
        samples: (n, T) frame numbers of the windows that are read.
        anchors: (n,) the window whose alignment each takes; itself unless alignment is shared.
        nearest: (L,) number of the window that speaks for each frame, −1 for none.
        skipped: windows that were left out.
        stillness: the network's probabilities of still clips of the face.
        interpolated_from: number of frames before interpolation in time, or None.
        notes: how the network reads a window, and what it does not estimate.
        calibration: the network's temperature, or why it has none; None if none was given. Probabilities are stored
            without it, so that it changes no verdict; `calibrated` applies it.
        seconds_apart: seconds between a window's frames if they are sampled in time, because the frame rate varies;
            None if they are sampled by number.
        action_units: numbers of the A action units that the network tells.
    """

    video: Footage
    classes: list[str]
    interval: int
    stride: int
    person: Person
    samples: np.ndarray
    anchors: np.ndarray
    nearest: np.ndarray
    skipped: list[Skipped]
    stillness: Stillness
    interpolated_from: int | None = None
    notes: tuple[str, ...] = ()
    calibration: Temperature | None = None
    seconds_apart: float | None = None
    action_units: tuple[int, ...] = ()

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


@dataclass(frozen=True, kw_only=True)
class Prediction(Scene):
    """The network's output for one person in a video.

    Attributes:
        trace: of all windows, in the order of time.
        probabilities: (C,) mean over the windows.
        shown: window number → window, of those that the overview may show; flow only of `strongest` and `furthest`.
        strongest: for each class the number of the window that says it most.
        furthest: number of the window that is furthest from a still face.
        windows: all of them, in the order of time; empty if they were let go.
        unit_probabilities: (A,) mean over the windows; None if the network tells no action units.
    """

    trace: Trace
    probabilities: np.ndarray
    shown: dict[int, Window]
    strongest: tuple[int, ...]
    furthest: int
    windows: list[Window] = field(default_factory=list)
    unit_probabilities: np.ndarray | None = None

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
        still = sum(self.class_of(probabilities) is None for probabilities in self.trace.probabilities)
        return DISAGREEMENT if found == STILL_FACE and still < len(self.trace) / 2 else found
