"""Annotations that cannot be those of a micro-expression: far too long, or without a rise from onset to apex."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from mol.data.manifest import NEUTRAL, Clip, key

LONGEST_EXPRESSION = 0.5
"""Seconds; a facial movement that lasts longer is not a micro-expression (Yan et al., 2013)."""

TOO_LONG = f"last longer than {LONGEST_EXPRESSION:g} s, which no micro-expression does"
ONE_FRAME = "begin and end with the same frame, so nothing moves in them"
NO_RISE = "have their apex at the onset, so the expression never rises"

_SHOWN = 5


def doubt_about(clip: Clip) -> tuple[str, str] | None:
    """Why a clip's annotation cannot be that of a micro-expression.

    A clip without a frame rate is not judged by its duration, and a neutral clip not at all.

    Returns:
        One of `TOO_LONG`, `ONE_FRAME` and `NO_RISE`, and the numbers that show it; None if there is no doubt.
    """
    if clip.emotion == NEUTRAL:
        return None
    if clip.onset == clip.offset:
        return ONE_FRAME, f"frame {clip.onset}"
    # Annotated to the frame: a frame more is within what the annotation can say.
    if clip.fps > 0 and clip.offset - clip.onset - 1 > LONGEST_EXPRESSION * clip.fps:
        seconds = (clip.offset - clip.onset) / clip.fps
        return TOO_LONG, f"{seconds:.3g} s, frames {clip.onset}–{clip.offset} at {clip.fps:g} per second"
    if clip.apex == clip.onset:
        return NO_RISE, f"frame {clip.onset}"
    return None


def doubts_about_annotations(clips: Iterable[Clip]) -> Iterator[tuple[str, str]]:
    """What a user should know about the annotations of a manifest: each doubt once, with the number of its clips.

    Yields:
        The data set, and what.
    """
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    count: dict[str, int] = defaultdict(int)
    for clip in clips:
        count[clip.dataset] += 1
        if doubt := doubt_about(clip):
            found[clip.dataset, doubt[0]].append(f"{key(clip)} ({clip.source}: {doubt[1]})")
    for (dataset, reason), names in found.items():
        yield dataset, f"{len(names)} of {count[dataset]} clips {reason}: {_first(names)}. Check their annotations."


def _first(names: Sequence[str]) -> str:
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return "; ".join([*names[:_SHOWN], *more])
