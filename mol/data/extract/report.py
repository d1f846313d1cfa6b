"""What ``mol extract`` prints: a plan, a result, the command to continue with."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from mol.common.terminal import duration
from mol.data.cache import Cache
from mol.data.extract.clip import STAGES
from mol.data.extract.estimate import ExtractPlan
from mol.data.extract.result import ExtractResult
from mol.data.extract.settings import FRAMES, ExtractConfig
from mol.data.extract.work import listing


def describe_plan(plan: ExtractPlan) -> str:
    """Lines for the terminal: the amount of work, and the time and space it takes."""
    size, free, hours = _size(plan.cache_bytes), _size(plan.free_bytes), plan.hours
    estimate = (
        "unknown, because no clip could be timed"
        if hours is None
        else f"about {duration(hours * 3600)} with {plan.workers} processes, one core each (timed: {plan.timed} clips)"
    )
    lines = [
        f"{plan.manifest}: {plan.clips} clips, {plan.frames} pictures, {plan.rows} sub-clips of {FRAMES} frames",
        f"cache     {size} of {free} free (skipping clips temporarily needs twice the size)",
        f"training  {size} of device memory for the clips, in addition to what the network needs",
        f"time      {estimate}",
    ]
    lines += [f"problem   {reason}" for reason in plan.failed]
    if plan.problems:
        lines.append(f"{len(plan.problems)} clips cannot be extracted:{listing(plan.problems)}")
    return "\n".join([*lines, *(f"warning: {warning}" for warning in plan.warnings)])


def describe_result(result: ExtractResult, config: ExtractConfig) -> str:
    """Lines for the terminal: what came out, where the time went, what was left out, and the next command."""
    lines = [f"{result.clips} clips, {result.rows} sub-clips: {result.path}"]
    spent = sum(result.seconds.values())
    if result.extracted:
        rate = result.extracted / result.wall_s
        shares = ", ".join(f"{name} {result.seconds[name] / spent:.1%}" for name in STAGES)
        lines.append(
            f"{result.extracted} clips in {duration(result.wall_s)} with {result.workers} processes: "
            f"{rate:.3g} clips/s, {rate / result.workers:.3g} per process\ntime: {shares}"
        )
    else:
        lines.append("the cache was already complete; nothing was done")
    lines += [f"warning: {warning}" for warning in result.warnings]
    if result.skipped:
        lines.append(
            f"{len(result.skipped)} clips left out, see {result.path / 'skipped.json'} (to try them again, delete the "
            f"cache):{listing(result.skipped)}"
        )
    lines.append(f"next: {loso_command(Cache.open(result.path))}")
    return "\n".join(lines)


def loso_command(cache: Cache) -> str:
    """A leave-one-subject-out run that needs only this cache."""
    datasets = sorted({video.dataset for video in cache.videos})
    megc = set(datasets) <= {"casme2", "samm", "smic"}
    protocol = f"megc2019 --sets '[{', '.join(datasets)}]'" if megc else "as-labelled"
    return f"mol loso {cache.path} --protocol {protocol}"


def command_of(config: ExtractConfig) -> str:
    """The command line that gives these settings."""
    return shlex.join(["mol", "extract", *_options(config)])


def _options(config: Any, prefix: str = "") -> Iterator[str]:
    """``--name value`` for every setting that differs from its default."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from _options(value, f"{prefix}{field.name}.")
        elif field.default is MISSING or value != field.default:
            yield f"--{prefix}{field.name}"
            yield value if isinstance(value, str) else json.dumps(value)


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
