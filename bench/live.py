"""How fast `mol live` reads a face: windows a second, and how old a frame is when it has been read.

    python -m bench.live [--seconds 20] [--threads 2] [--precision auto]

A real face that moves to and fro in a picture of 640×480 comes 30 times a second, as from a camera. MOL with random
weights reads it; what it says costs the same as with trained ones. The browser is not in it: its part, grey pictures
and the way to the program, is some milliseconds more, and takes its own share of the processor.
"""

from __future__ import annotations

import argparse
import os
import threading
import time

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from mol.common.devices import fastest_precision
from mol.common.extras import require
from mol.live.engine import APART, SOONER, Engine
from mol.live.frames import LiveFrame, NewestFrame
from mol.network.model import MOL
from mol.networks.mol import NETWORK
from mol.networks.trained import Trained
from mol.synth.faces import load_faces
from mol.vision.landmarks import DlibDetector

WIDTH, HEIGHT, FPS = 640, 480, 30
FACE = 220
"""Pixels from the jaw to the brows: a person at arm's length from a laptop."""

_START = 3.0  # seconds that are not counted: the first window fills


def camera_frames(count: int = 60) -> np.ndarray:
    """(count, 480, 640) uint8: a face that moves to and fro by a pixel, with noise."""
    cv2 = require("cv2", extra="data")
    (face,) = load_faces(["astronaut"], detector=DlibDetector())
    low, high = face.points.min(axis=0), face.points.max(axis=0)
    scale = FACE / (high - low).max()
    rng = np.random.default_rng(0)
    frames = []
    for number in range(count):
        move = np.array([WIDTH, HEIGHT]) / 2 - scale * (low + high) / 2 + np.sin(2 * np.pi * number / count)
        matrix = np.array([[scale, 0, move[0]], [0, scale, move[1]]])
        picture = cv2.warpAffine(face.image, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
        frames.append(np.clip(picture + rng.normal(0, 1.5, picture.shape), 0, 255).astype(np.uint8))
    return np.stack(frames)


def play(newest: NewestFrame, frames: np.ndarray, seconds: float) -> None:
    """Bring frames at their rate, but those that come too soon for a window."""
    start, last = time.monotonic(), -1.0
    for number in range(int(seconds * FPS)):
        at = number / FPS
        time.sleep(max(0.0, start + at - time.monotonic()))
        if at - last >= SOONER * APART:
            newest.put(LiveFrame(number, at, frames[number % len(frames)], time.monotonic()))
            last = at
    newest.close()


def measure(engine: Engine, seconds: float) -> dict[str, float]:
    """Windows a second, and milliseconds; medians, and the 95th percentile of the whole."""
    newest, frames = NewestFrame(), camera_frames()
    threading.Thread(target=play, args=(newest, frames, seconds), daemon=True).start()
    begin, ages, faces, networks = time.monotonic() + _START, [], [], []
    used = time.process_time()
    with torch.inference_mode():
        while (frame := newest.take()) is not None:
            reading = engine.read(frame)
            if frame.arrived < begin:
                used = time.process_time()
            if reading.window is not None and frame.arrived >= begin:
                ages.append(1000 * (time.monotonic() - frame.arrived))
                faces.append(reading.face_ms)
                networks.append(reading.network_ms)
    return {
        "windows a second": len(ages) / (seconds - _START),
        "arrived to read, median ms": float(np.median(ages)),
        "arrived to read, 95 % ms": float(np.percentile(ages, 95)),
        "face, mean ms": float(np.mean(faces)),
        "network, median ms": float(np.median(networks)),
        "processor time, ms a window": 1000 * (time.process_time() - used) / len(ages),
        "frames dropped": float(newest.dropped),
    }


def work_of_a_window(model: MOL) -> float:
    """GFLOP of the convolutions and matrix products of one step: a frame, its pair, and the emotion."""
    crops = np.random.default_rng(0).integers(0, 255, (9, 144, 144), dtype=np.uint8)
    stream = NETWORK.window_stream(model, crops[:8], torch.device("cpu"))
    assert stream is not None
    samples = np.arange(8)[None]
    with torch.inference_mode():
        stream.read(samples, dict(enumerate(crops)))
        with FlopCounterMode(display=False) as counter:
            stream.read(samples + 1, dict(enumerate(crops)))
    return counter.get_total_flops() / 1e9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=("auto", "32", "bf16-mixed"), default="auto")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    model = MOL(num_classes=5).eval()
    precision = fastest_precision("cpu") if given.precision == "auto" else given.precision
    trained = Trained(model, list("abcde"), {"step": 0}, NETWORK)
    engine = Engine(trained, precision)
    with torch.inference_mode():
        engine.warm_up()
    before = os.getloadavg()[0]
    found = measure(engine, given.seconds)
    print(f"{precision}, {given.threads} threads, load {before:.1f} before and {os.getloadavg()[0]:.1f} after")
    for name, value in found.items():
        print(f"{name:<28}{value:8.1f}")
    print(f"{'GFLOP a window':<28}{work_of_a_window(model):8.1f}")


if __name__ == "__main__":
    main()
