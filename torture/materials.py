"""Valid files of every kind, made once per campaign by the commands themselves."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FILM_FRAMES = 12
PICTURES = (".png", ".jpg", ".bmp", ".tiff", ".webp", ".pgm")
# Container, codec and pixel format.
FILMS = {
    "film.mp4": ("libx264", "yuv420p"),
    "film.mov": ("mpeg4", "yuv420p"),
    "film.mkv": ("ffv1", "gray"),
    "film.webm": ("libvpx", "yuv420p"),
    "film.avi": ("mjpeg", "yuvj420p"),
    "film.gif": ("gif", "gray"),
}

_SYNTH = "synth --out cache --people 4 --clips 2 --pictures 1 --emotions [happiness,surprise] --workers 1 --sheet false"
TRAIN = "--network apex-difference --batch-size 2 --log-every 1 --device cpu"
TRAIN_ONCE = "--held-out [orl-s01] --validate-every 0 --inner-validation 0.3 --schedule constant"
_COMMANDS = (
    _SYNTH,
    _SYNTH.replace("--out cache --people 4 --clips 2", "--out small --people 3 --clips 1"),
    f"train --cache cache --run run --steps 2 {TRAIN} {TRAIN_ONCE}",
    f"loso cache --protocol as-labelled --run loso --folds 1-2 --steps 2 {TRAIN}",
    "evaluate --weights run --cache cache --out evaluation --tvl1-pairs 0 --device cpu --pictures false",
    "synth --layout smic --out set --people 2 --clips 4 --enlarge 2 --length [16,16] --pictures 1 --workers 1",
    "prepare --dataset smic --root set --out manifest",
)
_PRETRAIN = (
    "pretrain --network apex-difference --run pretrain --out start.safetensors --steps 2 --batch-size 2 --device cpu "
    "--synth.people 3 --synth.clips 1 --synth.pictures 1 --workers 1 --tvl1-pairs 0 --held-out [orl-s01]"
)
LAYOUTS = ("casme2", "samm", "casme-sq", "casme3", "mmew", "4dme")  # those that have a sheet


def has_pretrain() -> bool:
    """Whether this version of `mol` can pretrain."""
    return find_spec("mol.training.pretrain") is not None


def make(folder: Path) -> None:
    """Make all materials; a process of its own, so that the caller stays free of threads.

    Raises:
        RuntimeError: a command failed; what it said is in the message.
    """
    folder.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-m", "torture.materials"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(
            f"the materials could not be made in {folder}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )


def _main() -> None:
    from mol.cli import main

    for command in (*_COMMANDS, *([_PRETRAIN] if has_pretrain() else [])):
        if status := main(command.split()):
            raise SystemExit(f"mol {command} ended with status {status}")
    _write_films(Path())
    _write_pictures(Path("pictures"))
    _write_landmarks(Path())
    _write_table(Path("table"))
    _write_long(Path("long"))
    for layout in LAYOUTS:
        _write_sheets(layout, Path("sheets") / layout)


def _write_films(folder: Path) -> None:
    """The same face moving, in every container."""
    import av
    import numpy as np

    from mol.data.cache import Cache

    frames = Cache.open("cache").frames[0]
    for name, (codec, pixels) in FILMS.items():
        with av.open(str(folder / name), "w") as container:
            stream: Any = container.add_stream(codec, rate=25)
            stream.width = stream.height = frames.shape[-1]
            stream.pix_fmt = pixels
            for index in range(FILM_FRAMES):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frames[min(index, 7)]), format="gray")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


def _write_pictures(folder: Path) -> None:
    import cv2
    import numpy as np

    from mol.data.cache import Cache

    picture = Cache.open("cache").frames[0][0][::2, ::2]
    folder.mkdir()
    for suffix in PICTURES:
        (folder / f"picture{suffix}").write_bytes(cv2.imencode(suffix, picture)[1].tobytes())
    deep = picture.astype(np.uint16) * 16
    (folder / "deep.png").write_bytes(cv2.imencode(".png", deep)[1].tobytes())
    (folder / "deep.tiff").write_bytes(cv2.imencode(".tiff", deep)[1].tobytes())
    (folder / "colour.jpg").write_bytes(cv2.imencode(".jpg", np.stack([picture] * 3, 2))[1].tobytes())


def _write_landmarks(folder: Path) -> None:
    """Landmarks of the film, as a table and as an archive, and of the clips of a set."""
    import numpy as np

    from mol.data.cache import Cache

    points = Cache.open("cache").landmarks[0]
    points = np.stack([points[min(index, 7)] for index in range(FILM_FRAMES)])
    titles = [f"{axis}_{point}" for point in range(68) for axis in "xy"]
    rows = [[f"{value:.2f}" for value in frame.ravel()] for frame in points]
    _write_csv(folder / "landmarks.csv", [titles, *rows])
    _write_csv(
        folder / "clips.csv",
        [["subject", "clip", "frame", *titles], *(["s1", "c1", str(frame), *row] for frame, row in enumerate(rows))],
    )
    np.savez(folder / "landmarks.npz", landmarks=points)
    clips: dict[str, np.ndarray] = {"s1/c1": points, "s1/c1/frames": np.arange(FILM_FRAMES)}
    np.savez(folder / "clips.npz", **clips)  # type: ignore[arg-type]


def _write_table(folder: Path) -> None:
    """A table of one's own clips: folders of pictures and a film."""
    for clip in ("one", "two"):
        (folder / clip).mkdir(parents=True)
        for number in range(9, 21):
            (folder / clip / f"img{number}.jpg").touch()
    (folder / "film.mp4").write_bytes(Path("film.mp4").read_bytes())
    rows = [
        ["subject", "clip", "path", "onset", "apex", "offset", "label", "dataset", "fps", "action_units"],
        ["anna", "one", "one", "9", "14", "20", "happiness", "mine", "200", "AU12"],
        ["ben", "two", "two", "", "", "", "anger", "mine", "", ""],
        ["ben", "film", "film.mp4", "0", "5", "11", "surprise", "mine", "", ""],
    ]
    _write_csv(folder / "table.csv", rows)


def _write_long(folder: Path) -> None:
    """A table of what is annotated in one long video."""
    folder.mkdir()
    (folder / "film.mp4").write_bytes(Path("film.mp4").read_bytes())
    rows = [
        ["subject", "video", "path", "kind", "onset", "apex", "offset", "emotion"],
        ["anna", "film", "film.mp4", "micro", "1", "3", "5", "anger"],
        ["anna", "film", "film.mp4", "macro", "6", "", "9", ""],
        ["anna", "film", "film.mp4", "blink", "2", "3", "4", ""],
    ]
    _write_csv(folder / "expressions.csv", rows)


def _write_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _write_sheets(layout: str, root: Path) -> None:
    """A data set's own sheets and folders; its pictures are empty, since loaders read only their names."""
    from mol.synth.layout_plan import LayoutSettings
    from mol.synth.layouts import plan_layout, write_sheets

    plan = plan_layout(layout, LayoutSettings(people=2, clips=4, length=(16, 16), pictures=1))
    for clip in plan.clips:
        (root / clip.folder).mkdir(parents=True, exist_ok=True)
        for name in clip.names:
            (root / clip.folder / name).touch()
    write_sheets(root, plan)


if __name__ == "__main__":
    _main()
