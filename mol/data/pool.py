"""One or several caches as one data set under a protocol, and people of it as parts of what a device holds once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from mol.common.errors import CacheSettingsError, SettingsError
from mol.data.cache import Cache, CacheSettings
from mol.data.clips import CROP, Augmentation, ResidentClips
from mol.data.protocol import Protocol, apply, count_differences, require_counts
from mol.data.protocols import protocol_for

Counts = Literal["require", "warn"]


@dataclass(frozen=True)
class Labelled:
    """What a protocol asks of a row: whose video it is and which emotion was annotated."""

    dataset: str
    subject: str
    clip: str
    emotion: str


@dataclass(frozen=True)
class Pool(Cache):
    """Rows of one or several caches that take part in a protocol, with its classes; a `Cache` in every respect.

    Attributes:
        path: of the caches, in one line.
        settings: kind, frames and size of the caches, classes of the protocol.
        rows: index rows with the protocol's ``label``; those that it leaves out are not there.
        frames, flow, landmarks: as in `Cache`, read from the caches row by row; they take an index or an array of them.
        protocol: gives the classes.
        caches: the caches, as given.
        count_differences: where its videos and people are not as many as the protocol asserts; empty where they are.
        notes: what else to keep in mind with scores on this data.
    """

    protocol: Protocol = field(kw_only=True)
    caches: tuple[Cache, ...] = field(kw_only=True)
    count_differences: list[str] = field(kw_only=True)
    notes: list[str] = field(kw_only=True)

    @classmethod
    def load(cls, paths: str | Path | Sequence[str | Path], protocol: str, counts: Counts = "require") -> Pool:
        """Open caches and put them under a protocol by its name.

        Raises:
            CacheError, CacheSettingsError, DataError, SettingsError: see `join` and `Cache.open`.
        """
        paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
        if not paths:
            raise SettingsError("no caches are given; name at least one folder made by mol extract or mol synth")
        caches = [Cache.open(path) for path in paths]
        videos = _videos([row for cache in caches for row in cache.rows])
        return cls.join(caches, protocol_for(protocol, videos), counts)

    @classmethod
    def join(cls, caches: Sequence[Cache], protocol: Protocol, counts: Counts = "require") -> Pool:
        """Put opened caches under a protocol.

        Args:
            caches: made with the same settings, of different data sets.
            protocol: names the class of each emotion.
            counts: "require" raises where the protocol's counts are not met, "warn" notes it.
        Raises:
            CacheSettingsError: caches made with different settings; the difference is shown.
            SettingsError: a data set twice or one that the protocol does not know, or nothing left of all rows.
            DataError: the counts are not the protocol's, or a subject that cannot be of its data set.
        """
        _check_sets(caches, protocol)
        _check_same_settings(caches)
        places = [(i, row) for i, cache in enumerate(caches) for row in range(len(cache))]
        items = [_labelled(caches[i].rows[row]) for i, row in places]
        labels = apply(protocol, items)
        kept = [position for position, label in enumerate(labels) if label is not None]
        if not kept:
            raise SettingsError(
                f"no clip of {_paths(caches)} has an emotion of protocol {protocol.name} "
                f"(found: {', '.join(sorted({item.emotion for item in items}))}); choose another protocol"
            )
        rows = [{**caches[i].rows[row], "label": labels[k]} for k in kept for i, row in [places[k]]]
        videos = list(dict.fromkeys(items))
        if counts == "require":
            require_counts(protocol, videos)
        index = np.array([places[k] for k in kept], np.int64)
        return cls(
            path=Path(_paths(caches)),
            settings=_settings(caches, protocol),
            rows=rows,
            frames=_joined([cache.frames for cache in caches], index),
            flow=_joined([cache.flow for cache in caches], index),
            landmarks=_joined([cache.landmarks for cache in caches], index),
            checksums=np.array([caches[i].checksums[row] for i, row in index], np.uint64),
            protocol=protocol,
            skipped=[clip for cache in caches for clip in cache.skipped],
            caches=tuple(caches),
            count_differences=count_differences(protocol, videos),
            notes=_skip_notes(caches) + _version_notes(caches),
        )

    @property
    def datasets(self) -> list[str]:
        """Data sets of the rows, in the order of the caches."""
        return list(dict.fromkeys(str(row["dataset"]) for row in self.rows))

    @property
    def missing_datasets(self) -> list[str]:
        """Data sets of the protocol that none of the caches holds."""
        return [name for name in self.protocol.datasets if name not in set(self.datasets)]


class ResidentPart(ResidentClips):
    """Some rows of clips that a device already holds; nothing is copied, so folds cost no memory.

    Args:
        whole: all rows of a cache, in its order.
        rows: which of them.
        augmentation, balanced: as in `ResidentClips`.
    Raises:
        SettingsError: no rows.
    """

    def __init__(
        self,
        whole: ResidentClips,
        rows: Sequence[int] | np.ndarray,
        augmentation: Augmentation | None = None,
        balanced: bool = False,
    ) -> None:
        chosen = np.asarray(rows, np.int64)
        if not len(chosen):
            raise SettingsError("no clips to hold: the list of rows is empty")
        # Tensors of the whole, which only `_crop` and the methods here index; the rest sees this part alone.
        self.__dict__.update(whole.__dict__)
        self.rows = [whole.rows[i] for i in chosen.tolist()]
        self.labels = whole.labels[chosen]
        self.augmentation = augmentation or Augmentation()
        self.balanced = balanced
        self._order = None
        self._positions = torch.as_tensor(chosen, device=self.device)

    def mean_shape(self) -> Tensor:
        """Mean landmarks of frames 2..T of these clips, (68, 2) float32 on the CPU, in pixels of the centre crop."""
        return (self._landmarks[self._positions, 1:].double().mean(dim=(0, 1)) - self.margin // 2).float().cpu()

    def centre_frames(self, index: int) -> np.ndarray:
        """Centre crop of one clip as it was read, (T, 128, 128) uint8."""
        at = self.margin // 2
        return self._frames[self._positions[index], :, at : at + CROP, at : at + CROP].cpu().numpy()

    def _crop(self, index: Tensor, *arguments: Any) -> Any:
        return super()._crop(self._positions[index], *arguments)


def open_clips(cache: str | Sequence[str], protocol: str | None, counts: Counts = "require") -> Cache:
    """A cache with its own classes, or with a protocol one or several with the protocol's.

    Raises:
        SettingsError: several caches and no protocol. CacheError, DataError: see `Cache.open` and `Pool.join`.
    """
    if protocol is not None:
        return Pool.load(cache, protocol, counts)
    if isinstance(cache, str):
        return Cache.open(cache)
    if len(cache) != 1:
        raise SettingsError("several caches need a protocol, which gives them common classes: --protocol as-labelled")
    return Cache.open(cache[0])


def fingerprint(cache: Cache) -> str:
    """Digest of a cache's settings, rows and the checksums of their arrays: the same content gives the same digest."""
    digest = hashlib.sha256()
    for part in (cache.settings.to_json(), cache.rows):
        digest.update(json.dumps(part, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(cache.checksums).tobytes())
    return digest.hexdigest()


class _Joined:
    """Rows of several memory maps under one index; reads what is asked for, copies nothing before."""

    def __init__(self, arrays: Sequence[np.ndarray], index: np.ndarray) -> None:
        self._arrays, self._index = arrays, index
        self.dtype = arrays[0].dtype
        self.shape = (len(index), *arrays[0].shape[1:])

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, rows: Any) -> np.ndarray:
        places = self._index[rows]
        if places.ndim == 1:
            return np.asarray(self._arrays[places[0]][places[1]])
        found = np.empty((len(places), *self.shape[1:]), self.dtype)
        for i in np.unique(places[:, 0]).tolist():
            mine = places[:, 0] == i
            found[mine] = self._arrays[i][places[mine, 1]]
        return found


def _joined(arrays: Sequence[np.ndarray], index: np.ndarray) -> np.ndarray:
    return cast(np.ndarray, _Joined(arrays, index))


def _labelled(row: Mapping[str, Any]) -> Labelled:
    return Labelled(str(row["dataset"]), str(row["subject"]), str(row["clip"]), str(row.get("emotion", "")))


def _videos(rows: Sequence[Mapping[str, Any]]) -> list[Labelled]:
    """Each video once, however many sub-clips it has."""
    return list(dict.fromkeys(map(_labelled, rows)))


def _paths(caches: Sequence[Cache]) -> str:
    return " + ".join(str(cache.path) for cache in caches)


def _check_sets(caches: Sequence[Cache], protocol: Protocol) -> None:
    holder: dict[str, Cache] = {}
    for cache in caches:
        for dataset in sorted({str(row["dataset"]) for row in cache.rows}):
            if dataset in holder:
                raise SettingsError(
                    f"{holder[dataset].path} and {cache.path} both hold the data set {dataset}; its people would count "
                    "twice, give one of them"
                )
            if dataset not in protocol.emotions:
                raise SettingsError(
                    f"{cache.path} holds the data set {dataset}, which protocol {protocol.name} does not have "
                    f"({', '.join(sorted(protocol.emotions))}); leave it out or choose another protocol"
                )
            holder[dataset] = cache


def _check_same_settings(caches: Sequence[Cache]) -> None:
    first = _comparable(caches[0].settings)
    for cache in caches[1:]:
        other = _comparable(cache.settings)
        names = sorted(first.keys() | other.keys())
        differences = [
            f"{name}: {first.get(name, '(absent)')!r} there, {other.get(name, '(absent)')!r} here"
            for name in names
            if first.get(name) != other.get(name)
        ]
        if differences:
            raise CacheSettingsError(
                f"{caches[0].path} and {cache.path} were made with other settings ({'; '.join(differences)}); "
                "make one of them again with the settings of the other"
            )


def _comparable(settings: CacheSettings) -> dict[str, Any]:
    """Settings in which caches of different sets must agree; synthetic ones may differ in what they render."""
    common = {"kind": settings.kind, "frames": settings.frames, "size": settings.size}
    if settings.kind == "synthetic":
        return common
    # A file of landmarks is named by its digest, and every set has its own.
    landmarks = settings.settings.get("landmarks", "dlib")
    return {**settings.settings, "landmarks": landmarks if landmarks == "dlib" else "a file", **common}


def _settings(caches: Sequence[Cache], protocol: Protocol) -> CacheSettings:
    first = caches[0].settings
    return CacheSettings(
        kind=first.kind,
        classes=tuple(protocol.classes),
        settings={
            "protocol": protocol.name,
            "caches": [str(cache.path) for cache in caches],
            "synthetic": any(cache.settings.synthetic_clips for cache in caches),
        },
        versions=first.versions,
        frames=first.frames,
        size=first.size,
    )


def _skip_notes(caches: Sequence[Cache]) -> list[str]:
    return [
        f"{len(cache.skipped)} clips of {cache.path} could not be used and were left out (skipped.json there)"
        for cache in caches
        if cache.skipped
    ]


def _version_notes(caches: Sequence[Cache]) -> list[str]:
    """Packages whose version differs between caches: worth a word, not a refusal."""
    notes = []
    for name in sorted({name for cache in caches for name in cache.settings.versions}):
        found = {str(cache.path): cache.settings.versions.get(name, "none") for cache in caches}
        if len(set(found.values())) > 1:
            shown = ", ".join(f"{path} {version}" for path, version in found.items())
            notes.append(f"the caches were made with different versions of {name}: {shown}")
    return notes
