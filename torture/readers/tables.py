"""Files that people and other programs write: annotation sheets, tables of clips, landmarks, settings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from torture import materials
from torture.readers.arrays import npz_edits
from torture.readers.books import book_edits
from torture.readers.documents import csv_edits, yaml_edits
from torture.readers.edits import Edits, byte_edits, edits, file_edits, weighed
from torture.readers.reader import Reader
from torture.readers.values import spelled, texts
from torture.sandbox import InvalidResultError

# --- Sheets and tables ----------------------------------------------------------------------------------------------


def _read_set(layout: str) -> None:
    """Read a data set, strictly and leniently, and write its manifest."""
    from mol.data.manifest import Manifest, read_manifest, write_manifest
    from mol.data.sets.registry import load_set

    loaded = load_set(layout, Path(), "skip")
    manifest = Manifest(layout, Path.cwd(), loaded.clips, loaded.notes, {}, loaded.recordings)
    write_manifest(Path("manifest"), manifest)
    read = read_manifest(Path("manifest"))
    if read.clips != loaded.clips or read.recordings != loaded.recordings:
        raise InvalidResultError("the manifest reads other clips or recordings than were written")
    for recording in loaded.recordings:
        if any(one.offset < one.onset for one in recording.expressions):
            raise InvalidResultError(f"an expression that ends before it begins: {recording}")
    for clip in loaded.clips:
        if not all(isinstance(text, str) and text for text in (clip.subject, clip.clip, clip.path, clip.emotion)):
            raise InvalidResultError(f"a clip that cannot be: {clip}")
        if clip.offset < clip.onset:
            raise InvalidResultError(f"a clip that ends before it begins: {clip}")
    load_set(layout, Path(), "raise")


def _read_layout() -> None:
    _read_set(Path("layout").read_text())


def _make_set(layout: str, made: Path, base: Path) -> None:
    shutil.copytree(made / "sheets" / layout, base, dirs_exist_ok=True)
    (base / "truth.json").unlink()
    (base / "layout").write_text(layout)


def _set_edits(base: Path) -> Edits:
    books = [str(path.relative_to(base)) for path in base.rglob("*.xlsx")]
    tables = [str(path.relative_to(base)) for path in base.rglob("*.csv")]
    kinds = [(24, book_edits(base, file)) for file in books] + [(24, csv_edits(base, file)) for file in tables]
    kinds += [(4, byte_edits(file)) for file in (*books, *tables)]
    return weighed(*kinds, (1, file_edits([*books, *tables])))


def _read_table() -> None:
    _read_set("generic")


def _make_table(made: Path, base: Path) -> None:
    shutil.copytree(made / "table", base, dirs_exist_ok=True)


def _table_edits(base: Path) -> Edits:
    file = "table.csv"
    names = texts().map(lambda text: spelled(text)[:80].replace("\x00", "0"))
    frames = edits("move", "one/img9.jpg", to=names.map(_file_name))
    return weighed((20, csv_edits(base, file)), (4, byte_edits(file)), (3, frames), (1, file_edits([file])))


def _read_long() -> None:
    """Read a table of long videos, and as the truth of one of them."""
    from mol.spotting.truth import read_truth

    for one in read_truth(Path("expressions.csv"), Path("film.mp4"), range(materials.FILM_FRAMES), 25.0, ("anger",)):
        if not 0 <= one.onset <= one.apex <= one.offset < materials.FILM_FRAMES:
            raise InvalidResultError(f"an expression that cannot be: {one}")


def _read_long_set() -> None:
    _read_set("long")


def _make_long(made: Path, base: Path) -> None:
    shutil.copytree(made / "long", base, dirs_exist_ok=True)


def _long_edits(base: Path) -> Edits:
    file = "expressions.csv"
    return weighed((20, csv_edits(base, file)), (4, byte_edits(file)), (1, file_edits([file])))


def _file_name(text: str) -> str:
    """A name that the file system takes."""
    plain = "".join(letter for letter in text if letter != "/").encode(errors="replace")[:200].decode(errors="ignore")
    return f"{plain or 'x'}.jpg"


# --- Landmarks ------------------------------------------------------------------------------------------------------


def _read_landmarks() -> None:
    from mol.vision.landmark_files import read_landmark_table, read_landmarks

    name = next((path.name for path in Path().iterdir()), "landmarks.csv")
    if name.startswith("clips"):
        table = read_landmark_table(Path(name))
        if any(points.shape != (68, 2) for frames in table.values() for points in frames.values()):
            raise InvalidResultError("points of another shape")
    else:
        points = read_landmarks(Path(name), materials.FILM_FRAMES)
        if points.shape != (materials.FILM_FRAMES, 68, 2) or points.dtype != np.float32:
            raise InvalidResultError(f"landmarks {points.shape} {points.dtype}")


def _make_file(name: str, made: Path, base: Path) -> None:
    shutil.copy(made / name, base / name)


def _landmark_edits(base: Path) -> Edits:
    name = next(path.name for path in base.iterdir())
    known = npz_edits(base, name) if name.endswith(".npz") else csv_edits(base, name)
    return weighed((20, known), (6, byte_edits(name)), (1, file_edits([name])))


# --- Settings -------------------------------------------------------------------------------------------------------

_SETTINGS = ("train", "loso", "extract", "predict", "synth")


def _read_settings() -> None:
    """Build the settings of a command from a YAML file, as the command line does."""
    from mol.arguments import read_config
    from mol.commands import RUNNERS

    name = Path("command").read_text()
    read_config(RUNNERS[name][0], ["--config", "settings.yaml"], f"mol {name}")


def _make_settings(name: str, made: Path, base: Path) -> None:
    """All settings of a command, as `mol` writes them into a run folder."""
    from mol.commands import RUNNERS
    from mol.training.settings import save_config

    needed: dict[str, dict[str, object]] = {
        "train": {"cache": "cache"},
        "loso": {"caches": ["cache"], "protocol": "megc2019"},
        "extract": {"manifest": "manifest"},
        "predict": {"video": "film.mp4", "weights": "run"},
    }
    save_config(RUNNERS[name][0](**needed.get(name, {})), base / "settings.yaml")
    (base / "command").write_text(name)


def _settings_edits(base: Path) -> Edits:
    file = "settings.yaml"
    return weighed((20, yaml_edits(base, file)), (4, byte_edits(file)), (1, file_edits([file])))


# --------------------------------------------------------------------------------------------------------------------


def _importing(*names: str) -> Callable[[], None]:
    def prepare() -> None:
        for name in names:
            import_module(name)

    return prepare


def readers() -> list[Reader]:
    """All readers of files that others write."""
    sets = {layout: partial(_make_set, layout) for layout in materials.LAYOUTS}
    landmarks = ("landmarks.csv", "landmarks.npz", "clips.csv", "clips.npz")
    imports = _importing("mol.data.sets.registry", "openpyxl", "av")
    points = {name: partial(_make_file, name) for name in landmarks}
    settings = {name: partial(_make_settings, name) for name in _SETTINGS}
    return [
        Reader("sheets", 1300, 150, _read_layout, sets, _set_edits, prepare=imports),
        Reader("table", 1000, 60, _read_table, {"generic": _make_table}, _table_edits, prepare=imports),
        Reader("long", 500, 40, _read_long_set, {"long": _make_long}, _long_edits, prepare=imports),
        Reader("truth", 500, 30, _read_long, {"truth": _make_long}, _long_edits).with_(
            prepare=_importing("mol.spotting.truth")
        ),
        Reader("landmarks", 800, 40, _read_landmarks, points, _landmark_edits).with_(
            prepare=_importing("mol.vision.landmark_files")
        ),
        Reader("settings", 800, 110, _read_settings, settings, _settings_edits).with_(
            prepare=_importing("mol.commands", "jsonargparse")
        ),
    ]
