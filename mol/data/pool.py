"""One or several caches as one data set under a protocol."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mol.common.differences import differences
from mol.common.errors import CacheSettingsError, SettingsError
from mol.data.cache import Cache, CacheSettings, ClipSet, Video, video_of
from mol.data.cache.clip_set import RowArray, unchecked
from mol.data.people import spelled_alike
from mol.data.protocol import Protocol, apply, count_differences, require_counts
from mol.data.protocols import protocol_for

Counts = Literal["require", "warn"]


@dataclass(frozen=True)
class Pool(ClipSet):
    """The rows of one or several caches that take part in a protocol, labelled with its classes.

    Attributes (besides those of `ClipSet`):
        settings: kind, frames and size of the caches, classes of the protocol.
        rows: with the protocol's ``label``, without the rows that it leaves out.
        protocol: gives the classes.
        caches: the caches, as given.
        count_differences: where the numbers of videos and people differ from those that the protocol asserts.
        notes: what else to keep in mind with scores on this data.
    """

    protocol: Protocol = field(kw_only=True)
    caches: tuple[Cache, ...] = field(kw_only=True)
    count_differences: list[str] = field(kw_only=True)
    notes: list[str] = field(kw_only=True)

    @classmethod
    def load(cls, paths: str | Path | Sequence[str | Path], protocol: str, counts: Counts = "require") -> Pool:
        """Open caches and put them under a protocol, given by its name.

        Raises:
            CacheError, CacheSettingsError, DataError, SettingsError: see `join` and `Cache.open`.
        """
        paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
        if not paths:
            raise SettingsError("no caches are given; name at least one folder made by mol extract or mol synth")
        caches = [Cache.open(path) for path in paths]
        videos = [video for cache in caches for video in cache.videos]
        return cls.join(caches, protocol_for(protocol, videos), counts)

    @classmethod
    def join(cls, caches: Sequence[Cache], protocol: Protocol, counts: Counts = "require") -> Pool:
        """Put opened caches under a protocol.

        Args:
            caches: made with the same settings, from different data sets.
            protocol: names the class of each emotion.
            counts: "require" raises if the protocol's counts are not met, "warn" notes the differences.
        Raises:
            CacheSettingsError: caches were made with different settings; the difference is shown.
            SettingsError: a data set is given twice or unknown to the protocol, or no row takes part in it.
            DataError: the counts are not the protocol's, or a subject cannot belong to its data set.
        """
        _check_sets(caches, protocol)
        _check_same_settings(caches)
        places = [(i, row) for i, cache in enumerate(caches) for row in range(len(cache))]
        items = [video_of(caches[i].rows[row]) for i, row in places]
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
            frames=_JoinedRows([cache.frames for cache in caches], index),
            flow=_JoinedRows([cache.flow for cache in caches], index),
            landmarks=_JoinedRows([cache.landmarks for cache in caches], index),
            checksums=np.array([caches[i].checksums[row] for i, row in index], np.uint64),
            protocol=protocol,
            skipped=[clip for cache in caches for clip in cache.skipped],
            caches=tuple(caches),
            count_differences=count_differences(protocol, videos),
            notes=_skip_notes(caches) + _version_notes(caches) + _people_notes(videos),
        )

    @property
    def datasets(self) -> list[str]:
        """Data sets of the rows, in the order of the caches."""
        return list(dict.fromkeys(str(row["dataset"]) for row in self.rows))

    @property
    def missing_datasets(self) -> list[str]:
        """Data sets of the protocol that none of the caches holds."""
        return [name for name in self.protocol.datasets if name not in set(self.datasets)]


def open_clips(cache: str | Sequence[str], protocol: str | None, counts: Counts = "require") -> ClipSet:
    """Open one cache with its own classes, or with a protocol one or several caches with the protocol's classes.

    Raises:
        SettingsError: several caches and no protocol. CacheError, DataError: see `Cache.open` and `Pool.join`.
    """
    if protocol is not None:
        return Pool.load(cache, protocol, counts)
    if isinstance(cache, str):
        return Cache.open(cache)
    if len(cache) != 1:
        raise SettingsError("several caches need a protocol to give them common classes: --protocol as-labelled")
    return Cache.open(cache[0])


def fingerprint(cache: ClipSet) -> str:
    """Digest of settings, rows and the checksums of their arrays: equal content gives an equal digest."""
    digest = hashlib.sha256()
    for part in (cache.settings.to_json(), cache.rows):
        digest.update(json.dumps(part, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(cache.checksums).tobytes())
    return digest.hexdigest()


class _JoinedRows:
    """Rows of several arrays on disk under one index; reads, and checks, only what is asked for.

    Args:
        arrays: of the same shape but for their length, and the same dtype.
        index: (n, 2) int64, the array and the row in it of every row.
    """

    def __init__(self, arrays: Sequence[RowArray], index: np.ndarray) -> None:
        self._arrays, self._index = arrays, index

    @property
    def unchecked(self) -> _JoinedRows:
        return _JoinedRows([unchecked(array) for array in self._arrays], self._index)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._arrays[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._index), *self._arrays[0].shape[1:])

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, rows: int | np.ndarray) -> np.ndarray:
        places = self._index[rows]
        if places.ndim == 1:
            return np.asarray(self._arrays[places[0]][places[1]])
        found = np.empty((len(places), *self.shape[1:]), self.dtype)
        for i in np.unique(places[:, 0]).tolist():
            mine = places[:, 0] == i
            found[mine] = self._arrays[i][places[mine, 1]]
        return found


def _paths(caches: Sequence[Cache]) -> str:
    return " + ".join(str(cache.path) for cache in caches)


def _check_sets(caches: Sequence[Cache], protocol: Protocol) -> None:
    holder: dict[str, Cache] = {}
    for cache in caches:
        for dataset in sorted({str(row["dataset"]) for row in cache.rows}):
            if dataset in holder:
                raise SettingsError(
                    f"{holder[dataset].path} and {cache.path} both hold the data set {dataset}; its people would count "
                    "twice, so give only one of them"
                )
            if dataset not in protocol.emotions:
                raise SettingsError(
                    f"{cache.path} holds the data set {dataset}, which is not in protocol {protocol.name} "
                    f"({', '.join(sorted(protocol.emotions))}); leave it out or choose another protocol"
                )
            holder[dataset] = cache


def _check_same_settings(caches: Sequence[Cache]) -> None:
    first = _comparable(caches[0].settings)
    for cache in caches[1:]:
        if changes := differences(first, _comparable(cache.settings)):
            raise CacheSettingsError(
                f"{caches[0].path} and {cache.path} were made with different settings ({'; '.join(changes)}); "
                "make one of them again with the settings of the other"
            )


def _comparable(settings: CacheSettings) -> dict[str, Any]:
    """Settings in which caches of different sets must agree; synthetic ones may differ in what was rendered."""
    common = {"kind": settings.kind, "frames": settings.frames, "size": settings.size}
    if settings.kind == "synthetic":
        return common
    # A landmarks file is recorded by its digest, and every set has its own.
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
        f"{len(cache.skipped)} clips of {cache.path} could not be used and were left out (see its skipped.json)"
        for cache in caches
        if cache.skipped
    ]


def _people_notes(videos: Sequence[Video]) -> list[str]:
    return [str(alike) for alike in spelled_alike((video.dataset, video.subject) for video in videos)]


def _version_notes(caches: Sequence[Cache]) -> list[str]:
    """Packages whose versions differ between caches: worth a note, not an error."""
    notes = []
    for name in sorted({name for cache in caches for name in cache.settings.versions}):
        found = {str(cache.path): cache.settings.versions.get(name, "none") for cache in caches}
        if len(set(found.values())) > 1:
            shown = ", ".join(f"{path} {version}" for path, version in found.items())
            notes.append(f"the caches were made with different versions of {name}: {shown}")
    return notes
