"""Crops, mirrors, normalisation, order and the split by person."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_cache import write_tiny_cache

from mol.common.errors import ClipError, SettingsError
from mol.data.cache import Cache
from mol.data.clips import Augmentation, ResidentClips, normalise_clips
from mol.data.split import person, split_by_subject


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_tiny_cache(tmp_path_factory.mktemp("clips") / "cache", people=4, videos=3, windows=2)


@pytest.fixture(scope="module")
def clips(cache: Cache) -> ResidentClips:
    return ResidentClips(cache, range(len(cache)))


def offsets(cache: Cache, batch, i: int) -> tuple[int, int, bool]:
    """Where crop `i` was cut (top, left) and whether it was mirrored, worked out from its landmarks alone."""
    original = cache.landmarks[int(batch.row[i]), 1:]
    crop = batch.landmarks[i].numpy()
    # Points keep their side: those of the person's right eye stay on the left of the picture in a mirrored clip too.
    assert crop[0, 36, 0] < crop[0, 45, 0]
    top = original[0, 8, 1] - crop[0, 8, 1]
    shift = original[0, 8, 0] - crop[0, 8, 0]
    mirrored = not np.allclose(original[..., 0] - crop[..., 0], shift, atol=1e-3)
    left = original[0, 8, 0] + crop[0, 8, 0] - 127 if mirrored else shift
    return round(float(top)), round(float(left)), mirrored


def test_crops_cut_frames_flow_and_landmarks_at_the_same_place(cache: Cache, clips: ResidentClips) -> None:
    """Published error 3: targets must follow the crop they belong to, each its own."""
    batch = clips.training_batch(step=0, seed=1, batch_size=12)
    seen = set()
    for i in range(12):
        top, left, mirrored = offsets(cache, batch, i)
        row = int(batch.row[i])
        frames = cache.frames[row, :, top : top + 128, left : left + 128].astype(np.float32)
        flow = cache.flow[row, :, :, top : top + 128, left : left + 128].astype(np.float32)
        points = cache.landmarks[row, 1:] - np.array([left, top], np.float32)
        if mirrored:
            frames, flow = frames[..., ::-1], flow[..., ::-1] * np.array([-1, 1], np.float32)[:, None, None]
            points = np.stack([127 - points[..., 0], points[..., 1]], axis=-1)
            # Outer corner of the left eye against that of the right, corners of the mouth, ends of the jaw.
            for left_point, right_point in ((36, 45), (48, 54), (0, 16), (17, 26), (31, 35), (60, 64)):
                np.testing.assert_allclose(batch.landmarks[i, :, left_point], points[:, right_point], atol=1e-4)
        else:
            np.testing.assert_allclose(batch.landmarks[i], points, atol=1e-4)
        np.testing.assert_array_equal(batch.flow[i], flow)
        torch.testing.assert_close(batch.clips[i, 0], normalise_clips(torch.from_numpy(frames.copy())))
        seen.add((top, left, mirrored))
    assert len(seen) > 6
    assert {mirrored for *_, mirrored in seen} == {True, False}


def test_flow_still_carries_each_frame_into_the_next_after_crop_and_mirror(clips: ResidentClips) -> None:
    batch = clips.training_batch(step=3, seed=0, batch_size=12)
    for frames, flow in zip(batch.clips[:, 0], batch.flow, strict=True):
        dx, dy = int(flow[0, 0, 64, 64]), int(flow[0, 1, 64, 64])
        inner = frames[:-1, 8:-8, 8:-8]
        moved = frames[1:, 8 + dy : 120 + dy, 8 + dx : 120 + dx]
        torch.testing.assert_close(moved, inner)


def test_five_crops_of_one_clip_leave_its_targets_as_they_were(cache: Cache) -> None:
    """Published error 3: shifting targets in place gives every crop the sum of all shifts."""
    one = ResidentClips(cache, [2], augmentation=Augmentation(flip=False))
    before = one.evaluation_batch([0])
    crops = [one.training_batch(step, seed=5, batch_size=1) for step in range(5)]
    places = [offsets(cache, crop, 0) for crop in crops]
    assert len(set(places)) > 1
    for crop, (top, left, _) in zip(crops, places, strict=True):
        expected = cache.landmarks[2, 1:] - np.array([left, top], np.float32)
        np.testing.assert_allclose(crop.landmarks[0], expected, atol=1e-4)
    for now, then in zip(one.evaluation_batch([0]), before, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0)


def test_evaluation_uses_the_centre_crop_and_nothing_random(cache: Cache, clips: ResidentClips) -> None:
    """Published error 2: the test fold must not see training crops."""
    batch = clips.evaluation_batch([3, 0])
    assert batch.row.tolist() == [3, 0]
    np.testing.assert_allclose(batch.landmarks[0], cache.landmarks[3, 1:] - 8, atol=1e-5)
    np.testing.assert_array_equal(batch.flow[1], cache.flow[0, :, :, 8:136, 8:136].astype(np.float32))
    frames = torch.from_numpy(cache.frames[3, :, 8:136, 8:136].astype(np.float32))
    torch.testing.assert_close(batch.clips[0, 0], normalise_clips(frames))
    np.testing.assert_array_equal(clips.centre_frames(3), cache.frames[3, :, 8:136, 8:136])
    lit = ResidentClips(cache, range(len(cache)), augmentation=Augmentation(gamma=0.5, drift=0.2))
    torch.testing.assert_close(lit.evaluation_batch([3, 0]).clips, batch.clips, rtol=0, atol=0)


def test_shapes_and_types_of_a_batch(clips: ResidentClips) -> None:
    batch = clips.training_batch(0, 0, 3)
    assert batch.clips.shape == (3, 1, 8, 128, 128)
    assert batch.flow.shape == (3, 7, 2, 128, 128)
    assert batch.landmarks.shape == (3, 7, 68, 2)
    assert [t.dtype for t in batch[:5]] == [torch.float32] * 3 + [torch.int64] * 2
    assert batch.pairs is None


def test_batches_depend_on_seed_and_step_alone(cache: Cache, clips: ResidentClips) -> None:
    """A resumed run, which has drawn nothing before, gets the batches of the uninterrupted one."""
    for step in range(4):
        clips.training_batch(step, seed=7, batch_size=5)
    fresh = ResidentClips(cache, range(len(cache)))
    for a, b in zip(fresh.training_batch(4, 7, 5), clips.training_batch(4, 7, 5), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    other = clips.training_batch(4, 8, 5)
    assert other.row.tolist() != clips.training_batch(4, 7, 5).row.tolist()


def test_every_pass_draws_every_clip_once(clips: ResidentClips) -> None:
    count, size = len(clips), 7
    drawn = np.concatenate([clips.training_batch(s, 0, size).row.numpy() for s in range(count)])
    for epoch in range(size):
        assert sorted(drawn[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert drawn[:count].tolist() != drawn[count : 2 * count].tolist()


def test_balanced_sampling_draws_rare_classes_as_often(cache: Cache) -> None:
    rows = [i for i, row in enumerate(cache.rows) if row["label"] == 0]
    rare = next(i for i, row in enumerate(cache.rows) if row["label"] == 1)
    balanced = ResidentClips(cache, [*rows, rare], balanced=True)
    labels = np.concatenate([balanced.training_batch(s, 0, len(balanced)).label.numpy() for s in range(30)])
    assert 0.4 < (labels == 1).mean() < 0.6


def test_normalised_clip_has_zero_mean_and_unit_deviation_whatever_the_light() -> None:
    """Published error 7: one new clip must be normalisable on its own."""
    generator = torch.Generator().manual_seed(0)
    clip = torch.rand(2, 1, 8, 128, 128, generator=generator)
    clip[1] = clip[0]
    normal = normalise_clips(clip)
    assert normal.mean((1, 2, 3, 4)).abs().max() < 1e-5
    assert (normal.std((1, 2, 3, 4)) - 1).abs().max() < 1e-4
    torch.testing.assert_close(normalise_clips(clip[:1]), normal[1:])  # alone or among others: the same
    torch.testing.assert_close(normalise_clips(30 + 90 * clip), normal, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("value", [0, 1, 127, 255])
def test_normalised_flat_clip_is_zero_and_not_nan(value: int) -> None:
    flat = torch.full((1, 1, 8, 128, 128), value, dtype=torch.uint8)
    assert normalise_clips(flat).abs().max() < 0.1


def test_clip_normalisation_ignores_the_persons_other_clips(cache: Cache) -> None:
    """Published error 7: what the network sees of a clip must not depend on which other clips were loaded."""
    alone = ResidentClips(cache, [0]).evaluation_batch([0]).clips
    torch.testing.assert_close(
        ResidentClips(cache, range(len(cache))).evaluation_batch([0]).clips, alone, rtol=0, atol=0
    )


def test_released_normalisation_uses_the_persons_mean_and_maximum(cache: Cache) -> None:
    held = ResidentClips(cache, range(len(cache)), normalisation="released-subject")
    for row in (0, len(cache) - 1):
        mine = [i for i, other in enumerate(cache.rows) if person(other) == person(cache.rows[row])]
        frames = cache.frames[mine].astype(np.float64)
        expected = (cache.frames[row, :, 8:136, 8:136] - frames.mean()) / frames.max()
        np.testing.assert_allclose(held.evaluation_batch([row]).clips[0, 0], expected, atol=1e-5)


def test_gamma_and_drift_survive_normalisation_and_leave_targets_alone(cache: Cache, clips: ResidentClips) -> None:
    plain = clips.training_batch(1, 0, 6)
    for augmentation in (Augmentation(gamma=0.5), Augmentation(drift=0.2)):
        varied = ResidentClips(cache, range(len(cache)), augmentation=augmentation).training_batch(1, 0, 6)
        assert (varied.clips - plain.clips).abs().amax((1, 2, 3, 4)).min() > 1e-3
        assert varied.clips.isfinite().all()
        torch.testing.assert_close(varied.flow, plain.flow, rtol=0, atol=0)
        torch.testing.assert_close(varied.landmarks, plain.landmarks, rtol=0, atol=0)


def test_mean_shape_is_that_of_the_centre_crops(cache: Cache) -> None:
    held = ResidentClips(cache, [1, 4])
    np.testing.assert_allclose(held.mean_shape(), cache.landmarks[[1, 4], 1:].mean((0, 1)) - 8, atol=1e-4)


# Bad input


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("array", ["flow", "landmarks"])
def test_nan_and_infinity_name_the_row(cache: Cache, array: str, value: float) -> None:
    spoilt = np.array(getattr(cache, array))
    spoilt[5].flat[17] = value
    with pytest.raises(ClipError, match=rf"{array} in row 5 of the cache \(tiny/s\d, clip v\d"):
        ResidentClips(replace(cache, **{array: spoilt}), [3, 5, 6])


@pytest.mark.parametrize("label", [None, -1, 3, float("nan"), 1.0, True, "disgust"])
def test_unusable_labels_name_the_row(cache: Cache, label: object) -> None:
    rows = [dict(row) for row in cache.rows]
    rows[2]["label"] = label
    with pytest.raises(ClipError, match=r"in row 2 of the cache \(tiny/s1.*class index in 0\.\.2"):
        ResidentClips(replace(cache, rows=rows), [0, 2])


@pytest.mark.parametrize("size", [0, -1, 21])
def test_batches_larger_than_the_data_set_are_refused(clips: ResidentClips, size: int) -> None:
    with pytest.raises(SettingsError, match=r"between 1 and the number of training clips, 20"):
        clips.training_batch(0, 0, size)


def test_no_rows_unknown_normalisation_and_bad_positions_are_refused(cache: Cache, clips: ResidentClips) -> None:
    with pytest.raises(SettingsError, match="empty"):
        ResidentClips(cache, [])
    with pytest.raises(SettingsError, match="clip, released-subject"):
        ResidentClips(cache, [0], normalisation="subject")
    with pytest.raises(SettingsError, match="negative"):
        Augmentation(gamma=-1)
    for position in (-1, len(clips)):
        with pytest.raises(IndexError):
            clips.evaluation_batch([position])
    assert clips.evaluation_batch([]).clips.shape == (0, 1, 8, 128, 128)


# The split


def test_nobody_is_on_both_sides_of_the_split(cache: Cache) -> None:
    for seed in range(5):
        split = split_by_subject(cache.rows, 0.25, seed)
        sides = [{person(cache.rows[i]) for i in part} for part in (split.train, split.held_out)]
        assert not sides[0] & sides[1]
        assert sides == [set(split.train_people), set(split.held_out_people)]
        assert len(split.held_out_people) == 1
        assert sorted([*split.train, *split.held_out]) == list(range(len(cache)))
    assert len({tuple(split_by_subject(cache.rows, 0.25, seed).held_out_people) for seed in range(20)}) > 1


def test_people_are_named_with_or_without_their_set(cache: Cache) -> None:
    assert split_by_subject(cache.rows, ["s2", "tiny/s3"]).held_out_people == ["tiny/s2", "tiny/s3"]


def test_equal_subject_names_in_two_sets_are_two_people(cache: Cache) -> None:
    rows = [*cache.rows, {**cache.rows[0], "dataset": "other"}]
    split = split_by_subject(rows, ["other/s1"])
    assert split.held_out.tolist() == [len(cache)]
    assert split_by_subject(rows, ["s1"]).held_out_people == ["other/s1", "tiny/s1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"held_out": 0.0}, "between 0 and 1"),
        ({"held_out": 1.5}, "between 0 and 1"),
        ({"held_out": []}, "held-out part of the split is empty"),
        ({"held_out": ["s1", "s2", "s3", "s4"]}, "training part of the split is empty"),
        ({"held_out": 0.99}, "training part of the split is empty"),
        ({"held_out": ["s9"]}, "no person 's9'"),
        ({"held_out": ["s1"], "train": ["s1", "s2"]}, "tiny/s1 would be both trained on and held out"),
    ],
)
def test_impossible_splits_are_refused(cache: Cache, arguments: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        split_by_subject(cache.rows, **arguments)
