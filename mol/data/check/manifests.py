"""Checks that need no pictures: what manifests list, and whether it fits a protocol."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from mol.common.errors import DataError
from mol.data.annotations import doubt_about
from mol.data.check.findings import Finding
from mol.data.manifest import Manifest, key
from mol.data.people import doubts_about_people
from mol.data.protocol import HasLabelFields, Protocol, apply, count_differences, left_out


def check_sets(manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """Check that every set comes from one manifest and every clip is listed once."""
    roots: dict[str, list[Path]] = defaultdict(list)
    names: Counter[str] = Counter()
    for manifest in manifests:
        for dataset in sorted({clip.dataset for clip in manifest.clips}):
            roots[dataset].append(manifest.root)
        names.update(key(clip) for clip in manifest.clips)
    for dataset, where in roots.items():
        if len(where) > 1:
            came = " and ".join(map(str, where))
            yield Finding(
                "error", "set twice", dataset, f"comes from {len(where)} manifests ({came}); give only one of them."
            )
    for name, count in names.items():
        if count > 1:
            yield Finding(
                "error", "clip twice", name, f"is listed {count} times in the manifests and would be counted each time."
            )
    for manifest in manifests:
        if not manifest.root.is_dir():
            yield Finding(
                "error", "root missing", manifest.dataset, f"{manifest.root} does not exist; make the manifest again."
            )
        if not manifest.clips:
            yield Finding("error", "no clips", manifest.dataset, "the manifest is empty.")


def check_people(manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """Find people who may be one person: names spelled alike, and films listed for several people."""
    for manifest in manifests:
        for where, what in doubts_about_people(manifest):
            yield Finding("warning", "one person?", where, what)


def check_annotations(manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """Find annotations that cannot be those of a micro-expression."""
    for clip in (clip for manifest in manifests for clip in manifest.clips):
        if doubt := doubt_about(clip):
            yield Finding("warning", "annotation", key(clip), f"{doubt[1]} ({clip.source}); such clips {doubt[0]}")


def check_labels(protocol: Protocol, clips: Sequence[HasLabelFields]) -> Iterator[Finding]:
    """Check people, emotions and counts against the protocol."""
    known = []
    for clip in clips:
        try:
            apply(protocol, [clip])
        except DataError as error:
            yield Finding("error", "not in protocol", key(clip), str(error))
        else:
            known.append(clip)
    for difference in count_differences(protocol, known):
        yield Finding("error", "counts", protocol.name, difference)
    reasons = Counter((clip.dataset, left_out(protocol, clip)) for clip in known)
    for (dataset, reason), count in reasons.items():
        if reason:
            yield Finding("info", "left out", dataset, f"{reason}: {count} clips take no part in {protocol.name}")
