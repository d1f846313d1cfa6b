"""What ``mol check-data`` prints and writes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from mol.common.errors import DataError
from mol.common.extras import require
from mol.common.storage import write_csv
from mol.common.terminal import styled
from mol.data.check.findings import Finding, Severity
from mol.data.protocol import AS_LABELLED, HasLabelFields, Protocol, apply, left_out
from mol.data.protocols import protocol_for

_STYLES = {"error": "red", "warning": "yellow", "info": "dim"}


# Findings of one kind that are printed; a broken disk has thousands.
_SHOWN = 10


def findings_table(findings: Sequence[Finding]) -> Any:
    """A `rich.table.Table` of the findings, the first of each kind."""
    table = require("rich.table", extra="train").Table(title="findings", box=None, padding=(0, 2, 0, 0))
    for column in ("", "kind", "where", "what"):
        table.add_column(column, overflow="fold")
    groups: dict[tuple[Severity, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.severity, finding.kind].append(finding)
    for (severity, kind), group in groups.items():
        for finding in group[:_SHOWN]:
            table.add_row(styled(severity, _STYLES[severity]), kind, finding.where, finding.what)
        if len(group) > _SHOWN:
            table.add_row("", kind, "…", f"and {len(group) - _SHOWN} more; --out findings.csv lists all")
    return table


def counts_table(clips: Sequence[HasLabelFields], protocol_name: str | None) -> Any:
    """A `rich.table.Table` of clips and people per set, next to what the protocol asserts."""
    table = require("rich.table", extra="train").Table(title=protocol_name or AS_LABELLED)
    table.add_column("set")
    table.add_column("")
    table.add_column("found", justify="right")
    table.add_column("expected", justify="right")
    for row in _counts_rows(clips, protocol_for(protocol_name or AS_LABELLED, clips)):
        if row is None:
            table.add_section()
        else:
            table.add_row(*row)
    return table


def _counts_rows(clips: Sequence[HasLabelFields], protocol: Protocol) -> Iterator[tuple[str, str, str, str] | None]:
    """(set, class, found, expected) for each class, then clips and people of the set; None between sets."""
    for dataset in sorted({clip.dataset for clip in clips} & set(protocol.datasets)):
        taken = [clip for clip in clips if clip.dataset == dataset and not _foreign(protocol, clip)]
        labels = apply(protocol, taken)
        found = Counter(protocol.classes[label] for label in labels if label is not None)
        expected = (protocol.counts or {}).get(dataset, {})
        for name in protocol.classes:
            if found[name] or name in expected or name in protocol.emotions[dataset].values():
                yield dataset, name, str(found[name]), str(expected.get(name, "–"))
        people = {clip.subject for clip, label in zip(taken, labels, strict=True) if label is not None}
        people_expected = (protocol.subject_counts or {}).get(dataset, "–")
        yield dataset, "clips", str(sum(found.values())), str(sum(expected.values()) if expected else "–")
        yield dataset, "subjects", str(len(people)), str(people_expected)
        yield None


def _foreign(protocol: Protocol, clip: HasLabelFields) -> bool:
    """Whether the clip cannot belong to its set, which is reported as a finding already."""
    try:
        left_out(protocol, clip)
    except DataError:
        return True
    return False


def write_findings(path: Path, findings: Sequence[Finding]) -> None:
    """Write all findings as CSV."""
    write_csv(path, [item.name for item in fields(Finding)], [astuple(finding) for finding in findings])
