"""Each data set's own folders, file names, sheets and quirks, filled with planned synthetic clips: one section per set.

The facts about each set are those of its loader in `mol.data.sets`. What a loader calls unconfirmed is unconfirmed here
as well: a set that is read back without an error shows that loader and layout agree, not that the real set looks like
this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mol.data.manifest import NEUTRAL
from mol.data.sets import casme2, samm, smic
from mol.synth.layout_plan import (
    Entry,
    LayoutPlan,
    LayoutSettings,
    Numbering,
    PlannedClip,
    Rows,
    deal,
    plan_entries,
    subjects,
)

# --- CASME II -------------------------------------------------------------------------------------------------------

_CASME2_CLIPS = (9, 13, 7, 5, 19, 4, 9, 3, 14, 14, 10, 12, 8, 4, 3, 4, 36, 3, 16, 11, 2, 2, 12, 11, 7, 17)
_CASME2_RESERVED = {
    "sub04": {"disgust": 1},
    "sub05": {"disgust": 1},
    "sub09": {"sadness": 1},
    "sub10": {"others": 13, "sadness": 1},
    "sub17": {"sadness": 2},
    "sub18": {"others": 3},
    "sub19": {"sadness": 1},
    "sub24": {"fear": 2, "sadness": 1},
    "sub26": {"sadness": 1},
}
# The first clip of a person; sub04's and sub05's are disgust and do not belong to MEGC 2019.
_CASME2_NAMES = {"sub01": "EP02_01f", "sub04": "EP12_01f", "sub05": "EP12_03f", "sub16": "EP01_08"}
_CASME2_HEADER = [
    "Subject",
    "Filename",
    None,
    "OnsetFrame",
    "ApexFrame",
    "OffsetFrame",
    None,
    "Action Units",
    "Estimated Emotion",
]
_WRONG_OFFSET_ROW, _TRUE_OFFSET = 60, 91
_UNLABELLED = Entry("sub24", "EP02_07", "others", "casme2")
_UNLISTED = Entry("sub09", "EP02_02f", "others", "casme2")


def _casme2_entries() -> list[Entry]:
    places = dict(zip(casme2.SET.people, _CASME2_CLIPS, strict=True))
    turns: Counter[str] = Counter()
    entries = []
    for subject, emotion in deal(casme2.SET.counts, places, _CASME2_RESERVED):
        turn = turns[subject]
        name = f"EP{3 + turn // 4:02d}_{1 + turn % 4:02d}{'f' if turn % 3 else ''}"
        entries.append(Entry(subject, _CASME2_NAMES.get(subject, name) if turn == 0 else name, emotion, "casme2"))
        turns[subject] += 1
    return entries


def plan_casme2(settings: LayoutSettings) -> LayoutPlan:
    """CASME II: raw frames in a folder within a folder of the same name, and the sheet of 2014.

    Quirks: the apex ``/`` of sub04/EP12_01f and some others; the wrong offset of the sheet's row 62, which should be
    91; sub24/EP02_07 without an emotion; sub09/EP02_02f without a row.
    """
    base = "CASME2_RAW_selected/CASME2_RAW_selected"
    numbering = Numbering(
        lambda entry: f"{base}/{entry.subject}/{entry.clip}", lambda _, number, __: f"img{number}.jpg", (20, 300)
    )
    return _plan_casme2("casme2", numbering, settings)


def plan_casme2_cropped(settings: LayoutSettings) -> LayoutPlan:
    """CASME II's Cropped, in which sub16/EP01_08 lacks its last frames; the pictures are still full frames."""
    numbering = Numbering(
        lambda entry: f"Cropped/{entry.subject}/{entry.clip}", lambda _, number, __: f"reg_img{number}.jpg", (20, 300)
    )
    plan = _plan_casme2("casme2-cropped", numbering, settings)
    short = [
        replace(clip, names=clip.names[: 2 * clip.length // 3]) if clip.folder.endswith("sub16/EP01_08") else clip
        for clip in plan.clips
    ]
    return replace(plan, clips=short)


def _plan_casme2(layout: str, numbering: Numbering, settings: LayoutSettings) -> LayoutPlan:
    clips = plan_entries(_casme2_entries(), numbering, settings)
    if len(clips) > _WRONG_OFFSET_ROW:
        clips[_WRONG_OFFSET_ROW] = _ending_at(_TRUE_OFFSET, clips[_WRONG_OFFSET_ROW], numbering)
    rows = [_casme2_row(position, clip) for position, clip in enumerate(clips)]
    people = set(subjects(clips))
    if _UNLABELLED.subject in people:
        place = 1 + max(index for index, clip in enumerate(clips) if clip.subject == _UNLABELLED.subject)
        rows.insert(place, [24, _UNLABELLED.clip, None, 46, 58, 70, None, "4", None])
    folders = [numbering.folder(entry) for entry in (_UNLABELLED, _UNLISTED) if entry.subject in people]
    return LayoutPlan(
        layout,
        settings,
        clips,
        {"CASME2-coding-20140508.xlsx": {"Sheet1": [_CASME2_HEADER, *rows]}},
        {},
        tuple(folders),
    )


def _ending_at(last: int, clip: PlannedClip, numbering: Numbering) -> PlannedClip:
    """The clip with other frame numbers."""
    shift = last - clip.offset
    entry = Entry(clip.subject, clip.clip, clip.emotion, clip.dataset)
    names = tuple(numbering.name(entry, clip.onset + shift + index, index) for index in range(clip.length))
    return replace(clip, names=names, onset=clip.onset + shift, apex=clip.apex + shift, offset=last)


def _casme2_row(position: int, clip: PlannedClip) -> list[Any]:
    apex = "/" if clip.clip == "EP12_01f" or position % 25 == 7 else clip.apex
    # Before the onset, where no real offset can be.
    offset = clip.onset - 15 if position == _WRONG_OFFSET_ROW else clip.offset
    units = "+".join(map(str, clip.action_units))
    return [int(clip.subject[3:]), clip.clip, None, clip.onset, apex, offset, None, units, clip.emotion]


# --- SAMM -----------------------------------------------------------------------------------------------------------

_SAMM_COUNTS = (11, 8, 4, 4, 20, 4, 6, 9, 3, 5, 6, 7, 3, 5, 3, 5, 4, 2, 3, 9, 4, 5, 3, 4, 5, 3, 7, 4, 3)
_SAMM_CLIPS = dict(zip(samm.SET.people, _SAMM_COUNTS, strict=True))
# One clip of anger each, so that everybody but 024 and 025 shows one of the three classes and one of the five.
_SAMM_RESERVED = {
    **{subject: {"anger": 1} for subject in _SAMM_CLIPS if subject not in ("024", "025")},
    "024": {"disgust": 1, "sadness": 1},
    "025": {"others": 3},
}
_SAMM_NAMES = {
    "006": ("006_1_2",),
    "013": ("013_1_8", "013_1_12"),
    "017": ("017_3_2",),
    "026": ("026_1_1", "026_1_2"),
    "028": ("028_4_1",),
    "032": ("032_3_1",),
    "035": ("035_7_2",),
}
_SAMM_UNEVEN = frozenset({"013_1_12", "013_1_8", "017_3_2", "026_1_1", "026_1_2", "035_7_2"})
_SAMM_HEADER = [
    "Subject",
    "Filename",
    "Inducement Code",
    "Onset Frame",
    "Apex Frame",
    "Offset Frame",
    "Duration",
    "Micro",
    "Action Units",
    "Estimated Emotion",
    "Objective Classes",
    "Notes",
]
_SAMM_OBJECTIVE = {"happiness": "I", "surprise": "II", "anger": "III", "disgust": "IV", "sadness": "V", "fear": "VI"}


def _samm_entries() -> list[Entry]:
    turns: Counter[str] = Counter()
    entries = []
    for subject, emotion in deal(samm.SET.counts, _SAMM_CLIPS, _SAMM_RESERVED):
        turn = turns[subject]
        named = _SAMM_NAMES.get(subject, ())
        clip = named[turn] if turn < len(named) else f"{subject}_{2 + turn // 4}_{3 + turn % 4}"
        entries.append(Entry(subject, clip, emotion, "samm"))
        turns[subject] += 1
    return entries


def plan_samm(settings: LayoutSettings) -> LayoutPlan:
    """SAMM: grey frames, and the sheet with 13 lines of notes above its header.

    Quirks: padding that changes within the six clips where it is known to; the apex outside 028_4_1 and 032_3_1;
    "Other" and "Others".
    """
    numbering = Numbering(lambda entry: f"SAMM/{entry.subject}/{entry.clip}", _samm_name, (600, 9000))
    clips = plan_entries(_samm_entries(), numbering, settings)
    notes: Rows = [[f"Note {line} of the sheet's authors"] for line in range(1, 14)]
    rows = [*notes, _SAMM_HEADER, *(_samm_row(position, clip) for position, clip in enumerate(clips))]
    return LayoutPlan("samm", settings, clips, {"SAMM_Micro_FACS_Codes_v2.xlsx": {"MICRO ONLY": rows}}, {})


def _samm_name(entry: Entry, number: int, position: int) -> str:
    padding = 0 if entry.clip in _SAMM_UNEVEN and position >= 8 else 5
    return f"{entry.subject}_{number:0{padding}d}.jpg"


def _samm_row(position: int, clip: PlannedClip) -> list[Any]:
    apex = {"028_4_1": clip.offset + 40, "032_3_1": clip.onset - 5}.get(clip.clip, clip.apex)
    emotion = ("Other" if position % 2 else "Others") if clip.emotion == "others" else clip.emotion.capitalize()
    units = "+".join(f"AU{unit}" for unit in clip.action_units)
    objective = _SAMM_OBJECTIVE.get(clip.emotion, "VII")
    code = int(clip.clip.split("_")[1])
    numbers = [clip.onset, apex, clip.offset, clip.length]
    return [clip.subject, clip.clip, code, *numbers, "Micro - 1/2", units, emotion, objective, None]


# --- SMIC -----------------------------------------------------------------------------------------------------------

_SMIC_COUNTS = (6, 6, 39, 19, 3, 4, 13, 5, 10, 9, 10, 10, 5, 7, 5, 13)
_SMIC_CLIPS = dict(zip(smic.SET.people, _SMIC_COUNTS, strict=True))
_SMIC_SHORT = {emotion: short for short, emotion in smic.CLASSES.items()}
_SMIC_EMPTY = "s18_sur_03"


def _smic_entries() -> list[Entry]:
    turns: Counter[tuple[str, str]] = Counter()
    entries = []
    for subject, emotion in deal(smic.SET.counts, _SMIC_CLIPS):
        turns[subject, emotion] += 1
        clip = f"{subject}_{_SMIC_SHORT[emotion]}_{turns[subject, emotion]:02d}"
        if clip == _SMIC_EMPTY:
            turns[subject, emotion] += 1
            clip = f"{subject}_{_SMIC_SHORT[emotion]}_{turns[subject, emotion]:02d}"
        entries.append(Entry(subject, clip, emotion, "smic"))
    return entries


def plan_smic(settings: LayoutSettings) -> LayoutPlan:
    """SMIC's HS part, cropped and registered (here: full frames); no sheet.

    Quirks: s18_sur_03 is empty, and s1 has a folder non_micro; with neutral clips, everybody has one.
    """
    base = "SMIC_all_cropped/HS"
    numbering = Numbering(
        lambda entry: f"{base}/{entry.subject}/{_smic_folder(entry)}/{entry.clip}",
        lambda _, number, __: f"reg_image{number:06d}.bmp",
        (1000, 200000),
    )
    clips = plan_entries(_smic_entries(), numbering, settings)
    empty = {"s18": f"{base}/s18/micro/surprise/{_SMIC_EMPTY}", "s1": f"{base}/s1/non_micro/s1_non_01"}
    people = subjects(clips)
    if settings.neutral:
        del empty["s1"]
        turns = range(1, settings.neutral + 1)
        still = [Entry(who, f"{who}_n{turn}", NEUTRAL, "smic") for who in smic.SET.people for turn in turns]
        clips += [clip for clip in plan_entries(still, numbering, replace(settings, clips=0)) if clip.subject in people]
    return LayoutPlan("smic", settings, clips, {}, {}, tuple(folder for who, folder in empty.items() if who in people))


def _smic_folder(entry: Entry) -> str:
    return "non_micro" if entry.emotion == NEUTRAL else f"micro/{entry.emotion}"


# --- CAS(ME)² -------------------------------------------------------------------------------------------------------

_CASME_SQ_TOTALS = {"negative": 21, "others": 19, "surprise": 9, "positive": 8}
_CASME_SQ_PEOPLE = (15, 16, 19, 20, 21, 22, 23, 24, 25, 26, 27, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 40)
_CASME_SQ_VIDEOS = {"disgust1": "0101", "anger1": "0401", "happy1": "0502"}


def _casme_sq_entries() -> list[Entry]:
    places = {f"s{number}": 2 + (turn < 13) for turn, number in enumerate(_CASME_SQ_PEOPLE)}
    turns: Counter[str] = Counter()
    entries = []
    for subject, emotion in deal(_CASME_SQ_TOTALS, places):
        # Two clips in the first video, the third in another.
        video = list(_CASME_SQ_VIDEOS)[turns[subject] // 2]
        entries.append(Entry(subject, f"{video}_{1 + turns[subject] % 2}", emotion, "casme-sq"))
        turns[subject] += 1
    return entries


def plan_casme_sq(settings: LayoutSettings) -> LayoutPlan:
    """CAS(ME)²: several expressions per video; people and videos are numbered, as two more worksheets explain.

    Quirks: no header; an offset and an apex of 0; rows of macro-expressions.
    """
    numbering = Numbering(_casme_sq_folder, lambda _, number, __: f"img{number:03d}.jpg", (1, 400), margin=3)
    clips = plan_entries(_casme_sq_entries(), numbering, settings)
    numbers = {f"s{number}": turn for turn, number in enumerate(_CASME_SQ_PEOPLE, 1)}
    rows = [_casme_sq_row(position, clip, numbers) for position, clip in enumerate(clips)]
    macro = [[*row[:7], "macro-expression", row[8]] for row in rows[::10]]
    book = {
        "CASFEcode_final": [*rows, *macro],
        "naming_rule1": [[None, subject, number] for subject, number in numbers.items()],
        "naming_rule2": [[code, video] for video, code in _CASME_SQ_VIDEOS.items()],
    }
    # The loader names a clip by its onset, because the sheet's own names are not unique.
    named = [replace(clip, clip=f"{clip.clip.split('_')[0]}_{clip.onset}") for clip in clips]
    return LayoutPlan("casme-sq", settings, named, {"code_final.xlsx": book}, {})


def _casme_sq_folder(entry: Entry) -> str:
    video = entry.clip.split("_")[0]
    return f"rawpic/{entry.subject}/{entry.subject[1:]}_{_CASME_SQ_VIDEOS[video]}{video}"


def _casme_sq_row(position: int, clip: PlannedClip, numbers: Mapping[str, int]) -> list[Any]:
    offset = 0 if position == 4 else clip.offset
    apex = 0 if position == 9 else clip.apex
    units = "+".join(map(str, clip.action_units))
    return [numbers[clip.subject], clip.clip, clip.onset, apex, offset, units, clip.emotion, "micro-expression", None]


# --- CAS(ME)³, MMEW, 4DME -------------------------------------------------------------------------------------------

_SEVEN = {"surprise": 17, "disgust": 14, "others": 12, "happiness": 7, "fear": 4, "anger": 3, "sadness": 3}
_CASME3_SPELLINGS = {"happiness": "happy", "sadness": "sad", "others": "others"}


def _entries(
    dataset: str, totals: Mapping[str, int], places: Mapping[str, int], name: Callable[[str, str, int], str]
) -> list[Entry]:
    """Entries whose clip names are made from subject, emotion and the number of the subject's clip."""
    turns: Counter[str] = Counter()
    entries = []
    for subject, emotion in deal(totals, places):
        entries.append(Entry(subject, name(subject, emotion, turns[subject]), emotion, dataset))
        turns[subject] += 1
    return entries


def plan_casme3(settings: LayoutSettings) -> LayoutPlan:
    """CAS(ME)³ part A (60 clips instead of 860): several expressions per video.

    Quirk: folders in another case than the sheet.
    """
    places = {f"spNO.{number}": 5 for number in range(1, 13)}
    entries = _entries("casme3", _SEVEN, places, lambda _, __, turn: f"{'abc'[turn // 2]}_{turn % 2}")
    numbering = Numbering(_casme3_folder, lambda _, number, __: f"{number}.jpg", (1, 900), margin=3)
    clips = [replace(clip, clip=f"{clip.clip[0]}_{clip.onset}") for clip in plan_entries(entries, numbering, settings)]
    header = ["Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class", "emotion"]
    rows: Rows = [header, *map(_casme3_row, clips)]
    return LayoutPlan("casme3", settings, clips, {"cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx": {"label": rows}}, {})


def _casme3_folder(entry: Entry) -> str:
    number, video = int(entry.subject.split(".")[1]), entry.clip[0]
    subject = entry.subject if number % 2 else entry.subject.lower()
    return f"part_A/{subject}/{video.upper() if number % 3 == 0 else video}/color"


def _casme3_row(clip: PlannedClip) -> list[Any]:
    units = "+".join(map(str, clip.action_units))
    emotion = _CASME3_SPELLINGS.get(clip.emotion, clip.emotion)
    return [clip.subject, clip.clip[0], clip.onset, clip.apex, clip.offset, units, None, emotion]


def plan_mmew(settings: LayoutSettings) -> LayoutPlan:
    """MMEW, the micro-expressions (60 clips instead of 300): frames counted from 1, one folder per emotion.

    Quirk: some clips of "others" are in a folder "repression".
    """
    places = {f"S{number:02d}": 3 for number in range(1, 21)}
    order = list(_SEVEN)
    entries = _entries(
        "mmew",
        _SEVEN,
        places,
        lambda subject, emotion, turn: f"{subject}-{1 + order.index(emotion):02d}-{1 + turn:03d}",
    )
    numbering = Numbering(_mmew_folder, lambda _, number, __: f"{number}.jpg", (1, 1), margin=2)
    clips = plan_entries(entries, numbering, settings)
    header = [title for title in _CASME2_HEADER if title] + ["remarks"]
    rows: Rows = [header, *map(_mmew_row, clips)]
    return LayoutPlan("mmew", settings, clips, {"MMEW_Micro_Exp.xlsx": {"Sheet1": rows}}, {})


def _mmew_folder(entry: Entry) -> str:
    emotion = "repression" if entry.emotion == "others" and int(entry.subject[1:]) % 2 else entry.emotion
    return f"Micro_Expression/{emotion}/{entry.clip}"


def _mmew_row(clip: PlannedClip) -> list[Any]:
    units = "+".join(map(str, clip.action_units))
    number = int(clip.subject[1:])
    return [number, clip.clip, clip.onset, clip.apex, clip.offset, units, clip.emotion, None]


def plan_fourdme(settings: LayoutSettings) -> LayoutPlan:
    """4DME's grey videos (48 clips), with combined emotions. Folders unconfirmed."""
    totals = {
        "negative": 18,
        "positive": 8,
        "surprise": 8,
        "repression": 6,
        "others": 4,
        "positive+surprise": 2,
        "negative+repression": 2,
    }
    places = {f"sub_{number:02d}": 4 for number in range(1, 13)}
    entries = _entries("4dme", totals, places, lambda subject, _, turn: f"{subject}_ME{1 + turn:02d}")
    numbering = Numbering(
        lambda entry: f"gray_micro/{entry.subject}/{entry.clip}", lambda _, number, __: f"{number}.jpg", (50, 900)
    )
    clips = plan_entries(entries, numbering, settings)
    rows: Rows = [["sub_ID", "fold_name", "Onset", "Apex", "Offset", "AUs", "Emotion"], *map(_fourdme_row, clips)]
    return LayoutPlan("4dme", settings, clips, {"4DME_Labelling_Micro_release v1.xlsx": {"Sheet1": rows}}, {})


def _fourdme_row(clip: PlannedClip) -> list[Any]:
    units = "+".join(f"AU{unit}" for unit in clip.action_units)
    emotion = "_".join(part.capitalize() for part in clip.emotion.split("+"))
    return [clip.subject, clip.clip, clip.onset, clip.apex, clip.offset, units, emotion]


# --- The published code's folders, and clips of your own ------------------------------------------------------------

_RELEASED_FOLDERS = {"casme2": "CASME2_data_3", "samm": "SAMM_data_3", "smic": "SMIC_data_3"}
_NEGATIVE = ("disgust", "repression", "anger", "contempt", "fear", "sadness")
_CLASSES = {**dict.fromkeys(_NEGATIVE, "negative"), "happiness": "positive"}
_NOT_RELEASED = frozenset({"EP12_01f", "EP12_03f"})


def plan_released(settings: LayoutSettings) -> LayoutPlan:
    """The published code's folders of three classes, with the 442 clips of MEGC 2019; numbers for SAMM's classes."""
    clips: list[PlannedClip] = []
    for whole in (_casme2_entries(), _samm_entries(), _smic_entries()):
        entries = [
            entry._replace(emotion=_CLASSES.get(entry.emotion, entry.emotion)) for entry in whole if _is_released(entry)
        ]
        clips += plan_entries(entries, Numbering(_released_folder, _released_name, (600, 9000)), settings)
    return LayoutPlan("released", settings, clips, {}, {})


def _is_released(entry: Entry) -> bool:
    left_out = {"casme2": ("others", "sadness", "fear"), "samm": ("others",)}.get(entry.dataset, ())
    return entry.emotion not in left_out and entry.clip not in _NOT_RELEASED


def _released_folder(entry: Entry) -> str:
    name = f"{entry.subject[3:]}_{entry.clip}" if entry.dataset == "casme2" else entry.clip
    numbers = {"surprise": "0", "positive": "1", "negative": "2"}
    label = numbers[entry.emotion] if entry.dataset == "samm" else entry.emotion
    return f"data/{_RELEASED_FOLDERS[entry.dataset]}/{label}/{name}"


def _released_name(entry: Entry, number: int, _: int) -> str:
    prefix = {"casme2": "img", "samm": f"{entry.subject}_", "smic": "image"}[entry.dataset]
    return f"{prefix}{number}.jpg" if entry.dataset == "casme2" else f"{prefix}{number:06d}.jpg"


def plan_generic(settings: LayoutSettings) -> LayoutPlan:
    """Clips of your own: a table and folders of frames."""
    places = {f"p{number:02d}": 4 for number in range(1, 7)}
    totals = {"happiness": 8, "surprise": 8, "disgust": 8}
    entries = _entries("clips", totals, places, lambda _, __, turn: f"take{1 + turn}")
    numbering = Numbering(
        lambda entry: f"frames/{entry.subject}/{entry.clip}",
        lambda _, number, __: f"frame_{number:04d}.png",
        (1, 1),
        margin=2,
    )
    clips = plan_entries(entries, numbering, settings)
    header = ["subject", "clip", "path", "onset", "apex", "offset", "label", "fps", "action_units"]
    rows: Rows = [header, *map(_generic_row, clips)]
    return LayoutPlan("generic", settings, clips, {}, {"clips.csv": rows})


def _generic_row(clip: PlannedClip) -> list[Any]:
    units = "+".join(map(str, clip.action_units))
    return [clip.subject, clip.clip, clip.folder, clip.onset, clip.apex, clip.offset, clip.emotion, 100, units]


LAYOUTS: dict[str, Callable[[LayoutSettings], LayoutPlan]] = {
    "casme2": plan_casme2,
    "casme2-cropped": plan_casme2_cropped,
    "samm": plan_samm,
    "smic": plan_smic,
    "casme-sq": plan_casme_sq,
    "casme3": plan_casme3,
    "mmew": plan_mmew,
    "4dme": plan_fourdme,
    "released": plan_released,
    "generic": plan_generic,
}
WITH_NEUTRAL = ("smic",)
"""Layouts that have a place for neutral clips."""
