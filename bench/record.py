"""Saved results: how they are written and read, and which of their rows belong together."""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.machine import slug
from mol.common.errors import SettingsError
from mol.common.storage import write_json

FORMAT = 2
RESULTS = Path(__file__).parent / "results"

PUBLISHED, REFERENCE, COMPILED, AUTOTUNED, USUAL, SAMPLER, LOCALCORR = (
    "published-loop", "reference", "compiled-reference", "max-autotune", "compiled-idiomatic",
    "spatial-correlation-sampler", "localcorr",
)  # fmt: skip
# What molkernels is measured against, in the order of the tables, with the titles of the README's columns.
BASELINES = {
    PUBLISHED: "published loop",
    REFERENCE: "`reference`",
    COMPILED: "`torch.compile` of the reference",
    AUTOTUNED: "the same, max-autotune",
    USUAL: "`torch.compile` of the idiomatic form",
    "compiled-usual-form": "`torch.compile` of the usual form",  # what USUAL was called in results of a GPU before
    SAMPLER: "Spatial-Correlation-Sampler",
    LOCALCORR: "localcorr",
}
COMPILED_FORMS = {COMPILED: "reference", USUAL: "idiomatic"}  # the faster is the one to beat
SUBJECTS = {
    "f5c": "F5C",
    "ccc-position": "CCC (position graph)",
    "ccc-channel": "CCC (channel graph)",
    "fcc": "FCC",
    "cost-volume": "cost volume",
    "mol": "MOL released",
}
PREDICTION = "prediction"  # the task that is named by its second of video instead of by its batch

Row = Mapping[str, Any]
Result = Mapping[str, Any]


# On disk


def assemble(
    machine: Mapping[str, Any],
    limits: Mapping[str, Any],
    rows: Sequence[Row],
    memory: Sequence[Row],
    left_out: Sequence[Row],
) -> dict[str, Any]:
    """A result as it is saved: machine, limits, `bench.groups.Row`s, peaks of a training step, missing contenders."""
    return {
        "format": FORMAT,
        "machine": machine,
        "limits": limits,
        "rows": rows,
        "memory": memory,
        "left_out": left_out,
    }


def path_of(result: Result, folder: Path, suffix: str = "") -> Path:
    """Where a result is saved: <folder>/<device>/<date>-<commit><suffix>.json."""
    machine = result["machine"]
    return folder / slug(str(machine["device"])) / f"{machine['date'][:10]}-{machine['commit']}{suffix}.json"


def save(result: Result, folder: Path, suffix: str = "") -> Path:
    """Write `result` to its place in `folder` (see `path_of`) and return the path.

    Raises:
        StorageError: the file could not be written.
    """
    path = path_of(result, folder, suffix)
    write_json(path, result)
    return path


def read(path: Path) -> dict[str, Any]:
    """Read a result of `pytest bench/`, `python -m bench.loso` or `python -m bench.gpu --read`.

    Raises:
        SettingsError: the file is missing, is not JSON, or has another format.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read as a result ({error}); name a file in bench/results") from error
    found = result.get("format") if isinstance(result, dict) else None
    if found != FORMAT:
        raise SettingsError(
            f"{path} has format {found}, but only format {FORMAT} can be read; "
            "measure again with: pytest bench/ --save-results"
        )
    return result


def load(path: Path) -> dict[str, Any]:
    """Read a result of `pytest bench/`.

    Raises:
        SettingsError: the file cannot be read (see `read`), or holds another kind of result.
    """
    result = read(path)
    if "rows" not in result:
        raise SettingsError(f"{path} is not a result of `pytest bench/`; print it with: python -m bench.report {path}")
    return result


# Which rows belong together


def grouped(rows: Iterable[Row], key: Callable[[Row], Hashable]) -> dict[Hashable, list[Row]]:
    """The rows by key, in the order of their first rows."""
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def case(row: Row) -> tuple[Hashable, ...]:
    """What was computed: the rows of a case differ only in contender and dtype."""
    return row["subject"], row["task"], tuple(sorted(row["sizes"].items()))


def timed_together(row: Row) -> tuple[Hashable, ...]:
    """The same for all rows that took turns in the same rounds."""
    return row["group"], tuple(sorted(row["sizes"].items()))


def standard_cases(result: Result) -> list[list[Row]]:
    """One list of rows for each case outside the sweeps, in the order of `SUBJECTS`."""
    rows = [row for row in result["rows"] if row["sweep"] is None]
    return list(grouped(_by_subject(rows), case).values())


def sweeps(result: Result) -> dict[tuple[str, str, str], list[Row]]:
    """The rows of each sweep and of its standard point, by size; the keys are (subject, task, swept key)."""
    rows = _by_subject(result["rows"])
    keys = dict.fromkeys((row["subject"], row["task"], row["sweep"]) for row in rows if row["sweep"])
    return {
        (subject, task, swept): sorted(
            (r for r in rows if (r["subject"], r["task"]) == (subject, task) and r["sweep"] in (None, swept)),
            key=lambda row: row["sizes"][swept],
        )
        for subject, task, swept in keys
    }


def _by_subject(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: list(SUBJECTS).index(row["subject"]))


def fastest(rows: Iterable[Row], dtype: str = "float32") -> Row | None:
    """The row of the fastest backend of molkernels; None if none was timed."""
    ours = [row for row in rows if row["contender"] not in BASELINES and row["dtype"] == dtype and row["seconds"]]
    return min(ours, key=lambda row: row["seconds"][1], default=None)


def baselines(rows: Iterable[Row], dtype: str) -> dict[str, Row]:
    """The rows of the baselines that were timed in `dtype`, by name."""
    return {
        row["contender"]: row
        for row in rows
        if row["contender"] in BASELINES and row["dtype"] == dtype and row["seconds"]
    }


def graph_notes(rows: Iterable[Row]) -> list[str]:
    """Of each row that searched its own graph, how much of it is not the exact one: "F5C, forward, bfloat16: 12 %"."""
    return [
        f"{label_with_dtype(row)}: {100 * differs:.2g} %"
        for row in rows
        if (differs := row.get("graph_differs")) is not None
    ]


def above_imports(row: Row) -> int:
    """Bytes that a row of `memory` peaks above what the process held after its imports."""
    return row["peak_bytes"] - row["imports_bytes"]


# How rows are named


def label(row: Row) -> str:
    """The case of a row in words, such as "F5C, forward and backward"."""
    if row["task"] == PREDICTION:
        return f"{SUBJECTS[row['subject']]}, prediction, 1 s of video"
    batch = f", batch {row['sizes']['batch']}" if "batch" in row["sizes"] else ""
    return f"{SUBJECTS[row['subject']]}, {task_name(row['task'])}{batch}"


def label_with_dtype(row: Row) -> str:
    """The same, followed by the dtype if that is not float32."""
    return label(row) if row["dtype"] == "float32" else f"{label(row)}, {row['dtype']}"


def task_name(task: str) -> str:
    """A task in words: "forward and backward"."""
    return task.replace("-", " and ")


def named(row: Row) -> str:
    """The contender, followed by its dtype if that is not float32."""
    return row["contender"] if row["dtype"] == "float32" else f"{row['contender']}, {row['dtype']}"
