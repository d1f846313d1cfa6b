"""The recognition protocols that are known by name.

``docs/protocols.md`` explains them. ``python -m mol.data.protocols`` prints the table on that page;
``python -m mol.data.protocols docs/protocols.md`` writes it there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from mol.common.checks import unknown_name
from mol.common.errors import SettingsError
from mol.common.markdown import publish
from mol.data.protocol import AS_LABELLED, AS_LABELLED_NOTE, HasLabelFields, Protocol, as_labelled
from mol.data.sets import casme2, samm, smic
from mol.data.sets.collector import spellings
from mol.data.sets.dataset import DataSet


def _annotated(dataset: DataSet, classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """The counts of a data set whose emotions are the classes."""
    return {dataset.name: {name: dataset.counts[name] for name in classes}}


_MEGC_CASME2 = {"disgust": "negative", "repression": "negative", "happiness": "positive", "surprise": "surprise"}
_MEGC_SAMM = {
    **dict.fromkeys(("anger", "contempt", "disgust", "fear", "sadness"), "negative"),
    "happiness": "positive",
    "surprise": "surprise",
}
_THREE = spellings("negative", "positive", "surprise")
_BY_VALENCE = {
    **dict.fromkeys(("anger", "disgust", "fear", "sadness"), "negative"),
    "happiness": "positive",
    "surprise": "surprise",
}
_CASME2_FIVE = ("surprise", "happiness", "disgust", "repression", "others")
_SAMM_FIVE = ("surprise", "happiness", "anger", "contempt", "others")
_SEVEN = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "others")

_CASME2_PEOPLE = frozenset(casme2.SET.people)
_SAMM_PEOPLE = frozenset(samm.SET.people)
_SMIC_PEOPLE = frozenset(smic.SET.people)
_RELEASED = "the published code of MOL (Shao et al., IEEE TPAMI 2025)"
_RELEASED_IDS = ("surprise", "positive", "negative")

_ALL = (
    Protocol(
        name="megc2019",
        classes=("negative", "positive", "surprise"),
        emotions={"casme2": _MEGC_CASME2, "samm": _MEGC_SAMM, "smic": _THREE},
        drop=frozenset({"casme2/sub04/EP12_01f", "casme2/sub05/EP12_03f", "casme2/sub24/EP02_07"}),
        counts={
            "casme2": {"negative": 88, "positive": 32, "surprise": 25},
            "samm": {"negative": 92, "positive": 26, "surprise": 15},
            **_annotated(smic.SET, ("negative", "positive", "surprise")),
        },
        subject_counts={"casme2": 24, "samm": 28, "smic": 16},
        people={"casme2": _CASME2_PEOPLE - {"sub10", "sub18"}, "smic": _SMIC_PEOPLE},
        source="See et al., MEGC 2019: the second facial micro-expressions grand challenge, FG 2019",
        note=(
            "442 clips, 68 subjects. CASME II's subjects 10 and 18 are not excluded by name: none of their clips has "
            "one of the three classes, and one that had would be reported as a difference."
        ),
    ),
    Protocol(
        name="casme2-5",
        classes=_CASME2_FIVE,
        emotions={"casme2": spellings(*_CASME2_FIVE)},
        counts=_annotated(casme2.SET, _CASME2_FIVE),
        source="Yan et al., CASME II, PLoS ONE 2014; counts of the distributed sheet",
        note="246 clips; sadness (7) and fear (2) are excluded. The number of subjects is not checked.",
    ),
    Protocol(
        name="samm-5",
        classes=_SAMM_FIVE,
        emotions={"samm": spellings(*_SAMM_FIVE)},
        counts=_annotated(samm.SET, _SAMM_FIVE),
        source="Davison et al., SAMM, IEEE TAC 2018; counts of the distributed sheet",
        note="136 clips; disgust (9), fear (8) and sadness (6) are excluded. The number of subjects is not checked.",
    ),
    Protocol(
        name="released-casme2-3",
        classes=_RELEASED_IDS,
        emotions={"casme2": {**_THREE, **_MEGC_CASME2}},
        subjects={"casme2": _CASME2_PEOPLE - {"sub18"}},
        source=_RELEASED,
        note=(
            "25 subjects, including 10 but not 18. No counts are checked, because the emotions in the published code's "
            "class folders are not known. For the official sheet MEGC 2019's are assumed, and then 10 has no clip."
        ),
    ),
    Protocol(
        name="released-casme2-5",
        classes=_CASME2_FIVE,
        emotions={"casme2": spellings(*_CASME2_FIVE)},
        subjects={"casme2": _CASME2_PEOPLE - {"sub18"}},
        subject_counts={"casme2": 25},
        source=_RELEASED,
        note="25 subjects, including 10 but not 18. Clips per class are not checked.",
    ),
    Protocol(
        name="released-samm-3",
        classes=_RELEASED_IDS,
        emotions={"samm": {**_THREE, **_MEGC_SAMM}},
        subjects={"samm": _SAMM_PEOPLE - {"025"}},
        subject_counts={"samm": 28},
        source=_RELEASED,
        note="28 subjects, without 025. Clips per class are not checked.",
    ),
    Protocol(
        name="released-samm-5",
        classes=_SAMM_FIVE,
        emotions={"samm": spellings(*_SAMM_FIVE)},
        subjects={"samm": _SAMM_PEOPLE - {"024"}},
        subject_counts={"samm": 28},
        source=_RELEASED,
        note="28 subjects, without 024. Clips per class are not checked.",
    ),
    Protocol(
        name="released-smic-3",
        classes=_RELEASED_IDS,
        emotions={"smic": _THREE},
        subjects={"smic": _SMIC_PEOPLE},
        counts=_annotated(smic.SET, _RELEASED_IDS),
        subject_counts={"smic": 16},
        source=_RELEASED + "; counts of SMIC-HS",
        note="The clips of megc2019 under other class ids.",
    ),
    Protocol(
        name="casme3-3",
        classes=("negative", "positive", "surprise"),
        emotions={"casme3": _BY_VALENCE},
        source="Li et al., CAS(ME)³, IEEE TPAMI 2023 (?)",
        note="Part A without others, by valence. No counts are checked; the publication does not confirm the mapping.",
    ),
    Protocol(
        name="casme3-4",
        classes=("negative", "positive", "surprise", "others"),
        emotions={"casme3": {**_BY_VALENCE, "others": "others"}},
        source="Li et al., CAS(ME)³, IEEE TPAMI 2023 (?)",
        note="Part A by valence. No counts are checked; the publication does not confirm the mapping.",
    ),
    Protocol(
        name="casme3-7",
        classes=_SEVEN,
        emotions={"casme3": spellings(*_SEVEN)},
        source="Li et al., CAS(ME)³, IEEE TPAMI 2023",
        note="Part A as annotated (860 rows in the distributed sheet). No counts are checked.",
    ),
    Protocol(
        name="mmew-3",
        classes=("negative", "positive", "surprise"),
        emotions={"mmew": _BY_VALENCE},
        source="this project",
        note="Without others, by valence. No counts are checked; no publication confirms the mapping.",
    ),
    Protocol(
        name="mmew-4",
        classes=("negative", "positive", "surprise", "others"),
        emotions={"mmew": {**_BY_VALENCE, "others": "others"}},
        source="this project",
        note="By valence. No counts are checked; no publication confirms the mapping.",
    ),
    Protocol(
        name="mmew-7",
        classes=_SEVEN,
        emotions={"mmew": spellings(*_SEVEN)},
        source="Ben et al., IEEE TPAMI 2022",
        note="As annotated. No counts are checked.",
    ),
)

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({protocol.name: protocol for protocol in _ALL})


def find_protocol(name: str) -> Protocol:
    """The protocol with this name.

    Raises:
        SettingsError: an unknown protocol, or ``as-labelled``, which depends on the clips (`protocol_for`).
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    if name == AS_LABELLED:
        raise SettingsError(f"the protocol {AS_LABELLED} depends on the clips; call as_labelled(clips).")
    raise unknown_name("protocol", name, [*PROTOCOLS, AS_LABELLED])


def protocol_for(name: str, clips: Iterable[HasLabelFields]) -> Protocol:
    """The protocol with this name; for ``as-labelled``, the one whose classes are the emotions of these clips.

    Raises:
        SettingsError: an unknown protocol.
        DataError: ``as-labelled`` without clips.
    """
    return as_labelled(clips) if name == AS_LABELLED else find_protocol(name)


def markdown_table() -> str:
    """All protocols as the Markdown table in ``docs/protocols.md``."""
    rows = [
        "| name | class ids | data sets | clips | subjects | remarks |",
        "|---|---|---|---|---|---|",
    ]
    for protocol in PROTOCOLS.values():
        classes = ", ".join(f"{index} {name}" for index, name in enumerate(protocol.classes))
        cells = (
            classes,
            ", ".join(protocol.datasets),
            *_asserted(protocol),
            f"{protocol.note} Source: {protocol.source}.",
        )
        rows.append(f"| `{protocol.name}` | {' | '.join(cells)} |")
    rows.append(f"| `{AS_LABELLED}` | the clips' emotions in alphabetical order | any | – | – | {AS_LABELLED_NOTE} |")
    return "\n".join(rows)


def _asserted(protocol: Protocol) -> Iterator[str]:
    counts = protocol.counts or {}
    yield (
        "; ".join(
            f"{dataset} {'/'.join(str(counts[dataset][name]) for name in protocol.classes)}" for dataset in counts
        )
        or "–"
    )
    yield "; ".join(f"{dataset} {count}" for dataset, count in (protocol.subject_counts or {}).items()) or "–"


if __name__ == "__main__":
    publish(markdown_table(), "table", sys.argv[1:])
