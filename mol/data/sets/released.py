"""The folders that the published code of MOL reads: one folder per class, in it one folder of frames per clip.

Subjects and clips get the names that the loaders of the original data sets give them, so that protocols and subject
lists apply.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from mol.common.errors import DataError
from mol.data.manifest import Clip, Loaded, OnError, numbered_frames
from mol.data.sets import casme2, samm, smic
from mol.data.sets.collector import ClipCollector, named_emotion, relative_path, spellings
from mol.data.sets.dataset import DataSet
from mol.data.sets.folders import SetNotFoundError, require_folder, subfolders

_FPS = {original.name: original.fps for original in (casme2.SET, samm.SET, smic.SET)}
_CLIP_NAMES = {
    "casme2": (re.compile(r"(?:sub)?(\d+)_(EP\d+_\w+)", re.IGNORECASE), "01_EP19_05f"),
    "samm": (re.compile(r"(\d+)_\d+_\d+"), "006_1_2"),
    "smic": (re.compile(r"s(\d+)_(ne|po|sur)_\d+", re.IGNORECASE), "s9_sur_03"),
}
_CLASSES = {
    3: {**spellings("surprise", "positive", "negative"), "0": "surprise", "1": "positive", "2": "negative"},
    5: spellings(*("surprise", "happiness", "disgust", "repression", "anger", "contempt", "others"), other="others"),
}


def load_released(root: Path, on_error: OnError = "raise") -> Loaded:
    """Read the published code's folders.

    Args:
        root: the folder ``data``, the folder above it, or one of the folders in it, such as ``CASME2_data_5``.
        on_error: ``"skip"`` drops a clip that cannot be used and lists it.

    Raises:
        DataError: there is no such folder, a class or a name is unknown, or a folder has no frames.
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


SET = DataSet(
    name="released",
    title="Folders of MOL's published code",
    load=load_released,
    citation=(
        'Shao et al., "MOL: Joint Estimation of Micro-Expression, Optical Flow, and Landmark via '
        'Transformer-Graph-Style Convolution", IEEE TPAMI 2025, and the publications of the original data sets'
    ),
    tree="""
data/
  CASME2_data_3/<class>/01_EP19_05f/     also CASME2_data_5
  SAMM_data_3/<class>/006_1_2/           also SAMM_data_5
  SMIC_data_3/<class>/s9_sur_03/
""",
    quirks=(
        ("no onset, apex or action units", "a clip runs from the first to the last frame in its folder"),
        (
            "a class folder has a name or, with three classes, a number",
            "surprise 0, positive 1, negative 2, as in the published code",
        ),
        (
            "the same clips are there with three and with five classes",
            "a manifest has each clip once: of a folder `data` with both, the three classes are read; *warning*. Give "
            "`data/CASME2_data_5` as `--root` to read five",
        ),
    ),
    remarks=(
        "The licences of the original data sets apply. Subjects and clips get the names that they have in the official "
        "archives (`sub01`, `EP19_05f`), and each clip belongs to its original data set."
    ),
    protocols="`released-*`",
)


def _clip(dataset: str, emotion: str, folder: Path, path: str, collector: ClipCollector) -> Clip:
    subject, clip = _names(dataset, folder.name)
    if dataset == "smic" and (named := smic.CLASSES[clip.lower().split("_")[1]]) != emotion:
        raise DataError(f"the name says {named}, but the folder says {emotion}; move the clip to the right folder.")
    frames = numbered_frames(folder)
    first, last = min(frames), max(frames)
    collector.check_interval(first, None, last, frames, folder)
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
    """Subject and clip as named by the original data set's loader."""
    pattern, example = _CLIP_NAMES[dataset]
    match = pattern.fullmatch(folder)
    if match is None:
        raise DataError(f"{folder!r} is not a clip name of {dataset}, such as {example}; rename or remove it.")
    if dataset == "casme2":
        return f"sub{int(match[1]):02d}", match[2]
    return (match[1].zfill(3) if dataset == "samm" else f"s{int(match[1])}"), folder


def _class_name(name: str, classes: int) -> str:
    try:
        return named_emotion(name, _CLASSES[classes])
    except DataError as error:
        numbers = " or a class number 0, 1, 2" if classes == 3 else ""
        raise DataError(f"the folder {name!r} is not named after a class{numbers}: {error}") from error


def _chosen(root: Path, collector: ClipCollector) -> list[Path]:
    """The folders to read, one per data set."""
    require_folder(root)
    found: dict[str, list[Path]] = defaultdict(list)
    for folder in sorted(_candidates(root)):
        found[_set_and_classes(folder)[0]].append(folder)
    if not found:
        raise SetNotFoundError(
            f"{root} is not a folder such as CASME2_data_3, SAMM_data_5 or SMIC_data_3, and contains none; "
            "give the published code's folder data, or one of those."
        )
    for folders in found.values():
        for other in folders[1:]:
            what = (
                f"ignored, since a manifest has each clip once; {folders[0].name} was read. To read this, give {other}."
            )
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
