"""Small commands that are killed and starved of disk, and how two of their results are compared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from torture import materials

ROOT = Path(__file__).resolve().parents[1]
INPUTS = ("cache", "run", "manifest", "film.mp4", "loso")

# Entries that tell when and where, not what.
_TIMES = frozenset({"seconds", "timing", "time", "environment", "command", "hardware", "speed"})
# Files that may be there after an interruption, and those whose bytes are not promised: pictures, films, curves with
# rates, workbooks with the time of writing.
_ALLOWED = ("*environment*.json", "*/tensorboard*", "tensorboard*")
_NOT_COMPARED = ("*.png", "*.svg", "*.mp4", "*.html", "*log.csv", "*.xlsx", *_ALLOWED)

_TRAIN = "--batch-size 4 --log-every 2 --device cpu --held-out [orl-s01] --resume --run out"


@dataclass(frozen=True)
class Command:
    """A command that writes `out`, in a folder that has links to the `INPUTS`.

    Attributes:
        name: in the table.
        line: what follows ``mol``.
        trains: whether a signal that can be caught must leave a checkpoint.
        earlier: a command that fills `out` with a result that must not be lost; none if `out` begins empty.
        replaces: whether the command overwrites what `earlier` left, so that old and new may both be there.
    """

    name: str
    line: str
    trains: bool = False
    earlier: str = ""
    replaces: bool = False


def commands() -> list[Command]:
    """All that are long enough to be interrupted or that write more than a line."""
    # With a constant rate a run may be lengthened, so that there is an earlier result to lose.
    apex = f"train --network apex-difference --cache cache --schedule constant --checkpoint-every 5 {_TRAIN}"
    mol = f"train --network mol --cache cache --checkpoint-every 1 --validate-every 0 --steps 3 {_TRAIN}"
    loso = "loso cache --protocol as-labelled --network apex-difference --steps 12 --batch-size 4 --device cpu"
    found = [
        Command("train", f"{apex} --steps 60", True, earlier=f"{apex} --steps 20"),
        Command("train-mol", mol.replace("--batch-size 4", "--batch-size 2"), True),
        Command("extract", "extract manifest --out out/cache --workers 2"),
        Command(
            "synth",
            "synth --out out/cache --people 6 --clips 4 --pictures 1 --emotions [happiness] --workers 2 --sheet false",
        ),
        Command("synth-set", "synth --layout casme2 --out out/set --people 3 --clips 9 --pictures 1 --workers 2"),
        Command(
            "synth-long", "synth --layout long --out out/set --people 3 --videos 1 --minutes 0.1 --workers 1 --macro 0"
        ),
        Command("loso", f"{loso} --run out --resume"),
        Command("predict", "predict film.mp4 --weights run --out out --device cpu --save-arrays", replaces=True),
    ]
    if materials.has_pretrain():
        line = (
            "pretrain --network apex-difference --run out --steps 30 --batch-size 2 --device cpu --checkpoint-every 5 "
            "--synth.people 3 --synth.clips 1 --synth.pictures 1 --workers 1 --tvl1-pairs 0 --held-out [orl-s01] "
            "--resume"
        )
        found.append(Command("pretrain", line, True))
    return found


def short_commands() -> list[Command]:
    """Commands that write quickly, for full disks only."""
    evaluate = "evaluate --weights run --cache cache --out out --tvl1-pairs 0 --device cpu"
    return [
        Command("prepare", "prepare --dataset smic --root set --out out", replaces=True),
        Command("check-data", "check-data manifest --pictures false --workers 1 --out out/findings.csv", replaces=True),
        Command("evaluate", evaluate, replaces=True),
        Command("report", "report loso --out out --device cpu", replaces=True),
    ]


def lay_out(folder: Path, made: Path) -> None:
    """A folder to run commands in: links to the inputs, and an empty `out`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*INPUTS, "set"):
        (folder / name).symlink_to(made / name)
    (folder / "out").mkdir(exist_ok=True)


def start(line: str, folder: Path, prefix: Sequence[str] = (), stdout: Any = None) -> subprocess.Popen[bytes]:
    """Start ``mol …`` in a session of its own; what it prints goes to files, unbuffered."""
    out, err = _log(folder, "stdout"), _log(folder, "stderr")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "MPLBACKEND": "agg",
        "NO_COLOR": "1",
    }
    with open(out, "wb") as said, open(err, "wb") as complained:
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", "mol", *line.split()],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said if stdout is None else stdout,
            stderr=complained,
            start_new_session=True,
        )


def said(folder: Path, stream: str = "stderr") -> str:
    """What the last command in a folder printed."""
    return _log(folder, stream).read_text(errors="replace")


def _log(folder: Path, stream: str) -> Path:
    """Beside the folder's own folder, which may be a full disk."""
    return folder.parent.parent / f"{folder.parent.name}-{folder.name}.{stream}"


def complaint(folder: Path) -> str:
    """The last line on stderr, for messages."""
    lines = said(folder).strip().splitlines()
    return lines[-1][:300] if lines else ""


def differences(undisturbed: Path, other: Path) -> list[str]:
    """How a result differs from an undisturbed one, where equality is promised."""
    ours, theirs = set(_names(other)), set(_names(undisturbed))
    found = [f"{name} is missing" for name in sorted(theirs - ours)]
    found += [f"{name} is left over" for name in sorted(ours - theirs)]
    for name in sorted(ours & theirs):
        if not _matches(name, _NOT_COMPARED) and _content(undisturbed / name) != _content(other / name):
            found.append(f"{name} differs")
    return found


def _names(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if (path.is_file() or not any(path.iterdir())) and not _matches(name, _ALLOWED):
            yield name


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _content(path: Path) -> Any:
    if path.is_dir():
        return None
    data = path.read_bytes()
    try:
        if path.suffix == ".json":
            return _without_times(json.loads(data))
        if path.suffix == ".safetensors":  # its metadata are written in no order
            end = 8 + int.from_bytes(data[:8], "little")
            return json.loads(data[8:end]), data[end:]
    except ValueError:
        pass
    return data


def _without_times(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_times(inner) for name, inner in value.items() if name not in _TIMES}
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value


def remove(folder: Path) -> None:
    """Remove a folder of `lay_out` and what its commands printed; links are not followed."""
    shutil.rmtree(folder, ignore_errors=True)
    for stream in ("stdout", "stderr"):
        _log(folder, stream).unlink(missing_ok=True)
