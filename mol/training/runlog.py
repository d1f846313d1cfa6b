"""The log of a run: log.csv, TensorBoard curves, and a progress bar or plain lines."""

from __future__ import annotations

import csv
import io
import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mol.common.errors import DataError, SettingsError, StorageError
from mol.common.extras import require
from mol.common.storage import read_csv, write_text
from mol.common.terminal import duration
from mol.common.typed import Count, typed
from mol.network.estimates import FLOW, LANDMARKS
from mol.networks.interface import Network, Terms
from mol.training.ranks import ALONE, Ranks

COMMUNICATION = "communication_share"
_ERRORS = {FLOW: ("epe", "zero_flow_epe"), LANDMARKS: ("nme", "mean_shape_nme")}


def training_columns(network: Network) -> tuple[str, ...]:
    """The columns of log.csv that are means over training steps: the loss, its terms, the gradient's norm."""
    return ("loss", *(f"loss_{name}" for name in network.terms), "gradient_norm")


def log_columns(network: Network) -> tuple[str, ...]:
    """All columns of log.csv."""
    errors = [name for part in (FLOW, LANDMARKS) if part in network.estimates for name in _ERRORS[part]]
    measured = ("learning_rate", "clips_per_second", *errors, "accuracy", "uf1")
    return ("step", "split", *training_columns(network), *measured)


class Timing(NamedTuple):
    """Where the time of one process's steps went; validation and checkpoints are not counted.

    Attributes:
        steps: optimisation steps.
        seconds: of all of them.
        data_seconds: of those, spent on making batches, by the device's own clock if it is a GPU.
    """

    steps: int
    seconds: float
    data_seconds: float

    @property
    def busy_share(self) -> float:
        """Share of the time in which the network computed; 1 if there were no steps."""
        return 1 - self.data_seconds / self.seconds if self.seconds else 1.0


def describe_busy_share(share: float) -> str:
    """What `Timing.busy_share` means, in a sentence."""
    return f"the network computed for {share:.1%} of the time of the steps; the rest was spent on batches"


class RunLog:
    """Collects losses on the device and writes their means at intervals.

    Args:
        run: the run folder.
        network: what is trained; the columns follow from its losses and estimates.
        steps: of the whole run.
        first_step: where this process starts; later rows, left by an interrupted process, are removed.
        batch_size: for clips per second.
        console: a `rich.console.Console`; a progress bar on a terminal, plain lines elsewhere.
        ranks: the processes of the training; losses are added up over them, and the first one writes.
    Raises:
        StorageError: the log cannot be written.
    """

    title = "training"
    transient = False
    has_bar = True

    def __init__(
        self,
        run: Path,
        network: Network,
        steps: int,
        first_step: int,
        batch_size: int,
        console: Any,
        ranks: Ranks = ALONE,
    ) -> None:
        self.console = console
        self._ranks = ranks
        self._network = network
        self._columns = log_columns(network) + ((COMMUNICATION,) if ranks.world > 1 else ())
        self._path = run / "log.csv"
        self._steps, self._batch_size = steps, batch_size
        self._sums: Tensor | None = None
        # Per column: steps in which it was given, and steps for which its sum stayed finite.
        self._given: Counter[str] = Counter()
        self._sound: Tensor | None = None
        self._count = 0
        self._first_step, self._started = first_step, time.monotonic()
        self._interval = self._started
        self._paused = 0.0
        self._steps_done, self._step_seconds, self._data_seconds = 0, 0.0, 0.0
        self._batches: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._board: Any = None
        ranks.first(self._open_files)
        self._bar = _progress_bar(console, self.transient) if self.has_bar and ranks.is_first else None
        self._task = self._bar.add_task(self.title, total=steps, completed=first_step, losses="") if self._bar else None

    def _open_files(self) -> None:
        run = self._path.parent
        _keep_rows_until(self._path, self._columns, self._first_step)
        with _storage_errors(run):
            tensorboard = require("torch.utils.tensorboard", "train")
            self._board = tensorboard.SummaryWriter(str(run / "tensorboard"), purge_step=self._first_step + 1)

    def __enter__(self) -> RunLog:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.stop()
        if self._board is not None:
            with _storage_errors(self._path.parent):
                self._board.close()

    def add(self, losses: Terms, gradient_norm: Tensor) -> None:
        """Add one step's losses without waiting for the device; a loss that is None was not estimated."""
        columns = dict(zip(training_columns(self._network), (*losses, gradient_norm), strict=True))
        self._given.update(name for name, value in columns.items() if value is not None)
        nothing = torch.zeros_like(gradient_norm)
        values = torch.stack([(nothing if value is None else value).detach().float() for value in columns.values()])
        self._sums = values if self._sums is None else self._sums + values
        sound = torch.isfinite(self._sums).float()
        self._sound = sound if self._sound is None else self._sound + sound
        self._count += 1
        if self._bar:
            self._bar.advance(self._task)

    def write_training(self, step: int, learning_rate: float, communication: float | None = None) -> None:
        """Write the means since the last call as the row of `step` (steps done).

        Args:
            step: steps done.
            learning_rate: of the last one.
            communication: share of the time in which several devices waited for each other's gradients.

        Raises:
            SettingsError: the total loss or the gradient is no longer finite: the training has diverged. The message
                names the first step in which that was so, and the terms to blame.
            StorageError: the log cannot be written.
        """
        if self._sums is None or self._sound is None:
            return
        columns = training_columns(self._network)
        sums, sound = torch.stack([self._ranks.summed(self._sums), self._ranks.least(self._sound)]).tolist()
        # The norm of the whole gradient, which every process knows; the losses are shares.
        sums[columns.index("gradient_norm")] /= self._ranks.world
        self._require_convergence(step, dict(zip(columns, sound, strict=True)))
        given = {name: total for name, total in zip(columns, sums, strict=True) if self._given[name]}
        values = {name: total / self._given[name] for name, total in given.items()}
        now = time.monotonic()
        rate = self._count * self._batch_size / max(now - self._interval - self._paused, 1e-9)
        measured = {} if communication is None else {COMMUNICATION: communication}
        self._write(step, "train", {**values, "learning_rate": learning_rate, "clips_per_second": rate, **measured})
        self._say_training(step, values, rate, now)
        self._close_interval(now)

    def write_validation(self, step: int, split: str, scores: Mapping[str, float]) -> None:
        """Write the scores of people not trained on; `split` says which, ``inner_validation`` or ``held_out``."""
        self._write(step, split, scores)
        parts = [f"accuracy {scores['accuracy']:.0%}, UF1 {scores['uf1']:.3f}"]
        if LANDMARKS in self._network.estimates:
            parts.insert(0, f"NME {scores['nme']:.2%} (mean shape {scores['mean_shape_nme']:.2%})")
        if FLOW in self._network.estimates:
            parts.insert(0, f"EPE {scores['epe']:.3f} px (zero flow {scores['zero_flow_epe']:.3f})")
        self.say(f"step {step}  {split.replace('_', ' ')}: {', '.join(parts)}")

    @property
    def timing(self) -> Timing:
        """Of the steps up to the last `write_training`."""
        return Timing(self._steps_done, self._step_seconds, self._data_seconds)

    @contextmanager
    def preparing(self, device: torch.device) -> Iterator[None]:
        """Count the time spent inside as the preparation of a batch."""
        if device.type == "cuda":
            # Launches return at once: only the device knows how long it took.
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            yield
            end.record()
            self._batches.append((start, end))
        else:
            before = time.monotonic()
            yield
            self._data_seconds += time.monotonic() - before

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Do not count the time spent inside in the clips per second."""
        before = time.monotonic()
        yield
        self._paused += time.monotonic() - before

    def say(self, text: str) -> None:
        """Print one line, above the progress bar if there is one."""
        self._print(text)

    def note(self, text: str) -> None:
        """Print something that must be known of the run's scores; unlike `say`, always."""
        self._print(f"note: {text}")

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def _require_convergence(self, step: int, sound: Mapping[str, float]) -> None:
        """Raise an error if what is minimised, or its gradient, stayed finite for fewer steps than there were."""
        least = min(sound["loss"], sound["gradient_norm"])
        if least == self._count:
            return
        # One step later the weights are not finite either, and nothing that is computed from them.
        first = [name for name in sound if self._given[name] and sound[name] == least]
        terms = [f"the {name} loss" for name in self._network.terms if f"loss_{name}" in first]
        blamed = terms or ["the loss" if "loss" in first else "the gradient"]
        raise SettingsError(
            f"training diverged in step {step - self._count + int(least) + 1}: {' and '.join(blamed)} "
            f"{'are' if len(blamed) > 1 else 'is'} not finite; the last checkpoint is kept. Try a lower learning_rate, "
            "a warm-up or a smaller clip_norm"
        )

    def _losses(self, values: Mapping[str, float]) -> str:
        terms = self._network.terms
        losses = {name: values.get(f"loss_{name}") for name in terms}
        each = ", ".join(f"{name} –" if loss is None else f"{name} {loss:.4f}" for name, loss in losses.items())
        # A single term is the loss itself.
        return f"loss {values['loss']:.3f}" + (f" ({each})" if len(terms) > 1 else "")

    def _close_interval(self, now: float) -> None:
        self._steps_done += self._count
        self._step_seconds += now - self._interval - self._paused
        # The losses have been read, so all of these batches are done.
        self._data_seconds += sum(start.elapsed_time(end) for start, end in self._batches) / 1000
        self._batches.clear()
        self._sums, self._sound, self._count = None, None, 0
        self._given.clear()
        self._interval, self._paused = now, 0.0

    def _say_training(self, step: int, values: Mapping[str, float], rate: float, now: float) -> None:
        text = f"{self._losses(values)}  {rate:.3g} clips/s"
        if self._bar:
            self._bar.update(self._task, losses=text)
            return
        left = (now - self._started) / (step - self._first_step) * (self._steps - step)
        self.say(f"step {step}/{self._steps}  {text}  {duration(left)} left")

    def _write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        if not self._ranks.is_first:
            return
        row = {"step": step, "split": split, **{name: f"{value:.6g}" for name, value in values.items()}}
        with _storage_errors(self._path), open(self._path, "a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns, restval="", lineterminator="\n").writerow(row)
        with _storage_errors(self._path.parent / "tensorboard"):
            for name, value in values.items():
                self._board.add_scalar(f"{name}/{split}", value, step)


class FoldLog(RunLog):
    """The log of one fold among many: the same files, a bar that disappears, and no lines of its own."""

    title = "fold"
    transient = True

    def say(self, text: str) -> None:
        """Print nothing: whoever runs the folds sums each up in a line."""

    def note(self, text: str) -> None:
        """Print which fold must be read with what in mind."""
        self._print(f"note: fold {self._path.parent.name}: {text}")


class BarelessFoldLog(FoldLog):
    """The log of one of several folds that go on at once, for which a terminal has no bars."""

    has_bar = False


def read_log(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The training rows of a log.csv: for each column that has numbers (step, value), in order.

    Raises:
        DataError: the file is missing or damaged.
    """
    remedy = "train again to get its curves"
    curves: dict[str, list[tuple[int, float]]] = {}
    for line, row in read_csv(path, ("step", "split", "loss"), remedy):
        if row["split"] != "train":
            continue
        for name, text in row.items():
            if name in ("step", "split") or not text:
                continue
            point = typed([row["step"], text], tuple[Count, float], f"{path}, line {line}, {name}", remedy, texts=True)
            curves.setdefault(name, []).append(point)
    return curves


def _keep_rows_until(path: Path, columns: Sequence[str], step: int) -> None:
    """Start log.csv with its header, or keep the rows of an existing one up to `step`."""
    rows: list[dict[str, str]] = []
    if step and path.is_file():
        try:
            with open(path, encoding="utf-8", newline="") as file:
                # A process killed while it wrote may have left half a line.
                rows = [row for row in csv.DictReader(file) if _step_of(row) <= step]
        except (OSError, UnicodeDecodeError, csv.Error) as damage:
            raise DataError(f"{path} cannot be read ({damage}); move it away, then resume with --resume") from damage
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _step_of(row: Mapping[str | Any, str | Any]) -> float:
    """The step of a row of log.csv; infinite if it cannot be read."""
    text = row.get("step")
    return int(text) if isinstance(text, str) and re.fullmatch(r"\d{1,12}", text, re.ASCII) else math.inf


def _progress_bar(console: Any, transient: bool) -> Any:
    """A rich progress bar, or None if the console is not a terminal."""
    if not console.is_terminal:
        return None
    progress = require("rich.progress", "train")
    return progress.Progress(
        progress.TextColumn("{task.description}", style="bold", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[losses]}", markup=False),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left", markup=False),
        progress.TimeRemainingColumn(),
        console=console,
        transient=transient,
    )


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"could not write {path}: {error.strerror or error}; the last checkpoint is untouched. "
            "Free some space, then resume from it with --resume."
        ) from error
