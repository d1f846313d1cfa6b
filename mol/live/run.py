"""`mol live`: from its settings to a server, and to its end by a signal."""

from __future__ import annotations

import threading
import time
import webbrowser
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mol.common.checks import require_at_most, require_not_negative, require_one_of
from mol.common.devices import fastest_precision, start_fabric
from mol.common.errors import ClipError, SettingsError, StorageError
from mol.common.extras import require
from mol.common.terminal import say
from mol.data.annotations import LONGEST_EXPRESSION
from mol.data.manifest import NEUTRAL
from mol.live.engine import APART, SOONER, Engine
from mol.live.film import FilmSource, film_facts
from mol.live.frames import MOST_PIXELS, NewestFrame
from mol.live.page import make_assets
from mol.live.record import Recorder
from mol.live.room import Room
from mol.live.server import Server, listen
from mol.networks.trained import Trained, load_model
from mol.prediction.describe import NO_NEUTRAL_CLASS
from mol.prediction.predict import check_normalisation
from mol.prediction.watch import network_notes
from mol.scoring.calibration import temperature_of
from mol.viewer.looks import GRID
from mol.vision.points import SKELETON
from mol.vision.sources import open_footage

DETECT_WIDTH = 320
_RATE_OVER = 3.0  # seconds over which windows are counted
_PATIENCE = 0.2  # seconds between looks at whether something has failed


@dataclass
class LiveConfig:
    """A web page on this machine with a camera, and what a network sees in it while it happens.

    Attributes:
        weights: run folder of `mol train`, or a checkpoint folder inside one.
        camera: which of the browser's cameras the page offers first, from 0.
        video: a video file or a folder of frames to play in the place of a camera.
        as_live: play the video at its own rate and drop frames that the network has no time for, as with a camera;
            otherwise the video waits for the network.
        port: of the page; 0 takes a free one.
        open: open the page in the browser.
        record: a new folder to write frames.csv to; by default nothing is recorded.
        record_film: with `record`, also write the frames that were read, without loss: about 2 MB per second.
        detect_width: frames wider than this are averaged down to it for face detection. 0 never scales down.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "32", "bf16-mixed", or "auto": bfloat16 if the device, also a processor, computes in it.
    """

    weights: str
    camera: int = 0
    video: str | None = None
    as_live: bool = False
    port: int = 0
    open: bool = False
    record: str | None = None
    record_film: bool = False
    detect_width: int = DETECT_WIDTH
    device: str = "auto"
    precision: Literal["32", "bf16-mixed", "auto"] = "auto"

    def __post_init__(self) -> None:
        require_not_negative(self, "camera", "port", "detect_width")
        require_at_most(self, camera=1000, port=65535, detect_width=10**6)
        require_one_of(self, "precision", ("32", "bf16-mixed", "auto"))
        if self.as_live and self.video is None:
            raise SettingsError("as_live plays a film as if it were a camera: give it by --video")
        if self.record_film and self.record is None:
            raise SettingsError("record_film needs a folder: --record FOLDER")


def run_live(config: LiveConfig) -> None:
    """Serve the page until a signal ends the program."""
    for module in ("starlette", "uvicorn", "websockets"):
        require(module, "live")
    precision = fastest_precision(config.device) if config.precision == "auto" else config.precision
    fabric = start_fabric(config.device, precision)
    trained = load_model(config.weights, fabric.device)
    check_normalisation(trained.state, config.weights)
    with ExitStack() as closing:
        live = Live(config, trained, precision, closing)
        live.start(closing)
        say(f"The live view is at {live.server.address}")
        say("Only this machine can open it, and only with the whole address. Ctrl-C ends it.")
        if config.record:
            say(f"Recording to {config.record}")
        if config.open:
            webbrowser.open(live.server.address)
        live.watch()


class Live:
    """The parts of a live view.

    Args:
        config: the settings.
        trained: the network.
        precision: "32" or "bf16-mixed".
        closing: gets what is to be done in the end.

    Attributes:
        server: of the page.
        room: the pages that are open.
        windows: windows that were read.
    """

    def __init__(self, config: LiveConfig, trained: Trained, precision: str, closing: ExitStack) -> None:
        film = None if config.video is None else open_footage(Path(config.video))
        if film is not None and film.shape[0] * film.shape[1] > MOST_PIXELS:
            height, width = film.shape
            raise SettingsError(f"{config.video} has {width}×{height} pixels; a live view takes up to {MOST_PIXELS:,}")
        listening = listen(config.port)
        closing.callback(listening.close)
        self.recorder: Recorder | None = None
        if config.record is not None:
            self.recorder = Recorder(Path(config.record), trained.classes, config.record_film)
        self._engine = Engine(trained, precision, detect_width=config.detect_width)
        self._newest = NewestFrame()
        self._restart = threading.Event()
        self.room = Room(self._newest, hello(config, trained, precision), film is None, self._restart.set)
        self.server = Server(self.room, make_assets(trained.classes), listening)
        self._film: FilmSource | None = None
        if film is not None:
            name = Path(config.video or "").name
            self.room.tell({"kind": "film"}, film=film_facts(film, name))
            self._film = FilmSource(film, self._newest, self.room, config.as_live)
        self._reading = threading.Thread(target=self._read, name="mol live: network", daemon=True)
        self._ended = threading.Event()
        self._times: deque[float] = deque()
        self.windows = 0
        self._failure: BaseException | None = None

    def start(self, closing: ExitStack) -> None:
        """Start everything; `closing` ends it."""
        self._engine.warm_up()
        if self.recorder is not None:
            closing.callback(self._close_recorder)
        closing.callback(self._join)
        closing.callback(self._newest.close)
        closing.enter_context(self.server)
        self._reading.start()
        if self._film is not None:
            self._film.start()

    def watch(self) -> None:
        """Wait until something fails, or a signal raises an exception here."""
        while True:
            # Not join: if a signal ends that, Python up to 3.12 takes the thread for ended and waits for it no more.
            self._ended.wait(_PATIENCE)
            failures = (self._failure, self._film.failure if self._film else None, self.server.failure)
            for failure in failures:
                if failure is not None:
                    raise failure
            if not self.server.alive:
                raise SettingsError("the server of the page has ended")

    def _join(self) -> None:
        # A thread inside PyTorch or FFmpeg when Python ends would abort the program.
        if self._reading.is_alive():  # not if the start failed before it
            self._reading.join(10)
        if self._film is not None:
            self._film.join(10)

    def _read(self) -> None:
        """Read the newest frame, again and again."""
        try:
            with torch.inference_mode():
                while not self._newest.closed:
                    self._read_one()
        except BaseException as error:  # the main thread says it
            self._failure = error
        finally:
            self._ended.set()

    def _read_one(self) -> None:
        frame = self._newest.take()
        if frame is None:
            return
        if self._restart.is_set():
            self._restart.clear()
            self._engine.restart()
        taken = time.monotonic()
        try:
            reading = self._engine.read(frame)
        except ClipError as error:
            self.room.tell({"kind": "refused", "why": str(error)})
            return
        now = time.monotonic()
        if reading.window is not None:
            self.windows += 1
            self._times.append(now)
        while self._times and self._times[0] < now - _RATE_OVER:
            self._times.popleft()
        facts = {
            "waited_ms": round(1000 * (taken - frame.arrived), 1),
            "age_ms": round(1000 * (now - frame.arrived), 1),
            "rate": round(len(self._times) / _RATE_OVER, 1),
            "dropped": self._newest.dropped,
        }
        self.room.publish(reading, facts)
        if self.recorder is not None:
            self._record(reading, now)

    def _record(self, reading: Any, now: float) -> None:
        assert self.recorder is not None
        try:
            self.recorder.add(reading, now)
        except StorageError as error:
            say(f"warning: {error} The live view goes on without recording.")
            self.room.tell({"kind": "recording", "folder": None, "why": str(error)}, recording=None)
            self.recorder = None

    def _close_recorder(self) -> None:
        if self.recorder is not None:
            self.recorder.close()


def hello(config: LiveConfig, trained: Trained, precision: str) -> dict[str, Any]:
    """What a page is told first."""
    notes = [
        "Probabilities of a network are no evidence of what a person feels, and no ground for a decision about anyone.",
        "The mark on each bar is what the network says of this face at rest; noise alone moves the bars a little "
        "away from it.",
        *([] if NEUTRAL in trained.classes else [NO_NEUTRAL_CLASS]),
        *network_notes(trained.network),
    ]
    temperature = temperature_of(trained.state)
    if temperature.value is None:
        notes.append(f"The probabilities are not calibrated: {temperature.note or 'no temperature is known'}.")
    return {
        "classes": trained.classes,
        "network": f"{trained.network.title}, step {trained.state['step']}",
        "precision": "bfloat16" if precision == "bf16-mixed" else "float32",
        "probability": "probability" if temperature.value is None else "calibrated probability",
        "notes": notes,
        "source": "camera" if config.video is None else "film",
        "as_live": config.as_live,
        "camera": config.camera,
        "film": None,
        "film_state": "waiting",
        "recording": config.record,
        "apart": APART * SOONER,
        "longest": LONGEST_EXPRESSION,
        "most_pixels": MOST_PIXELS,
        "grid": GRID,
        "skeleton": [list(chain) for chain in SKELETON],
    }
