"""The part of ``docs/datasets.md`` that is made from the data sets' modules.

``python -m mol.data.sets`` prints it; ``python -m mol.data.sets docs/datasets.md`` writes it into the page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from mol.common.markdown import publish
from mol.data.protocol import AS_LABELLED
from mol.data.protocols import PROTOCOLS
from mol.data.sets.dataset import DataSet
from mol.data.sets.registry import SETS


def markdown() -> str:
    """A table of all data sets, then a section for each that has folders of its own, as in ``docs/datasets.md``."""
    return "\n".join([*_table(), *(line for dataset in SETS.values() if dataset.tree for line in _section(dataset))])


def _table() -> Iterator[str]:
    yield "| `--dataset` | data set | subjects | frames/s | clips | protocols |"
    yield "|---|---|---|---|---|---|"
    for name, dataset in SETS.items():
        subject = f"`{dataset.subject}`" if dataset.subject else "–"
        cells = (
            dataset.title,
            subject,
            f"{dataset.fps:g}" if dataset.fps else "–",
            dataset.clips or "–",
            _protocols(dataset),
        )
        yield f"| [`{name}`](#{name}) | {' | '.join(map(str, cells))} |"


def _section(dataset: DataSet) -> Iterator[str]:
    root = dataset.tree.strip().partition("/")[0]
    yield from ("", f'<a id="{dataset.name}"></a>', "", f"### {dataset.title}", "")
    if dataset.citation:
        yield from (f"{dataset.citation}.", "")
    if dataset.access:
        page = f" Authors' page: <{dataset.url}>." if dataset.url else ""
        yield from (f"**Apply** to {dataset.access}.{page}", "")
    yield from ("**Unpack**", "", *(f"    {line}" for line in dataset.tree.strip().splitlines()), "")
    yield f"    mol prepare --dataset {dataset.name} --root {root} --out manifests/{dataset.name}"
    if dataset.counts:
        yield from ("", f"**Counts** {' '.join(_counts(dataset))}")
    if dataset.remarks:
        yield from ("", dataset.remarks)
    if dataset.quirks:
        yield from ("", "| quirk | what is done |", "|---|---|")
    yield from (f"| {quirk} | {done} |" for quirk, done in dataset.quirks)


def _counts(dataset: DataSet) -> Iterator[str]:
    yield f"{dataset.clips} clips, {len(dataset.people)} subjects: {_listed(dataset.counts)}."
    for protocol in PROTOCOLS.values():
        if counts := (protocol.counts or {}).get(dataset.name):
            people = (protocol.subject_counts or {}).get(dataset.name)
            of = f" of {people} subjects" if people else ""
            yield f"`{protocol.name}` uses {sum(counts.values())}{of}: {_listed(counts)}."


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _protocols(dataset: DataSet) -> str:
    own = [f"`{name}`" for name, protocol in PROTOCOLS.items() if dataset.name in protocol.datasets]
    return dataset.protocols or ", ".join(own) or f"`{AS_LABELLED}`"


if __name__ == "__main__":
    publish(markdown(), "sets", sys.argv[1:])
