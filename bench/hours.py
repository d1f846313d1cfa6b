"""From measured training steps to the hours of a whole leave-one-subject-out run, and both as Markdown."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.tables import digits, duration, markdown_table, rates
from bench.timing import paired_ratio, quantiles

LEAST_STEPS = 50
NOT_INCLUDED = (
    "Not included: extraction of landmarks and flow, loading and cropping of clips, evaluation of the held-out clips, "
    "checkpoints, start-up."
)

Durations = Mapping[str, Sequence[float]]
"""Seconds of every round, by batch size as text."""


def fit_line(durations: Durations) -> tuple[float, float] | None:
    """Fit seconds(batch) = a + c·batch to the medians by least squares, each weighted by steps / median².

    The scatter of a step grows with its length, and that of a median shrinks with the root of the number of steps.
    These weights therefore make the errors relative; without them the largest batch alone would determine the line.

    Returns:
        (a, c) in seconds and seconds per clip; None if fewer than two batch sizes were measured.
    """
    points = [(int(size), statistics.median(d), len(d)) for size, d in durations.items() if d]
    if len(points) < 2:
        return None
    weights = [count / median**2 for _, median, count in points]
    total = sum(weights)
    x = sum(w * size for w, (size, _, _) in zip(weights, points, strict=True)) / total
    y = sum(w * median for w, (_, median, _) in zip(weights, points, strict=True)) / total
    spread = sum(w * (size - x) ** 2 for w, (size, _, _) in zip(weights, points, strict=True))
    slope = sum(w * (size - x) * (median - y) for w, (size, median, _) in zip(weights, points, strict=True)) / spread
    return y - slope * x, slope


def fitted_step(batch: int, durations: Durations) -> float | None:
    """Seconds of a step of `batch` clips, by the line through all other batch sizes; None if there is no line."""
    line = fit_line({size: d for size, d in durations.items() if int(size) != batch})
    return None if line is None else line[0] + line[1] * batch


def step_seconds(batch: int, durations: Durations) -> tuple[float, bool] | None:
    """Seconds of a step and whether they were measured: the median at this batch size, otherwise the fitted step.

    Returns:
        None if this batch size was not measured and there is no line.
    """
    own = durations.get(str(batch))
    if own:
        return statistics.median(own), True
    fitted = fitted_step(batch, durations)
    return None if fitted is None else (fitted, False)


def measured_steps(durations: Mapping[str, Durations]) -> int:
    """The number of timed steps of the contender that has the fewest."""
    return min(sum(map(len, by_batch.values())) for by_batch in durations.values())


def markdown(result: Mapping[str, Any]) -> str:
    """A saved result of `python -m bench.loso`: headline, measured steps, the fit, and what is not included."""
    about, loso = result["machine"], result["loso"]
    where = (
        f"{about['device']}, torch {about['torch']}, {about['date'][:10]}, commit {about['commit']}; "
        f"{rates(result['limits'])}"
    )
    parts = [where, headline(loso), _measured_table(loso["durations"]), _fit_table(loso), NOT_INCLUDED]
    return "\n\n".join(parts)


def headline(loso: Mapping[str, Any]) -> str:
    """Hours of the whole run for each contender and their ratios, or why too little was measured for them."""
    protocol, durations, draft = loso["protocol"], loso["durations"], loso["draft"]
    steps = measured_steps(durations)
    if steps < LEAST_STEPS and not draft:
        return f"**Unfinished: {steps} steps per contender; a headline needs at least {LEAST_STEPS}.**"
    found = {key: step_seconds(protocol["batch"], by_batch) for key, by_batch in durations.items()}
    total = protocol["folds"] * protocol["steps"]
    figures = [
        f"{key} {_hours(total * step[0])}{'' if step[1] else ' (step extrapolated)'}"
        for key, step in found.items()
        if step
    ]
    if len(figures) < len(found):
        return f"**No headline: steps at batch {protocol['batch']}, or at two batch sizes, must be measured first.**"
    title = (
        f"**{'DRAFT, too few steps to quote. ' if draft else ''}A leave-one-subject-out run of "
        f"{protocol['dataset'].upper()} ({protocol['folds']} folds × {protocol['steps']} steps of {protocol['batch']} "
        f"clips; {steps} steps of each contender measured) takes: {'; '.join(figures)}.**"
    )
    return f"{title}\n\n{_ratios(protocol['batch'], durations)}".rstrip()


def _ratios(batch: int, durations: Mapping[str, Durations]) -> str:
    """The first contender's time over that of each other one, round by round if this batch size was measured."""
    first, *others = durations
    lines = []
    for key in others:
        if durations[first].get(str(batch)):
            low, median, high = paired_ratio(durations[first][str(batch)], durations[key][str(batch)])
            lines.append(f"{first} takes {median:.2f} times as long as {key} ({low:.2f} to {high:.2f}, paired rounds).")
            continue
        steps = [step_seconds(batch, durations[name]) for name in (first, key)]
        if steps[0] and steps[1]:
            ratio = steps[0][0] / steps[1][0]
            lines.append(f"{first} takes {ratio:.2f} times as long as {key} by the fits; see below for paired rounds.")
    return "\n".join(lines)


def _measured_table(durations: Mapping[str, Durations]) -> str:
    first = next(iter(durations))
    rows = []
    for key, by_batch in durations.items():
        for size, seconds in by_batch.items():
            if seconds:
                low, median, high = quantiles(seconds)
                slow, ratio, fast = paired_ratio(durations[first][size], seconds)
                paired = f"{ratio:.2f} ({slow:.2f} to {fast:.2f})"
                rows.append([key, size, str(len(seconds)), digits(median), f"{digits(low)} to {digits(high)}", paired])
    titles = ["contender", "batch", "steps", "s, median", "0.2 to 0.8", f"{first} / contender, paired"]
    return markdown_table(titles, rows)


def _fit_table(loso: Mapping[str, Any]) -> str:
    """The line through the other batch sizes, beside the measured step of the protocol's batch size."""
    batch = loso["protocol"]["batch"]
    rows = []
    for key, by_batch in loso["durations"].items():
        own, fitted = by_batch.get(str(batch)), fitted_step(batch, by_batch)
        median = statistics.median(own) if own else None
        off = f"{100 * (fitted / median - 1):+.1f} %" if median and fitted is not None else ""
        rows.append([key, *("" if value is None else digits(value) for value in (median, fitted)), off])
    text = (
        "The same step by a line through the medians of all other batch sizes (weights steps / median²). The whole run "
        f"is {loso['protocol']['folds'] * loso['protocol']['steps']} times the measured step, or else the fitted one."
    )
    titles = ["contender", f"batch {batch} measured, s", "fitted, s", "error of the fit"]
    return f"{text}\n\n{markdown_table(titles, rows)}"


def _hours(seconds: float) -> str:
    days = f" = {seconds / 86400:.1f} days" if seconds >= 48 * 3600 else ""
    return f"{duration(seconds)}{days}"
