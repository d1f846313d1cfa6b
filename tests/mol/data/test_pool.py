"""Caches under a protocol: which rows take part, what cannot be mixed, and parts that share what the device holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_cache import moving_clip

from mol.common.errors import CacheError, CacheSettingsError, DataError, SettingsError
from mol.data.cache import Cache, CacheSettings, CacheWriter
from mol.data.clips import Augmentation, Batch, ResidentClips, ResidentPart
from mol.data.pool import Pool, fingerprint, open_clips
from mol.data.protocol import Protocol

EMOTIONS = ("disgust", "happiness", "others", "surprise")
PROTOCOL = Protocol(
    name="three",
    classes=("surprise", "positive", "negative"),
    emotions={
        "one": {"surprise": "surprise", "happiness": "positive", "disgust": "negative"},
        "two": {"surprise": "surprise", "happiness": "positive", "others": "negative"},
    },
    counts={"one": {"surprise": 1, "positive": 1, "negative": 1}},
)


def write_cache(path: Path, dataset: str, clips: Sequence[tuple[str, str, str]], **changes: Any) -> Cache:
    """A cache of (subject, clip, emotion), two sub-clips each."""
    rows = [
        {
            "dataset": dataset,
            "subject": subject,
            "clip": clip,
            "start": start,
            "interval": 2,
            "label": EMOTIONS.index(emotion),
            "emotion": emotion,
        }
        for subject, clip, emotion in clips
        for start in range(2)
    ]
    shape = {"kind": "extracted", "settings": {"align": "clip"}, "versions": {"opencv": "4.12"}} | changes
    with CacheWriter(path, CacheSettings(classes=EMOTIONS, **shape), rows) as writer:
        for i in range(len(rows)):
            writer.write(i, *moving_clip(np.random.default_rng((i, len(dataset), ord(dataset[0]))), (1, 0)))
        writer.finish()
    return Cache.open(path)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    clips = [("s1", "a", "surprise"), ("s1", "b", "others"), ("s2", "a", "disgust"), ("s2", "b", "happiness")]
    return write_cache(tmp_path_factory.mktemp("pool") / "one", "one", clips)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    clips = [("s1", "a", "others"), ("s1", "b", "surprise"), ("s2", "a", "disgust")]
    return write_cache(tmp_path_factory.mktemp("pool") / "two", "two", clips)


@pytest.fixture(scope="module")
def pool(one: Cache, two: Cache) -> Pool:
    return Pool.join([one, two], PROTOCOL)


def test_rows_get_the_classes_of_the_protocol_and_others_are_left_out(pool: Pool) -> None:
    found = [(row["dataset"], row["subject"], row["clip"], pool.classes[row["label"]]) for row in pool.rows[::2]]
    assert found == [
        ("one", "s1", "a", "surprise"),
        ("one", "s2", "a", "negative"),
        ("one", "s2", "b", "positive"),
        ("two", "s1", "a", "negative"),
        ("two", "s1", "b", "surprise"),
    ]
    assert pool.labels.tolist() == [0, 0, 2, 2, 1, 1, 2, 2, 0, 0]
    assert pool.classes == ("surprise", "positive", "negative")
    assert pool.datasets == ["one", "two"]


def test_arrays_come_from_the_cache_that_holds_the_row(pool: Pool, one: Cache, two: Cache) -> None:
    rows = np.array([9, 0, 4, 6, 9])
    sources = [(two, 3), (one, 0), (one, 6), (two, 0), (two, 3)]
    for name in ("frames", "flow", "landmarks"):
        array = getattr(pool, name)
        assert array.shape == (10, *getattr(one, name).shape[1:])
        assert array.dtype == getattr(one, name).dtype
        np.testing.assert_array_equal(array[rows], np.stack([getattr(cache, name)[i] for cache, i in sources]))
        np.testing.assert_array_equal(array[9], getattr(two, name)[3])
    pool.verify()


def test_a_part_gives_the_batches_of_clips_that_were_copied(pool: Pool) -> None:
    whole = ResidentClips(pool, range(len(pool)))
    rows = np.array([1, 2, 5, 8, 9])
    settings = {"augmentation": Augmentation(gamma=0.2, drift=0.1), "balanced": True}
    part, copied = ResidentPart(whole, rows, **settings), ResidentClips(pool, rows, **settings)
    assert len(part) == 5
    assert torch.equal(part.mean_shape(), copied.mean_shape())
    np.testing.assert_array_equal(part.centre_frames(3), copied.centre_frames(3))
    for step in range(3):
        assert_same(part.training_batch(step, 7, 4), copied.training_batch(step, 7, 4))
    for a, b in zip(part.evaluation_batches(2), copied.evaluation_batches(2), strict=True):
        assert_same(a, b)
        assert set(a.row.tolist()) <= set(rows.tolist())
    with pytest.raises(IndexError):
        part.evaluation_batch([5])


def test_parts_share_the_memory_of_the_whole(pool: Pool) -> None:
    whole = ResidentClips(pool, range(len(pool)))
    part = ResidentPart(whole, [0, 3])
    assert part._held is whole._held
    assert (len(part), len(whole)) == (2, 10)
    assert part.augmentation == Augmentation()
    with pytest.raises(SettingsError, match="no clips"):
        ResidentPart(whole, [])


def test_a_persons_statistics_do_not_depend_on_the_fold(pool: Pool) -> None:
    whole = ResidentClips(pool, range(len(pool)), normalisation="released-subject")
    alone = ResidentClips(pool, [6, 7, 8, 9], normalisation="released-subject")
    assert_same(ResidentPart(whole, [6, 7, 8, 9]).evaluation_batch(range(4)), alone.evaluation_batch(range(4)))


def assert_same(a: Batch, b: Batch) -> None:
    assert a.pairs is b.pairs is None
    for name in (name for name in Batch._fields if name != "pairs"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_counts_are_required_of_unique_videos(one: Cache, two: Cache, tmp_path: Path) -> None:
    assert Pool.join([one, two], PROTOCOL).count_differences == []
    less = write_cache(tmp_path / "less", "one", [("s1", "a", "surprise"), ("s2", "b", "happiness")])
    with pytest.raises(DataError, match="one negative: 1 clips expected, 0 found"):
        Pool.join([less, two], PROTOCOL)
    assert Pool.join([less, two], PROTOCOL, "warn").count_differences == ["one negative: 1 clips expected, 0 found"]


def test_caches_of_other_settings_are_not_mixed(one: Cache, tmp_path: Path) -> None:
    clips = [("s1", "a", "surprise")]
    other = write_cache(tmp_path / "frame", "two", clips, settings={"align": "frame"})
    words = r'one and .*frame were made with different settings \(align: "clip" → "frame"\)'
    with pytest.raises(CacheSettingsError, match=words):
        Pool.join([one, other], PROTOCOL)
    synthetic = write_cache(tmp_path / "synthetic", "two", clips, kind="synthetic")
    with pytest.raises(CacheSettingsError, match='kind: "extracted" → "synthetic"'):
        Pool.join([one, synthetic], PROTOCOL)


def test_caches_of_another_size_are_not_mixed(one: Cache, tmp_path: Path) -> None:
    rows = [{**one.rows[0], "dataset": "two"}]
    settings = CacheSettings(kind="extracted", classes=EMOTIONS, settings={"align": "clip"}, size=160)
    with CacheWriter(tmp_path / "large", settings, rows) as writer:
        frames, flow = np.zeros((8, 160, 160), np.uint8), np.zeros((7, 2, 160, 160), np.float32)
        writer.write(0, frames, flow, np.zeros((8, 68, 2), np.float32))
        writer.finish()
    with pytest.raises(CacheSettingsError, match="size: 144 → 160"):
        Pool.join([one, Cache.open(tmp_path / "large")], PROTOCOL)


def test_what_differs_between_sets_by_its_nature_may_differ(one: Cache, tmp_path: Path) -> None:
    clips = [("s1", "a", "surprise")]
    other = write_cache(tmp_path / "two", "two", clips, versions={"opencv": "4.13"})
    (note,) = Pool.join([one, other], PROTOCOL).notes
    assert "different versions of opencv" in note
    own = [{"align": "clip", "landmarks": digest} for digest in ("12ab", "34cd")]
    first = write_cache(tmp_path / "first", "one", clips, settings=own[0])
    second = write_cache(tmp_path / "second", "two", clips, settings=own[1])
    assert Pool.join([first, second], PROTOCOL, "warn").notes == []
    with pytest.raises(CacheSettingsError, match='landmarks: "a file" → "dlib"'):
        Pool.join([first, other], PROTOCOL, "warn")


def test_clips_that_could_not_be_extracted_are_mentioned(one: Cache) -> None:
    lost = replace(one, skipped=[{"dataset": "one", "subject": "s7", "clip": "a", "reason": "no face"}])
    pool = Pool.join([lost], PROTOCOL)
    assert pool.skipped == lost.skipped
    assert "1 clips of" in pool.notes[0]


def test_what_the_network_sees_of_a_clip_does_not_depend_on_the_fold(pool: Pool) -> None:
    """Published error 7: clips were normalised by all the clips of their person."""
    whole = ResidentClips(pool, range(len(pool)))
    alone, among_others = ResidentPart(whole, [4]), ResidentPart(whole, [2, 3, 4, 5])
    assert_same(alone.evaluation_batch([0]), among_others.evaluation_batch([2]))


def test_a_data_set_counts_once_and_must_be_the_protocols(one: Cache, tmp_path: Path) -> None:
    again = write_cache(tmp_path / "again", "one", [("s9", "a", "surprise")])
    with pytest.raises(SettingsError, match=r"one and .*again both hold the data set one"):
        Pool.join([one, again], PROTOCOL, "warn")
    foreign = write_cache(tmp_path / "foreign", "three", [("s9", "a", "surprise")])
    with pytest.raises(SettingsError, match=r"data set three, which is not in protocol three \(one, two\)"):
        Pool.join([one, foreign], PROTOCOL)


def test_sets_of_the_protocol_that_no_cache_holds_are_known(one: Cache) -> None:
    assert Pool.join([one], PROTOCOL).missing_datasets == ["two"]


def test_nothing_left_is_an_error_that_names_the_emotions(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "two", "two", [("s2", "a", "disgust")])
    with pytest.raises(SettingsError, match=r"no clip of .* protocol three \(found: disgust\)"):
        Pool.join([cache], PROTOCOL)


def test_caches_are_opened_by_the_names_of_folder_and_protocol(one: Cache, two: Cache) -> None:
    paths = [str(one.path), str(two.path)]
    pool = open_clips(paths, "as-labelled")
    assert pool.classes == EMOTIONS
    assert len(pool) == len(one) + len(two)
    assert type(open_clips(paths[0], None)) is Cache
    with pytest.raises(SettingsError, match="several caches need a protocol"):
        open_clips(paths, None)
    with pytest.raises(SettingsError, match="unknown protocol 'as-labeled'; did you mean as-labelled"):
        open_clips(paths, "as-labeled")
    with pytest.raises(CacheError, match="nowhere"):
        open_clips(["nowhere"], "as-labelled")
    with pytest.raises(SettingsError, match="no caches"):
        open_clips([], "as-labelled")


def test_a_fingerprint_follows_the_content_and_not_the_place(one: Cache, tmp_path: Path) -> None:
    clips = [("s1", "a", "surprise"), ("s1", "b", "others"), ("s2", "a", "disgust"), ("s2", "b", "happiness")]
    assert fingerprint(write_cache(tmp_path / "elsewhere", "one", clips)) == fingerprint(one)
    assert fingerprint(write_cache(tmp_path / "other", "one", clips[:3])) != fingerprint(one)
