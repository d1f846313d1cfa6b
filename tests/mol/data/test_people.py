"""People who may be counted twice: names that differ only in spelling, films listed for two people."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mol.data.manifest import Clip, Manifest
from mol.data.people import doubts_about_people, shared_films, spelled_alike


def groups(*names: str) -> list[set[str]]:
    return [{subject for _, subject in alike.people} for alike in spelled_alike(("lab", name) for name in names)]


@pytest.mark.parametrize(
    ("names", "difference"),
    [
        (("anna", "Anna", "ANNA"), "upper and lower case"),
        (("Straße", "STRASSE"), "upper and lower case"),
        (("АННА", "Анна"), "upper and lower case"),
        (("s1", "s01", "s001"), "leading zeros"),
        (("1", "1.0"), "a decimal point"),
        (("sub 1", "sub1", "sub_1"), "blanks or punctuation"),
        (("anna b.", "anna\u00a0b"), "blanks or punctuation"),
        (("jose\u0301", "jos\u00e9"), "Unicode form"),
        (("\uff531", "s1", "s\u0661"), "Unicode form"),
        (("Jose", "Jos\u00e9"), "accents"),
        (("anna", "anna\u200b", "\u2060anna"), "invisible characters"),
        (("anna", "\u0430nna"), "letters that look alike"),
        (("Mia", "\u039cia"), "letters that look alike"),
        (("s01", "sO1", "s0l", "s0I"), "letters that look like digits"),
    ],
)
def test_names_that_differ_only_in_spelling_are_told_with_the_difference(
    names: tuple[str, ...], difference: str
) -> None:
    (alike,) = spelled_alike(("lab", name) for name in ("other", *names, "s2"))
    assert tuple(subject for _, subject in alike.people) == names
    assert alike.differences == (difference,)


def test_several_differences_are_all_told() -> None:
    (alike,) = spelled_alike(("lab", name) for name in ("Sub 01", "sub1"))
    assert alike.differences == ("upper and lower case", "blanks or punctuation", "leading zeros")


def test_other_names_are_other_people() -> None:
    assert (
        groups("ali", "all", "s1", "s2", "s10", "s11", "s1_2", "s12", "s121", "राम", "रम", "eva", "ева2", "1.5") == []
    )


def test_a_name_can_join_two_others() -> None:
    assert groups("АННА", "ANNa", "Анна", "AHHA", "ben") == [{"АННА", "Анна", "AHHA"}]
    assert groups("paul1", "PAUL1", "pauI1") == [{"paul1", "PAUL1", "pauI1"}]


def test_the_same_subject_of_two_sets_is_two_people_unless_the_sets_are_spelled_alike() -> None:
    assert spelled_alike([("smic", "s1"), ("casme-sq", "s01")]) == []
    (alike,) = spelled_alike([("Lab", "anna"), ("lab", "anna")])
    assert '"Lab/anna" and "lab/anna" differ only in upper and lower case, but count as 2 people' in str(alike)


def test_letters_that_look_alike_are_shown_by_their_codes() -> None:
    assert '"\u0430nna" (\\u0430nna) and "anna"' in str(spelled_alike([("lab", "\u0430nna"), ("lab", "anna")])[0])


def clip_of(subject: str, name: str, path: str, line: int) -> Clip:
    return Clip("lab", subject, name, path, 0, None, 9, "joy", source=f"t.csv line {line}")


def test_doubts_name_every_line_to_change_and_the_remedy(tmp_path: Path) -> None:
    clips = [clip_of("anna", "a", "a.mp4", 2), clip_of("anna", "b", "b.mp4", 3), clip_of("Anna", "c", "c.mp4", 4)]
    ((where, what),) = doubts_about_people(Manifest("lab", tmp_path, clips))
    assert where == "t.csv line 2, t.csv line 4"
    assert what.endswith("To merge them, give them one spelling there and run mol prepare again.")


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_one_film_of_two_people_is_found_through_links(tmp_path: Path, link) -> None:
    (tmp_path / "a.mp4").write_bytes(b"film")
    name = "a.mp4"
    if link is not None:
        name = "b.mp4"
        link(tmp_path / "a.mp4", tmp_path / name)
    clips = [clip_of("anna", "a", "a.mp4", 2), clip_of("ben", "b", name, 3), clip_of("anna", "c", "a.mp4", 4)]
    ((path, found),) = shared_films(Manifest("lab", tmp_path, clips))
    assert path == "a.mp4"
    assert [clip.subject for clip in found] == ["anna", "ben"]
    ((where, what),) = doubts_about_people(Manifest("lab", tmp_path, clips))
    assert where == "t.csv line 2, t.csv line 3"
    assert 'a.mp4 is listed for 2 people, "anna" and "ben"' in what


def test_films_that_are_missing_are_compared_by_name(tmp_path: Path) -> None:
    clips = [clip_of("anna", "a", "gone", 2), clip_of("ben", "b", "gone2", 3), clip_of("cleo", "c", "gone", 4)]
    assert [path for path, _ in shared_films(Manifest("lab", tmp_path, clips))] == ["gone"]


def test_one_film_in_two_sets_is_named_with_them(tmp_path: Path) -> None:
    clips = [clip_of("anna", "a", "a.mp4", 2), replace(clip_of("anna", "b", "a.mp4", 3), dataset="field")]
    ((_, what),) = doubts_about_people(Manifest("lab", tmp_path, clips))
    assert '"lab/anna" and "field/anna"' in what
