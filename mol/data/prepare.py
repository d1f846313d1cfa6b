"""``mol prepare``: the sheets and folders of a data set, as it was distributed, into a manifest."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from mol.common.environment import versions_of
from mol.common.errors import SettingsError, StorageError
from mol.common.terminal import say
from mol.data.manifest import Clip, Loader, Manifest, Note, OnError, write_manifest
from mol.data.sets.registry import find_set, manifest_root

# Notes of one kind that are printed; the manifest holds all.
_SHOWN = 5
_SYNTHETIC = Note(
    "warning", "layout.json", "the clips were made by mol synth; scores on them say nothing about people."
)
_KINDS = {"repaired": "repaired", "dropped": "dropped", "warning": "to know"}


@dataclass
class PrepareConfig:
    """Read a data set as it was distributed and write down its clips.

    Attributes:
        dataset: casme2, samm, smic, casme-sq, casme3, mmew, 4dme, released (the published code's folders) or generic
            (your own table of clips); docs/datasets.md tells of each.
        root: folder into which the archives were unpacked; for generic the table, or its folder.
        out: folder of the manifest; manifests/<dataset> when empty.
        on_error: "raise" stops at the first clip that cannot be used, "skip" leaves such clips out and lists them.
        frames: which pictures of CASME II or SMIC, "raw" or "cropped"; the loader's choice when empty.
        part: which camera of SMIC, "HS", "VIS" or "NIR"; HS when empty.
    """

    dataset: str
    root: str
    out: str | None = None
    on_error: OnError = "raise"
    frames: Literal["raw", "cropped"] | None = None
    part: Literal["HS", "VIS", "NIR"] | None = None

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise SettingsError(f"on_error={self.on_error!r} must be 'raise' or 'skip'")

    @property
    def folder(self) -> Path:
        """Where the manifest goes."""
        return Path(self.out or f"manifests/{self.dataset}")


def prepare(config: PrepareConfig) -> Manifest:
    """Read a data set and write its manifest; an earlier manifest of the folder is replaced.

    Raises:
        SettingsError: there is no such data set, or it has no such option.
        DataError: a sheet or folder is not as expected.
        StorageError: the folder holds something else than a manifest, or the disk fails.
    """
    load = find_set(config.dataset).load
    options = _options(config, load)
    _require_manifest_or_nothing(config.folder)
    root = manifest_root(Path(config.root))
    loaded = load(Path(config.root), config.on_error, **options)
    synthetic = _is_synthetic(root)
    manifest = Manifest(
        dataset=config.dataset,
        root=root,
        clips=loaded.clips,
        notes=[*loaded.notes, *([_SYNTHETIC] if synthetic else [])],
        made={
            "settings": {"on_error": config.on_error, **options},
            "versions": versions_of(["molkernels"]),
            "synthetic": synthetic,
        },
    )
    write_manifest(config.folder, manifest)
    return manifest


def run_prepare(config: PrepareConfig) -> None:
    """Read a data set, write its manifest and say what was found and repaired."""
    manifest = prepare(config)
    for line in _report(manifest, config.folder):
        say(line)


def _options(config: PrepareConfig, load: Loader) -> dict[str, Any]:
    """The options of this loader alone that were given."""
    given = {name: value for name in ("frames", "part") if (value := getattr(config, name)) is not None}
    known = inspect.signature(load).parameters
    for name, value in given.items():
        if name not in known:
            raise SettingsError(f"--{name} {value} means nothing for {config.dataset}; leave it out.")
    return given


def _require_manifest_or_nothing(folder: Path) -> None:
    """A table of the user's own must never be overwritten: it may be named clips.csv as well."""
    if folder.is_file():
        raise StorageError(f"{folder} is a file; give the folder for the manifest as --out.")
    table, head = folder / "clips.csv", folder / "manifest.json"
    # Interrupted between its two files, mol prepare leaves a clips.csv with its own header.
    ours = _is_head(head) if head.exists() else not table.exists() or _is_table(table)
    others = folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
    if not ours or (others and not head.exists() and not table.exists()):
        raise StorageError(f"{folder} holds other files and no manifest; choose an empty folder as --out.")


def _is_synthetic(root: Path) -> bool:
    """Whether ``mol synth --layout`` wrote the set, which looks like the real one in every other respect."""
    heads = [_read_json(folder / "layout.json") for folder in (root, root.parent)]
    return any({"layout", "generator"} <= set(head) for head in heads)


def _is_head(path: Path) -> bool:
    return {"format", "dataset", "sha256"} <= set(_read_json(path))


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where the file is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_table(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as table:
            return table.readline().rstrip("\n") == ",".join(item.name for item in fields(Clip))
    except (OSError, UnicodeDecodeError):
        return False


def _report(manifest: Manifest, folder: Path) -> Iterator[str]:
    people = {(clip.dataset, clip.subject) for clip in manifest.clips}
    yield f"{manifest.dataset}: {len(manifest.clips)} clips of {len(people)} subjects in {manifest.root}"
    emotions = Counter(clip.emotion for clip in manifest.clips)
    yield "  " + ", ".join(f"{emotion} {count}" for emotion, count in emotions.most_common())
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
