"""The files of one person's prediction, written from windows that are let go one after the other."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.extras import require
from mol.common.scratch import Spool
from mol.common.storage import write_atomic
from mol.common.terminal import Track
from mol.prediction.describe import Entries, describe
from mol.prediction.page import PageLooks
from mol.prediction.result import Prediction, Scene
from mol.prediction.tables import require_table, write_frames
from mol.prediction.tape import Tape
from mol.prediction.watch import Listener
from mol.prediction.windows import Window

_ROWS = 16


class Files:
    """Listens to the windows of a person and writes the results at the end.

    Args:
        scene: the person.
        folder: to write to; working files lie there until the end too.
        overlay: whether to draw the overlay video.
        arrays: whether to write arrays.npz.
        format: of the table of frames, "csv" or "parquet".
        page: whether to keep what the page shows of the person.

    Attributes:
        page: what the page shows; None if it wasn't to be kept.

    Raises:
        StorageError: the disk is full.
        MissingExtraError: what the files need is not installed.
    """

    def __init__(self, scene: Scene, folder: Path, overlay: bool, arrays: bool, format: str, page: bool) -> None:
        require("matplotlib", extra="report")  # before hours of reading, not after
        require_table(format)
        self._folder, self._format = folder, format
        self._entries = Entries(scene, folder)
        self._tape = Tape(scene, folder) if overlay else None
        self._arrays = Arrays(folder) if arrays else None
        self.page = PageLooks(scene, folder) if page else None

    @property
    def listeners(self) -> Sequence[Listener]:
        """What hears every window."""
        parts = [self._entries, self._tape, self._arrays, self.page]
        return [part.hear for part in parts if part is not None]

    def write(self, prediction: Prediction, video: str, track: Track) -> dict[str, Path]:
        """Write overview.png, frames.csv and, as was asked for, overlay.mp4 and arrays.npz.

        Args:
            prediction: of the person whose windows were heard.
            video: path of the video.
            track: progress display.
        Returns:
            The files written: kind → path.
        Raises:
            StorageError: a file could not be written; those before it stay.
        """
        # Drawing needs the extra "report", predicting doesn't.
        from mol.prediction.storyboard import overview_of, write_overlay_of

        folder = self._folder
        files = {"overview": folder / "overview.png", "frames": folder / f"frames.{self._format}"}
        overview_of(files["overview"], prediction, Path(video).name)
        write_frames(files["frames"], prediction, self._format)
        if self._tape is not None:
            files["overlay"] = folder / "overlay.mp4"
            write_overlay_of(files["overlay"], prediction, self._tape, track)
        if self._arrays is not None:
            files["arrays"] = folder / "arrays.npz"
            self._arrays.write(files["arrays"], prediction)
        return files

    def write_predictions(self, prediction: Prediction, facts: Mapping[str, Any], video: str) -> dict[str, Path]:
        """Write predictions.json, last: if it is there, so are all other files.

        Args:
            prediction: of the person whose windows were heard.
            facts: of the run.
            video: path of the video.
        Returns:
            The file written: kind → path.
        Raises:
            StorageError: it could not be written.
        """
        path = self._folder / "predictions.json"
        self._entries.write(path, describe(prediction, facts, video))
        return {"predictions": path}

    def close(self) -> None:
        """Give the space of the working files back."""
        for part in (self._entries, self._tape, self._arrays, self.page):
            if part is not None:
                part.close()


class Arrays:
    """Flow and landmarks of every window, kept on disk until arrays.npz is written.

    Args:
        folder: where the working file lies.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spool: Spool | None = None

    def hear(self, number: int, window: Window) -> None:
        """Keep the next window."""
        named = {"picture_to_crop": window.matrix, "flow": window.flow, "landmarks": window.landmarks}
        # What the network does not estimate is left out.
        values = {name: value for name, value in {**named, "detected": window.detected}.items() if value is not None}
        if self._spool is None:
            kind = np.dtype([(name, value.dtype, value.shape) for name, value in values.items()])
            self._spool = Spool(kind, self._folder, "leave the arrays out (--save-arrays false)")
        record = np.zeros(1, self._spool.kind)
        for name, value in values.items():
            record[name] = value
        self._spool.append(record)

    def write(self, path: Path, prediction: Prediction) -> None:
        """Write arrays.npz, a few windows at a time.

        Raises:
            StorageError: the file could not be written.
        """
        trace = prediction.trace
        known = {
            "frames": trace.frames,
            "probabilities": prediction.calibrated(trace.probabilities),
            "uncalibrated_probabilities": trace.probabilities,
            "still_probabilities": prediction.stillness.probabilities,
        }

        def write(temporary: Path) -> None:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, value in known.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                        np.lib.format.write_array(file, value, allow_pickle=False)
                for name in self._spool.kind.names or () if self._spool else ():
                    self._stream(archive, name)

        write_atomic(path, write)

    def _stream(self, archive: zipfile.ZipFile, name: str) -> None:
        assert self._spool is not None
        kind = self._spool.kind[name]
        header = {
            "descr": np.lib.format.dtype_to_descr(kind.base),
            "fortran_order": False,
            "shape": (len(self._spool), *kind.shape),
        }
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(self._spool), _ROWS):
                file.write(np.ascontiguousarray(self._spool.some(start, _ROWS)[name]).tobytes())

    def close(self) -> None:
        """Give the space of the working file back."""
        if self._spool is not None:
            self._spool.close()
