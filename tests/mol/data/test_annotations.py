"""Annotations that cannot be those of a micro-expression."""

from __future__ import annotations

from dataclasses import replace

from mol.data.annotations import NO_RISE, ONE_FRAME, TOO_LONG, doubt_about, doubts_about_annotations
from mol.data.manifest import Clip

CLIP = Clip("lab", "anna", "smile", "f", 10, 14, 20, "joy", fps=30.0, source="t.csv line 2")


def test_a_plausible_clip_raises_no_doubt() -> None:
    assert doubt_about(CLIP) is None
    assert doubt_about(replace(CLIP, offset=25)) is None  # 0.5 s
    assert doubt_about(replace(CLIP, offset=26)) is None  # less than a frame longer than that
    assert doubt_about(replace(CLIP, apex=None)) is None
    assert doubt_about(replace(CLIP, apex=20)) is None  # some sets end a clip at its apex


def test_a_clip_of_24_seconds_is_doubted_if_its_rate_is_known() -> None:
    assert doubt_about(replace(CLIP, offset=730)) == (TOO_LONG, "24 s, frames 10–730 at 30 per second")
    assert doubt_about(replace(CLIP, offset=27)) == (TOO_LONG, "0.567 s, frames 10–27 at 30 per second")
    assert doubt_about(replace(CLIP, offset=730, fps=0.0)) is None


def test_an_expression_that_never_rises_is_doubted() -> None:
    assert doubt_about(replace(CLIP, apex=10)) == (NO_RISE, "frame 10")
    assert doubt_about(replace(CLIP, onset=20, apex=20)) == (ONE_FRAME, "frame 20")


def test_neutral_clips_are_not_doubted() -> None:
    assert doubt_about(replace(CLIP, offset=730, apex=None, emotion="neutral")) is None


def test_doubts_are_told_once_with_their_number_and_the_first_clips() -> None:
    long = [replace(CLIP, clip=f"c{line}", offset=730, source=f"t.csv line {line}") for line in range(3, 10)]
    (first, second) = doubts_about_annotations([CLIP, *long, replace(CLIP, clip="flat", apex=10)])
    assert first[0] == second[0] == "lab"
    assert first[1].startswith(
        "7 of 9 clips last longer than 0.5 s, which no micro-expression does: lab/anna/c3 (t.csv "
    )
    assert first[1].endswith("; and 2 more. Check their annotations.")
    assert second[1].startswith("1 of 9 clips have their apex at the onset")
