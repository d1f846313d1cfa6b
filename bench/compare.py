"""Did it get slower? `python -m bench.compare OLD.json NEW.json [--allow 0.05] [--all] [--missing-ok]`

Two runs are made at different times, so every time is divided by the baselines' times of the same round. This cancels
the machine's drift, which the difference of two medians would not. Prints a Markdown table.

Exit status 0: no regression. 1: a row is slower beyond noise and `--allow`, fails a check that it passed before, is
missing or cannot be compared, or a training step's peak memory grew by more than 5 %. 2: the files cannot be compared.
"""

import argparse
import math
import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import class_of
from bench.record import BASELINES, Result, Row, above_imports, case, label, load, named, timed_together
from bench.tables import digits, markdown_table
from mol.common.errors import MOLError, SettingsError
from mol.common.extras import require

CONFIDENCE = 0.99
MEMORY_ALLOWANCE = 0.05
TRIMMED_FROM = 10  # rounds; with fewer, trimming would leave too few to estimate the noise from


@dataclass(frozen=True)
class Verdict:
    """A line of the table: the row, its figures as text, and whether it makes the comparison fail."""

    row: str
    old: str
    new: str
    ratio: str
    verdict: str
    fails: bool = False


def interval(old: np.ndarray, new: np.ndarray) -> tuple[float, float, float]:
    """The ratio new / old of two samples of log seconds with its 99 % confidence interval.

    exp(m_new − m_old ± t s), m the mean over rounds, s² = s_old² + s_new² with Welch's degrees of freedom; from 10
    rounds on Yuen's form (Biometrika 1974), which trims a fifth of the rounds at either end, so interruptions have
    little weight. A bootstrap over three or five rounds would be too narrow, because so few rounds hide part of the
    spread; Student's t accounts for that.

    Args:
        old, new: log seconds relative to the baselines, one entry per round.
    Returns:
        (low, ratio, high); (0, ratio, inf) if a run has a single round.
    """
    samples = [_trimmed(old), _trimmed(new)]
    difference = samples[1][0] - samples[0][0]
    variance = sum(error for _, error, _ in samples)
    if min(len(old), len(new)) < 2:
        return 0.0, math.exp(difference), math.inf
    half = 0.0
    if variance:
        freedom = variance**2 / sum(error**2 / degrees for _, error, degrees in samples)
        quantile = require("scipy.special", extra="bench").stdtrit(freedom, (1 + CONFIDENCE) / 2)
        half = float(quantile) * math.sqrt(variance)
    return math.exp(difference - half), math.exp(difference), math.exp(difference + half)


def _trimmed(values: np.ndarray) -> tuple[float, float, int]:
    """Trimmed mean, its squared standard error, and degrees of freedom."""
    n = len(values)
    cut = n // 5 if n >= TRIMMED_FROM else 0
    kept = np.sort(values)[cut : n - cut]
    deviations = np.clip(values, kept[0], kept[-1])
    spread = float(np.square(deviations - deviations.mean()).sum())
    return float(kept.mean()), spread / max(len(kept) * (len(kept) - 1), 1), len(kept) - 1


def relative(row: Row, baselines: Sequence[Row]) -> np.ndarray:
    """Log seconds of a row minus the mean log seconds of the baselines, round by round."""
    return np.log(row["durations"]) - np.mean([np.log(other["durations"]) for other in baselines], axis=0)


def compare(
    old: Result, new: Result, allow: float = 0.05, everyone: bool = False, missing_ok: bool = False
) -> list[Verdict]:
    """Compare the rows of molkernels' backends in `old` with those in `new`.

    Args:
        old, new: results of one machine class (`bench.machine.class_of`) and number of threads.
        allow: a regression is a ratio whose entire interval is above 1 + `allow`.
        everyone: compare the baselines' rows as well.
        missing_ok: rows and figures missing from `new` do not count as failures.
    Raises:
        SettingsError: the machine classes or numbers of threads differ.
    """
    _refuse_other_class(old["machine"], new["machine"])
    if not 0 <= allow < math.inf:
        raise SettingsError(f"--allow is {allow}, but must be a non-negative share of the time, such as 0.05")
    before, after = _by_row(old, everyone), _by_row(new, everyone)
    verdicts = [
        _timed(row, after[key], old, new, allow, missing_ok) if key in after
        else Verdict(_title(row), _ms(row), "", "", "missing", not missing_ok)
        for key, row in before.items()
    ]  # fmt: skip
    verdicts += [Verdict(_title(row), "", _ms(row), "", "new") for key, row in after.items() if key not in before]
    return [*verdicts, *_memory(old["memory"], new["memory"], everyone, missing_ok)]


def _refuse_other_class(was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    before, since = class_of(was), class_of(now)
    if before != since:
        raise SettingsError(
            f"the machine class differs: {before} before, {since} now. Machines differ in what they are fast at, so no "
            f"baseline cancels the difference: measure both commits, {was['commit']} and {now['commit']}, on one "
            "machine with: pytest bench/ --save-results"
        )
    if was["threads"] != now["threads"]:
        raise SettingsError(
            f"threads differ: {was['threads']} before, {now['threads']} now; measure again with: "
            f"pytest bench/ --save-results --threads {was['threads']}"
        )


def _by_row(result: Result, everyone: bool) -> dict[tuple[Hashable, ...], Row]:
    rows = (row for row in result["rows"] if everyone or row["contender"] not in BASELINES)
    return {(*case(row), row["contender"], row["dtype"]): row for row in rows}


def _timed(was: Row, now: Row, old: Result, new: Result, allow: float, missing_ok: bool) -> Verdict:
    line = _title(was), _ms(was), _ms(now)
    if not now["seconds"]:
        return Verdict(
            *line, "", "fails its check" if was["seconds"] else "fails its check in both", bool(was["seconds"])
        )
    if not was["seconds"]:
        return Verdict(*line, "", "passes its check now")
    then, since = _baselines(old, was), _baselines(new, now)
    common = [name for name in then if name in since]
    if not common:
        return Verdict(*line, "", "no common baseline: not compared", not missing_ok)
    low, ratio, high = interval(
        relative(was, [then[name] for name in common]), relative(now, [since[name] for name in common])
    )
    slower, faster = low > 1 + allow, high < 1 / (1 + allow)
    rounds = f"{was['rounds']} and {now['rounds']} rounds"
    text = f"{ratio:.3f} ({low:.3f} to {high:.3f}; {rounds})"
    return Verdict(*line, text, "slower" if slower else "faster" if faster else "same", slower)


def _baselines(result: Result, row: Row) -> dict[str, Row]:
    """The baselines in float32 that were timed in the same rounds as `row`, by name."""
    return {
        other["contender"]: other
        for other in result["rows"]
        if timed_together(other) == timed_together(row)
        and other["contender"] in BASELINES
        and other["dtype"] == "float32"
        and other["seconds"]
        and other is not row
    }


def _memory(old: Sequence[Row], new: Sequence[Row], everyone: bool, missing_ok: bool) -> Iterator[Verdict]:
    """Compare peaks above the imports, because the imports are torch's own."""
    found = {_memory_key(row): row for row in new}
    for row in old:
        if row["contender"] in BASELINES and not everyone:
            continue
        title = f"training step, batch {row['batch']}, peak memory, {named(row)}"
        was, now = above_imports(row), found.get(_memory_key(row))
        if now is None:
            yield Verdict(title, f"{was / 2**20:.0f} MiB", "", "", "missing", not missing_ok)
            continue
        ratio = above_imports(now) / was
        more, less = ratio > 1 + MEMORY_ALLOWANCE, ratio < 1 / (1 + MEMORY_ALLOWANCE)
        cells = title, f"{was / 2**20:.0f} MiB", f"{above_imports(now) / 2**20:.0f} MiB", f"{ratio:.3f}"
        yield Verdict(*cells, "more" if more else "less" if less else "same", more)


def _memory_key(row: Row) -> tuple[Any, ...]:
    return row["contender"], row["dtype"], row["batch"]


def _title(row: Row) -> str:
    sizes = ", ".join(f"{key} {size}" for key, size in row["sizes"].items() if key == row["sweep"] and key != "batch")
    return ", ".join(part for part in (label(row), sizes, named(row)) if part)


def _ms(row: Row) -> str:
    return digits(1e3 * row["seconds"][1]) if row["seconds"] else "not timed"


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as a Markdown table, with failures in bold."""
    titles = ["row", "old ms", "new ms", "new / old (99 %)", "verdict"]
    return markdown_table(
        titles,
        ([v.row, v.old, v.new, v.ratio, f"**{v.verdict}**" if v.fails else v.verdict] for v in verdicts),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description="Fails where NEW is slower than OLD.")
    parser.add_argument("old", type=Path, metavar="OLD.json")
    parser.add_argument("new", type=Path, metavar="NEW.json")
    parser.add_argument("--allow", type=float, default=0.05, help="share by which a row may be slower (default: 0.05)")
    parser.add_argument("--all", action="store_true", help="compare the baselines' rows as well")
    parser.add_argument("--missing-ok", action="store_true", help="rows missing from NEW do not count as failures")
    options = parser.parse_args(arguments)
    try:
        old, new = load(options.old), load(options.new)
        verdicts = compare(old, new, options.allow, options.all, options.missing_ok)
    except MOLError as error:
        print(error, file=sys.stderr)
        return 2
    _warn_of_torch(old["machine"], new["machine"])
    failing = sum(line.fails for line in verdicts)
    print(table(verdicts))
    print(f"\n{failing} of {len(verdicts)} fail." if failing else f"\nNone of {len(verdicts)} fails.")
    return int(failing > 0)


def _warn_of_torch(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    if old["torch"] != new["torch"]:
        print(f"warning: torch differs, {old['torch']} before and {new['torch']} now", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
