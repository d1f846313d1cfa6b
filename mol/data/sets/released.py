"""The folders that the published code of MOL was run on: one folder a class, one folder of frames a clip.

``data/CASME2_data_3/<class>/01_EP19_05f``, ``data/SAMM_data_5/<class>/006_1_2``,
``data/SMIC_data_3/<class>/s9_sur_03``. A class folder is a name or, of three classes, the published code's number:
surprise 0, positive 1, negative 2. People and clips are spelled as the official loaders of these sets spell them, so
that protocols and subject lists fit. The folders carry no onset, apex or action units: a clip runs from the first to
the last frame of its folder.

The same clips lie under three and under five classes, with other labels, and a manifest holds a clip once: of a folder
``data`` with both, the three classes are read and a note says so.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from mol.common.errors import DataError
from mol.data.manifest import Clip, Loaded, OnError, numbered_frames
from mol.data.sets.collector import ClipCollector, check_interval, missing_frames, named_emotion, relative_path
from mol.data.sets.folders import require_folder, subfolders

_FPS = {"casme2": 200.0, "samm": 200.0, "smic": 100.0}
_CLIP_NAMES = {
    "casme2": (re.compile(r"(?:sub)?(\d+)_(EP\d+_\w+)", re.IGNORECASE), "01_EP19_05f"),
    "samm": (re.compile(r"(\d+)_\d+_\d+"), "006_1_2"),
    "smic": (re.compile(r"s(\d+)_(ne|po|sur)_\d+", re.IGNORECASE), "s9_sur_03"),
}
_CLASSES = {
    3: {name: name for name in ("surprise", "positive", "negative")}
    | {"0": "surprise", "1": "positive", "2": "negative"},
    5: {
        **{name: name for name in ("surprise", "happiness", "disgust", "repression", "anger", "contempt", "others")},
        "other": "others",
    },
}
_SMIC_CLASSES = {"ne": "negative", "po": "positive", "sur": "surprise"}


def load_released(root: Path, on_error: OnError = "raise") -> Loaded:
    """Read the published code's folders.

    Args:
        root: the folder ``data``, the one above it, or one of its folders, such as ``CASME2_data_5``.
        on_error: ``"skip"`` drops a clip that cannot be used and lists it.
    Raises:
        DataError: no such folder, a class or a name that is not known, or a folder without frames.
    """
    collector = ClipCollector(on_error)
    for folder in _chosen(root, collector):
        dataset, classes = _set_and_classes(folder)
        for emotion, class_folder in _class_folders(folder, classes, collector):
            for clip_folder in subfolders(class_folder):
                path = relative_path(clip_folder, root)
                with collector.row(path):
                    collector.add(_clip(dataset, emotion, clip_folder, path, collector))
    return collector.loaded(root)


def _clip(dataset: str, emotion: str, folder: Path, path: str, collector: ClipCollector) -> Clip:
    subject, clip = _names(dataset, folder.name)
    if dataset == "smic" and (named := _SMIC_CLASSES[clip.lower().split("_")[1]]) != emotion:
        raise DataError(f"the name says {named} and the folder {emotion}; move the clip to the right folder.")
    frames = numbered_frames(folder)
    first, last = min(frames), max(frames)
    if missing := check_interval(first, None, last, frames, folder):
        collector.warning(missing_frames(missing, folder))
    return Clip(
        dataset=dataset,
        subject=subject,
        clip=clip,
        path=path,
        onset=first,
        apex=None,
        offset=last,
        emotion=emotion,
        fps=_FPS[dataset],
        source=path,
    )


def _class_folders(folder: Path, classes: int, collector: ClipCollector) -> list[tuple[str, Path]]:
    named = []
    for class_folder in subfolders(folder):
        with collector.row(f"{folder.name}/{class_folder.name}"):
            named.append((_class_name(class_folder.name, classes), class_folder))
    return named


def _names(dataset: str, folder: str) -> tuple[str, str]:
    """Subject and clip as the official loaders spell them."""
    pattern, example = _CLIP_NAMES[dataset]
    match = pattern.fullmatch(folder)
    if match is None:
        raise DataError(f"{folder!r} is no clip of {dataset}, those are named such as {example}; rename or remove it.")
    if dataset == "casme2":
        return f"sub{int(match[1]):02d}", match[2]
    return (match[1].zfill(3) if dataset == "samm" else f"s{int(match[1])}"), folder


def _class_name(name: str, classes: int) -> str:
    try:
        return named_emotion(name, _CLASSES[classes])
    except DataError as error:
        numbers = " or its number 0, 1, 2" if classes == 3 else ""
        raise DataError(f"the folder {name!r} names no class; expected one{numbers}. {error}") from error


def _chosen(root: Path, collector: ClipCollector) -> list[Path]:
    """The folders to read, one a set."""
    require_folder(root)
    found: dict[str, list[Path]] = defaultdict(list)
    for folder in sorted(_candidates(root)):
        found[_set_and_classes(folder)[0]].append(folder)
    if not found:
        raise DataError(
            f"no folder such as CASME2_data_3, SAMM_data_5 or SMIC_data_3 is {root} or lies in it; give the published "
            "code's folder data, or one of those."
        )
    for folders in found.values():
        for other in folders[1:]:
            what = f"{folders[0].name} was read instead, a manifest holds a clip once; give {other} as root to read it."
            collector.note("warning", other.name, what)
    return [folders[0] for folders in found.values()]


def _candidates(root: Path) -> Iterator[Path]:
    if _is_set(root.resolve()):
        yield root
        return
    for parent in (root, root / "data"):
        if parent.is_dir():
            yield from (folder for folder in subfolders(parent) if _is_set(folder))


def _is_set(folder: Path) -> bool:
    return re.fullmatch(r"(casme2|samm|smic)_data_[35]", folder.name, re.IGNORECASE) is not None


def _set_and_classes(folder: Path) -> tuple[str, int]:
    name, _, classes = folder.resolve().name.lower().split("_")
    return name, int(classes)
