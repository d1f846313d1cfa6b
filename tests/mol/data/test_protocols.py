"""Which clips a protocol includes, under which class, and what it reports if their number differs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import cycle

import pytest
from markdown_parts import generated_part
from places import ROOT

from mol.common.errors import DataError, SettingsError
from mol.data.manifest import Clip
from mol.data.protocol import AS_LABELLED, apply, as_labelled, count_differences, left_out, require_counts
from mol.data.protocols import PROTOCOLS, find_protocol, markdown_table, protocol_for

CASME2_EMOTIONS = {
    "others": 98,
    "disgust": 62,
    "happiness": 32,
    "repression": 26,
    "surprise": 25,
    "sadness": 7,
    "fear": 2,
}
SAMM_EMOTIONS = {
    "anger": 57,
    "happiness": 26,
    "others": 26,
    "surprise": 15,
    "contempt": 12,
    "disgust": 9,
    "fear": 8,
    "sadness": 6,
}
SMIC_EMOTIONS = {"negative": 70, "positive": 51, "surprise": 43}


def clip(dataset: str, subject: str, name: str, emotion: str) -> Clip:
    return Clip(dataset, subject, name, f"{subject}/{name}", 1, None, 40, emotion)


def spread(dataset: str, people: list[str], emotions: dict[str, int]) -> list[Clip]:
    """So many clips of each emotion, dealt out to the people in turn."""
    turn = cycle(people)
    names = [emotion for emotion, count in emotions.items() for _ in range(count)]
    return [clip(dataset, next(turn), f"c{i}", emotion) for i, emotion in enumerate(names)]


def casme2() -> list[Clip]:
    """255 clips in which sub10 and sub18 have no emotion of the three classes, the three dropped ones among them."""
    people = [f"sub{i:02d}" for i in range(1, 27)]
    labelled = spread("casme2", [name for name in people if name not in ("sub10", "sub18")], CASME2_EMOTIONS)
    clips = [
        replace(one, subject=person) if one.emotion == "others" else one
        for one, person in zip(labelled, cycle(people), strict=False)
    ]
    return [
        *clips,
        clip("casme2", "sub04", "EP12_01f", "disgust"),
        clip("casme2", "sub05", "EP12_03f", "repression"),
        clip("casme2", "sub24", "EP02_07", "others"),
    ]


def samm() -> list[Clip]:
    """159 clips; 025 has only some that megc2019 leaves out."""
    people = [f"{i:03d}" for i in range(6, 38) if i not in (8, 25, 27, 29)]
    clips = spread("samm", people, SAMM_EMOTIONS)
    return [replace(one, subject="025") if one.emotion == "others" and i % 2 else one for i, one in enumerate(clips)]


def smic() -> list[Clip]:
    people = [f"s{i}" for i in (1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14, 15, 18, 19, 20)]
    return spread("smic", people, SMIC_EMOTIONS)


def composite() -> list[Clip]:
    return casme2() + samm() + smic()


def test_megc2019_takes_442_clips_of_68_subjects():
    clips, protocol = composite(), PROTOCOLS["megc2019"]
    taken = [one for one, label in zip(clips, apply(protocol, clips), strict=True) if label is not None]
    assert [sum(one.dataset == name for one in taken) for name in ("casme2", "samm", "smic")] == [145, 133, 164]
    assert len({(one.dataset, one.subject) for one in taken}) == 68
    assert count_differences(protocol, clips) == []
    require_counts(protocol, clips)


def test_megc2019_maps_emotions_to_its_three_ids():
    cases = [
        ("casme2", "sub01", "disgust", 0),
        ("casme2", "sub01", "repression", 0),
        ("casme2", "sub01", "fear", None),
        ("casme2", "sub01", "sadness", None),
        ("casme2", "sub01", "others", None),
        ("casme2", "sub01", "happiness", 1),
        ("casme2", "sub01", "surprise", 2),
        ("samm", "006", "fear", 0),
        ("samm", "006", "contempt", 0),
        ("samm", "006", "others", None),
        ("smic", "s1", "positive", 1),
    ]
    clips = [clip(dataset, subject, "c", emotion) for dataset, subject, emotion, _ in cases]
    assert apply(PROTOCOLS["megc2019"], clips) == [label for *_, label in cases]


@pytest.mark.parametrize("gone", range(0, 442, 49))
def test_one_missing_clip_is_named_with_set_class_expected_and_found(gone):
    protocol = PROTOCOLS["megc2019"]
    clips = composite()
    taken = [one for one in clips if left_out(protocol, one) is None]
    lost = taken[gone]
    (label,) = apply(protocol, [lost])
    name = protocol.classes[label]
    expected = protocol.counts[lost.dataset][name]
    differences = count_differences(protocol, [one for one in clips if one is not lost])
    assert differences[0] == f"{lost.dataset} {name}: {expected} clips expected, {expected - 1} found"


def test_a_subject_without_clips_is_named():
    clips = [one for one in composite() if (one.dataset, one.subject) != ("smic", "s20")]
    assert "smic: 16 subjects expected, 15 found (missing s20)" in count_differences(PROTOCOLS["megc2019"], clips)


def test_a_labelled_clip_of_casme2_subject_10_is_a_difference_and_not_left_out_silently():
    clips = [*composite(), clip("casme2", "sub10", "EP99_01", "disgust")]
    assert count_differences(PROTOCOLS["megc2019"], clips) == [
        "casme2 negative: 88 clips expected, 89 found",
        "casme2: 24 subjects expected, 25 found (not expected sub10)",
    ]


def test_a_set_that_is_not_given_is_not_asserted():
    assert count_differences(PROTOCOLS["megc2019"], samm() + smic()) == []


def test_clips_dropped_by_name_need_not_exist():
    clips = [one for one in casme2() if one.clip != "EP02_07"]
    assert count_differences(PROTOCOLS["megc2019"], clips) == []


def test_clips_dropped_by_name_are_dropped():
    protocol = PROTOCOLS["megc2019"]
    assert apply(protocol, [clip("casme2", "sub04", "EP12_01f", "disgust")]) == [None]
    assert apply(protocol, [clip("casme2", "sub05", "EP12_01f", "disgust")]) == [0]
    assert left_out(protocol, clip("casme2", "sub04", "EP12_01f", "disgust")) == "dropped by name"


def test_subclips_of_one_video_count_once():
    assert count_differences(PROTOCOLS["megc2019"], smic() * 3) == []


def test_require_counts_lists_every_difference_in_one_error():
    clips = [one for one in smic() if one.emotion != "surprise"]
    with pytest.raises(DataError, match=r"megc2019.*smic surprise: 43 clips expected, 0 found.*mol check-data"):
        require_counts(PROTOCOLS["megc2019"], clips)


def test_five_class_protocols_take_246_and_136_clips():
    for name, clips, total in (("casme2-5", casme2(), 246), ("samm-5", samm(), 136)):
        assert sum(label is not None for label in apply(PROTOCOLS[name], clips)) == total
        assert count_differences(PROTOCOLS[name], clips) == []


@pytest.mark.parametrize(
    ("name", "dataset", "absent", "present"),
    [
        ("released-casme2-3", "casme2", "sub18", "sub10"),
        ("released-casme2-5", "casme2", "sub18", "sub10"),
        ("released-samm-3", "samm", "025", "024"),
        ("released-samm-5", "samm", "024", "025"),
    ],
)
def test_released_subject_lists(name, dataset, absent, present):
    labels = apply(PROTOCOLS[name], [clip(dataset, who, "c", "surprise") for who in (absent, present)])
    assert labels == [None, 0]
    assert left_out(PROTOCOLS[name], clip(dataset, absent, "c", "surprise")) == f"subject {absent} is excluded"


def test_released_lists_have_25_28_28_and_16_people():
    sizes = {name: len(next(iter(PROTOCOLS[name].subjects.values()))) for name in PROTOCOLS if "released" in name}
    assert sizes == {
        "released-casme2-3": 25,
        "released-casme2-5": 25,
        "released-samm-3": 28,
        "released-samm-5": 28,
        "released-smic-3": 16,
    }


def test_released_three_class_ids_are_surprise_positive_negative_from_folders_and_from_sheets():
    protocol = PROTOCOLS["released-samm-3"]
    emotions = ["surprise", "positive", "negative", "happiness", "contempt"]
    assert apply(protocol, [clip("samm", "006", "c", emotion) for emotion in emotions]) == [0, 1, 2, 1, 2]


def test_the_same_emotion_has_another_id_in_another_protocol():
    one = [clip("smic", "s1", "c", "surprise")]
    assert apply(PROTOCOLS["megc2019"], one) == [2]
    assert apply(PROTOCOLS["released-smic-3"], one) == [0]


@pytest.mark.parametrize(
    ("dataset", "subject", "owner"),
    [
        ("casme2", "006", "samm"),
        ("samm", "s1", "smic"),
        ("smic", "sub01", "casme2"),
        ("casme2", "spNO.1", "casme3"),
    ],
)
def test_a_subject_of_one_set_in_another_is_refused(dataset, subject, owner):
    protocol = PROTOCOLS["megc2019"]
    with pytest.raises(DataError, match=rf"{dataset} has no subject '{subject}'.*a subject of [^;]*{owner}.*--dataset"):
        apply(protocol, [clip(dataset, subject, "c", "surprise")])


def test_a_set_that_the_protocol_does_not_know_is_refused():
    with pytest.raises(DataError, match=r"casme2-5 has no classes for samm.*casme2.*as-labelled"):
        apply(PROTOCOLS["casme2-5"], samm())


def test_as_labelled_makes_a_class_of_every_emotion_of_the_clips():
    clips = [clip("mine", "a", "1", "tense"), clip("mine", "b", "2", "anger"), clip("other", "a", "1", "tense")]
    protocol = as_labelled(clips)
    assert protocol.classes == ("anger", "tense")
    assert apply(protocol, clips) == [1, 0, 1]
    assert count_differences(protocol, clips) == []
    assert protocol_for(AS_LABELLED, clips) == protocol


def test_as_labelled_without_clips_is_refused():
    with pytest.raises(DataError, match="there are no clips"):
        as_labelled([])


def test_an_unknown_protocol_is_named_with_the_nearest():
    with pytest.raises(SettingsError, match=r"'megc2018'; did you mean megc2019"):
        find_protocol("megc2018")


def test_every_protocol_is_consistent():
    for name, protocol in PROTOCOLS.items():
        assert find_protocol(name) is protocol
        reached = {label for emotions in protocol.emotions.values() for label in emotions.values()}
        assert reached == set(protocol.classes)
        for table in (protocol.counts, protocol.subject_counts, protocol.subjects, protocol.people):
            assert set(table or {}) <= set(protocol.emotions)
        for dataset, counts in (protocol.counts or {}).items():
            assert set(counts) == set(protocol.emotions[dataset].values())
        assert protocol.source
        assert protocol.note


def test_the_page_holds_the_table_that_the_code_prints():
    printed = subprocess.run(
        [sys.executable, "-m", "mol.data.protocols"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.strip()
    assert printed == markdown_table()
    page = (ROOT / "docs/protocols.md").read_text(encoding="utf-8")
    assert generated_part(page, "table") == printed, "run python -m mol.data.protocols docs/protocols.md"
