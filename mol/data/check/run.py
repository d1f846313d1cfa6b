"""Check data sets before they are used, and print what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mol.common.environment import available_cores
from mol.common.errors import CacheError, DataError
from mol.common.terminal import console, counting, say
from mol.data.cache import Cache, Video
from mol.data.check.caches import check_cache, check_people_of_caches, is_cache, repair
from mol.data.check.findings import Finding, Severity
from mol.data.check.manifests import check_annotations, check_labels, check_people, check_sets
from mol.data.check.pictures import Job, by_folder, check_copies, inspect_all, sizes_of_sets
from mol.data.check.report import counts_table, findings_table, write_findings
from mol.data.check.settings import CheckDataConfig
from mol.data.extract.report import loso_command
from mol.data.manifest import Clip, Manifest, read_manifest
from mol.data.protocols import protocol_for

_ORDER: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class _Data:
    """The data to check, opened: manifests, caches, and findings about caches that could not be opened."""

    manifests: list[Manifest]
    caches: list[Cache]
    unreadable: list[Finding]

    @property
    def clips(self) -> list[Clip]:
        return [clip for manifest in self.manifests for clip in manifest.clips]

    @property
    def videos(self) -> list[Video]:
        return list(dict.fromkeys(video for cache in self.caches for video in cache.videos))


def check_data(config: CheckDataConfig, progress: Callable[[int, int], object] | None = None) -> list[Finding]:
    """Check manifests with their pictures, and caches.

    Args:
        config: what to check.
        progress: called with (done, total), both in clips of manifests plus rows of caches.
    Returns:
        Errors, then warnings, then notes.
    Raises:
        DataError: a manifest cannot be read, or a folder is neither a manifest nor a cache.
        SettingsError: an unknown protocol.
    """
    return _check(_open(config), config, progress or (lambda done, total: None))


def run_check_data(config: CheckDataConfig) -> None:
    """Check data and print findings and counts.

    Raises:
        DataError: there are errors among the findings, or as `check_data`.
    """
    data = _open(config)
    with counting("checking") as count:
        findings = _check(data, config, count)
    if findings:
        console().print(findings_table(findings))
    for clips in (data.clips, data.videos):
        if clips:
            console().print(counts_table(clips, config.protocol))
    if config.out:
        write_findings(Path(config.out), findings)
        say(f"all findings: {config.out}")
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        kinds = ", ".join(f"{count} × {kind}" for kind, count in Counter(error.kind for error in errors).items())
        repairs = "".join(f"\n  {how}" for cache in data.caches if (how := repair(cache, findings)))
        raise DataError(f"the data has {len(errors)} error{'s' * (len(errors) > 1)}, listed above ({kinds}).{repairs}")
    steps = [f"mol extract {folder}" for folder in config.manifests if not is_cache(Path(folder))]
    steps += map(loso_command, data.caches)
    say("\n".join(["no errors", *(f"next: {step}" for step in steps)]))


def _open(config: CheckDataConfig) -> _Data:
    data = _Data([], [], [])
    for folder in map(Path, config.manifests):
        if not is_cache(folder):
            if not (folder / "manifest.json").exists() and not (folder / "clips.csv").exists():
                raise DataError(
                    f"{folder} holds neither a manifest (manifest.json) nor a cache (settings.json); give a folder "
                    "made by mol prepare, mol extract or mol synth."
                )
            data.manifests.append(read_manifest(folder))
            continue
        try:
            data.caches.append(Cache.open(folder))
        except CacheError as error:
            data.unreadable.append(Finding("error", "unreadable", str(folder), str(error)))
    return data


def _check(data: _Data, config: CheckDataConfig, progress: Callable[[int, int], object]) -> list[Finding]:
    findings = [*data.unreadable, *check_sets(data.manifests), *check_people(data.manifests)]
    findings += [*check_people_of_caches(data.caches), *check_annotations(data.manifests)]
    for clips in (data.clips, data.videos):
        if config.protocol and clips:
            findings += check_labels(protocol_for(config.protocol, clips), clips)
    before, total = len(data.clips), len(data.clips) + sum(map(len, data.caches))
    progress(0, total)
    findings += _check_pictures(data.manifests, config, partial(_report, progress, total, 0))
    for cache in data.caches:
        findings += check_cache(cache, partial(_report, progress, total, before))
        before += len(cache)
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


def _report(progress: Callable[[int, int], object], total: int, before: int, done: int) -> None:
    progress(before + done, total)


def _check_pictures(
    manifests: Sequence[Manifest], config: CheckDataConfig, progress: Callable[[int], object]
) -> Iterator[Finding]:
    jobs = [
        Job(folder, tuple(sharing), config.pictures, config.frames, config.short == "reject")
        for folder, sharing in by_folder(manifests).items()
    ]
    seen = list(inspect_all(jobs, config.workers or available_cores(), progress))
    # Results come in the order in which processes finish; findings are listed in that of the manifests.
    seen.sort(key=lambda entry: entry[0])
    inspected = [one for _, one in seen]
    for one in inspected:
        yield from one.findings
    yield from check_copies(inspected)
    yield from sizes_of_sets(inspected)
