"""Neutral clips: what a data set has of faces that show no expression.

Some sets have folders of such clips. In long videos, whatever is far enough from every annotated expression, micro or
macro, is taken to be neutral; blinks and head motion may be in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median_low

import numpy as np

from mol.common.errors import DataError
from mol.data.manifest import NEUTRAL, Clip, Loaded
from mol.data.recordings import Annotated, Recording, in_order

MARGIN = 1.0
"""Seconds between a neutral clip and the nearest annotated expression."""
_SHORTEST = 8


@dataclass
class LongVideo:
    """A recording with annotated expressions in it.

    Attributes:
        subject: the person.
        name: of the video, unique within its subject.
        path: folder of its frames, relative to the root, with ``/``.
        numbers: of its frames, ascending.
        busy: first and last frame of every annotated expression; None for a last one that is not known.
        expressions: those whose interval is known.
    """

    subject: str
    name: str
    path: str
    numbers: Sequence[int]
    busy: list[tuple[int, int | None]] = field(default_factory=list)
    expressions: list[Annotated] = field(default_factory=list)

    def recording(self, dataset: str, fps: float) -> Recording:
        """What spotting is scored on."""
        return Recording(dataset, self.subject, self.name, self.path, fps, in_order(self.expressions))

    def block(self) -> None:
        """Note an expression that can be anywhere, until `unblock` tells where it is."""
        self.busy.append((min(self.numbers), None))

    def unblock(self, first: int, last: int | None) -> None:
        """Where the expression of the last call of `block` is; never called for a row that cannot be used."""
        self.busy[-1] = (first, last)


def add_long_videos(loaded: Loaded, dataset: str, videos: Collection[LongVideo], fps: float, neutral: int) -> Loaded:
    """Add a set's long videos, and neutral clips out of them, to what was loaded.

    Args:
        loaded: with the clips of the expressions.
        dataset: name of the data set.
        videos: its recordings.
        fps: frames per second.
        neutral: as `most` of `neutral_segments`; 0 for none.
    Raises:
        DataError: no video has room for a neutral clip.
    """
    loaded.recordings.extend(video.recording(dataset, fps) for video in videos)
    if neutral:
        loaded.clips.extend(neutral_segments(dataset, videos, loaded.clips, fps, neutral))
    return loaded


def neutral_segments(
    dataset: str, videos: Iterable[LongVideo], expressions: Sequence[Clip], fps: float, most: int
) -> list[Clip]:
    """Neutral clips out of long videos, as long as the median expression.

    Args:
        dataset: name of the data set.
        videos: all recordings; one without any annotation is not used, as nobody may have looked for expressions in it.
        expressions: the clips of the data set.
        fps: frames per second.
        most: maximum number of clips of one person; they are spread evenly over what there is.
    Raises:
        DataError: no video has room for one.
    """
    length = max(_SHORTEST, median_low([clip.length for clip in expressions]))
    margin = round(MARGIN * fps)
    free: dict[str, list[Clip]] = {}
    for video in videos:
        for first in _free_starts(video, length, margin) if video.busy else ():
            clip = Clip(
                dataset=dataset,
                subject=video.subject,
                clip=f"{video.name}_neutral_{first}",
                path=video.path,
                onset=first,
                apex=None,
                offset=first + length - 1,
                emotion=NEUTRAL,
                fps=fps,
                source=f"{video.path} (no expression annotated)",
            )
            free.setdefault(video.subject, []).append(clip)
    if not free:
        raise DataError(
            f"no video has {length} consecutive frames that are {margin} frames away from every annotated expression; "
            "omit --neutral."
        )
    return [clip for clips in free.values() for clip in spread(clips, most)]


def spread(clips: Sequence[Clip], most: int) -> list[Clip]:
    """At most this many of the clips, evenly spread over them."""
    if len(clips) <= most:
        return list(clips)
    # The middle of each of `most` equal parts.
    return [clips[int((part + 0.5) * len(clips) / most)] for part in range(most)]


def _free_starts(video: LongVideo, length: int, margin: int) -> Iterator[int]:
    """First frames of the segments that fit into a video, from each stretch as many as it holds, in its middle."""
    numbers = np.asarray(video.numbers)
    free = np.ones(len(numbers), bool)
    for first, last in video.busy:
        inside = numbers >= first - margin
        if last is not None:
            inside &= numbers <= last + margin
        free &= ~inside
    left = numbers[free]
    for stretch in np.split(left, np.flatnonzero(np.diff(left) != 1) + 1):
        count = len(stretch) // length
        begin = (len(stretch) - count * length) // 2
        for place in range(count):
            yield int(stretch[begin + place * length])
