"""Check data sets before they are used, and print what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from mol.common.environment import available_cores
from mol.common.errors import DataError
from mol.common.terminal import console, counting, say
from mol.data.check.findings import Finding, Severity
from mol.data.check.manifests import check_labels, check_sets
from mol.data.check.pictures import Job, by_folder, check_copies, inspect_all, sizes_of_sets
from mol.data.check.report import counts_table, findings_table, write_findings
from mol.data.check.settings import CheckDataConfig
from mol.data.manifest import Manifest, read_manifest
from mol.data.protocols import protocol_for

_ORDER: tuple[Severity, ...] = ("error", "warning", "info")


def check_data(config: CheckDataConfig, progress: Callable[[int, int], object] | None = None) -> list[Finding]:
    """Check what `config` names.

    Args:
        config: what to check.
        progress: called with (clips done, total).
    Returns:
        Errors, then warnings, then what is merely worth knowing.
    Raises:
        DataError: a manifest cannot be read.
        SettingsError: there is no such protocol.
    """
    return check_manifests([read_manifest(Path(folder)) for folder in config.manifests], config, progress)


def run_check_data(config: CheckDataConfig) -> None:
    """Check data and print findings and counts.

    Raises:
        DataError: there are errors among the findings.
    """
    manifests = [read_manifest(Path(folder)) for folder in config.manifests]
    with counting("checking clips") as count:
        findings = check_manifests(manifests, config, count)
    clips = [clip for manifest in manifests for clip in manifest.clips]
    if findings:
        console().print(findings_table(findings))
    if clips:
        console().print(counts_table(clips, config.protocol))
    if config.out:
        write_findings(Path(config.out), findings)
        say(f"all findings: {config.out}")
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        kinds = ", ".join(f"{count} × {kind}" for kind, count in Counter(error.kind for error in errors).items())
        raise DataError(f"the data has {len(errors)} error{'s' * (len(errors) > 1)}, listed above ({kinds}).")
    say("no errors\n" + "\n".join(f"next: mol extract {folder}" for folder in config.manifests))


def check_manifests(
    manifests: Sequence[Manifest], config: CheckDataConfig, progress: Callable[[int, int], object] | None = None
) -> list[Finding]:
    """As `check_data`, for manifests that are already read."""
    clips = [clip for manifest in manifests for clip in manifest.clips]
    findings = list(check_sets(manifests))
    if config.protocol:
        findings += check_labels(protocol_for(config.protocol, clips), clips)
    jobs = [
        Job(folder, tuple(sharing), config.pictures, config.frames, config.short == "reject")
        for folder, sharing in by_folder(manifests).items()
    ]
    seen = list(inspect_all(jobs, config.workers or available_cores(), progress or (lambda done, total: None)))
    # Results come in the order in which processes finish; findings are listed in that of the manifests.
    seen.sort(key=lambda entry: entry[0])
    for _, inspected in seen:
        findings += inspected.findings
    findings += check_copies([inspected for _, inspected in seen])
    findings += sizes_of_sets([inspected for _, inspected in seen])
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))
