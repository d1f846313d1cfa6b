"""``mol prepare``: turn the distributed sheets and folders of a data set into a manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from mol.common.checks import require_positive
from mol.common.environment import versions_of
from mol.common.errors import DataError, SettingsError, StorageError
from mol.common.storage import refuse_pipe
from mol.common.terminal import say
from mol.common.typed import read_json
from mol.data.annotations import doubts_about_annotations
from mol.data.manifest import Clip, Manifest, Note, OnError, write_manifest
from mol.data.people import doubts_about_people
from mol.data.sets.registry import SETS, find_set, load_set

_SHOWN = 5  # notes of each kind that are printed; the manifest has all of them
_SYNTHETIC = Note(
    "warning", "layout.json", "the clips were made by mol synth; scores on them say nothing about real people."
)
_KINDS = {"repaired": "repaired", "dropped": "dropped", "warning": "warnings"}


@dataclass
class PrepareConfig:
    """Read a data set as it was distributed and list its clips in a manifest.

    Attributes:
        dataset: a name from the list at the end of the help text; docs/datasets.md describes each data set.
        root: folder into which the archives were unpacked; for generic, the table or its folder.
        out: folder of the manifest; manifests/<dataset> by default.
        on_error: "raise" stops at the first clip that cannot be used, "skip" drops such clips and lists them.
        frames: "raw" or "cropped" pictures, for data sets with both.
        part: camera "HS", "VIS" or "NIR", for data sets recorded with several.
        neutral: also list up to this many clips per person without an expression, as class neutral, for data sets that
            have such clips or long videos. No protocol but as-labelled uses them.
    """

    dataset: str
    root: str
    out: str | None = None
    on_error: OnError = "raise"
    frames: Literal["raw", "cropped"] | None = None
    part: Literal["HS", "VIS", "NIR"] | None = None
    neutral: int | None = None

    def __post_init__(self) -> None:
        require_positive(self, "neutral")
        if self.on_error not in ("raise", "skip"):
            raise SettingsError(f"on_error={self.on_error!r} must be 'raise' or 'skip'")

    @property
    def folder(self) -> Path:
        """Folder of the manifest."""
        return Path(self.out or f"manifests/{self.dataset}")


def prepare(config: PrepareConfig) -> Manifest:
    """Read a data set and write its manifest, replacing an earlier manifest in the folder.

    Raises:
        SettingsError: an unknown data set, or an option that it does not have.
        DataError: a sheet or folder is missing or not as expected.
        StorageError: the folder contains something other than a manifest, or writing fails.
    """
    options = _options(config)
    _require_manifest_or_nothing(config.folder)
    root = manifest_root(Path(config.root))
    loaded = load_set(config.dataset, Path(config.root), config.on_error, **options)
    synthetic = _is_synthetic(root)
    manifest = Manifest(config.dataset, root, loaded.clips)
    manifest = replace(
        manifest,
        notes=[*_doubts(manifest), *loaded.notes, *([_SYNTHETIC] if synthetic else [])],
        made={
            "settings": {"on_error": config.on_error, **options},
            "versions": versions_of(["molkernels"]),
            "synthetic": synthetic,
        },
        recordings=loaded.recordings,
    )
    write_manifest(config.folder, manifest)
    return manifest


def run_prepare(config: PrepareConfig) -> None:
    """Read a data set, write its manifest and report what was found and repaired."""
    manifest = prepare(config)
    for line in _report(manifest, config.folder):
        say(line)


def manifest_root(root: Path) -> Path:
    """The absolute folder that the paths of loaded clips are relative to: the root, or the folder of a table.

    Raises:
        DataError: the root does not exist.
    """
    if not root.exists():
        raise DataError(f"{root} does not exist; give the folder into which the data set was unpacked.")
    return (root.parent if root.is_file() else root).resolve()


def _doubts(manifest: Manifest) -> list[Note]:
    """Warnings about the set as a whole; before those about single clips, of which only the first are printed."""
    doubts = (*doubts_about_people(manifest), *doubts_about_annotations(manifest.clips))
    return [Note("warning", where, what) for where, what in doubts]


def _options(config: PrepareConfig) -> dict[str, Any]:
    """The given options that are passed on to the loader."""
    dataset = find_set(config.dataset)
    given = {name: value for name in ("frames", "part", "neutral") if (value := getattr(config, name)) is not None}
    for name, value in given.items():
        if name not in dataset.options:
            others = ", ".join(other.name for other in SETS.values() if name in other.options)
            raise SettingsError(f"--{name} {value} does not apply to {config.dataset}; omit it (it is for {others}).")
    return given


def _require_manifest_or_nothing(folder: Path) -> None:
    """Never overwrite a user's own table, which may also be named clips.csv."""
    if folder.is_file():
        raise StorageError(f"{folder} is a file; give a folder for the manifest as --out.")
    table, head = folder / "clips.csv", folder / "manifest.json"
    # If interrupted between its two files, mol prepare leaves a clips.csv with its own header.
    ours = _is_head(head) if head.exists() else not table.exists() or _is_table(table)
    others = folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
    if not ours or (others and not head.exists() and not table.exists()):
        raise StorageError(f"{folder} has other files and no manifest; choose an empty folder as --out.")


def _is_synthetic(root: Path) -> bool:
    """Whether ``mol synth --layout`` wrote the data set, which otherwise looks like the real one."""
    heads = [_read_json(folder / "layout.json") for folder in (root, root.parent)]
    return any({"layout", "generator"} <= set(head) for head in heads)


def _is_head(path: Path) -> bool:
    return {"format", "dataset", "sha256"} <= set(_read_json(path))


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if the file does not contain one."""
    try:
        return read_json(path, dict[str, Any], "")
    except DataError:
        return {}


def _is_table(path: Path) -> bool:
    try:
        refuse_pipe(path)
        with path.open(encoding="utf-8") as table:
            return table.readline().rstrip("\n") == ",".join(item.name for item in fields(Clip))
    except (OSError, UnicodeDecodeError, DataError):
        return False


def _report(manifest: Manifest, folder: Path) -> Iterator[str]:
    people = {(clip.dataset, clip.subject) for clip in manifest.clips}
    yield f"{manifest.dataset}: {len(manifest.clips)} clips of {len(people)} subjects in {manifest.root}"
    emotions = Counter(clip.emotion for clip in manifest.clips)
    yield "  " + ", ".join(f"{emotion} {count}" for emotion, count in emotions.most_common())
    if manifest.recordings:
        annotated = Counter(one.kind for recording in manifest.recordings for one in recording.expressions)
        what = ", ".join(f"{kind} {count}" for kind, count in annotated.most_common())
        yield f"  {len(manifest.recordings)} long videos for spotting: {what or 'nothing annotated'}"
    for kind, title in _KINDS.items():
        yield from _told(title, [note for note in manifest.notes if note.kind == kind])
    if len(manifest.notes) > _SHOWN:
        yield f"all {len(manifest.notes)} notes: {folder / 'manifest.json'}"
    yield f"manifest: {folder}\nnext: mol check-data {folder}, then mol extract {folder}"


def _told(title: str, notes: Sequence[Note]) -> Iterator[str]:
    if notes:
        yield f"{title} ({len(notes)}):"
        yield from (f"  {note.where}: {note.what}" for note in notes[:_SHOWN])
    if len(notes) > _SHOWN:
        yield f"  … and {len(notes) - _SHOWN} more"
