"""Held maps: batches from (seed, step) alone, mirrors with their signs, centre crops in evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_cache import write_tiny_cache

from mol.common.errors import ClipError, SettingsError
from mol.data.cache import Cache
from mol.data.clips import Augmentation
from mol.networks.maps import HeldMaps, MapForm, centre_inputs, shrunk

# Nothing is pooled, so that what is cut can be compared pixel by pixel.
FORM = MapForm(size=64, signs=(-1, 1))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_tiny_cache(tmp_path_factory.mktemp("maps") / "cache", people=3, videos=3)


@pytest.fixture(scope="module")
def maps(cache: Cache) -> torch.Tensor:
    return torch.randn(len(cache), 2, 144, 144, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def held(cache: Cache, maps: torch.Tensor) -> HeldMaps:
    return HeldMaps(cache, range(len(cache)), shrunk(maps), FORM)


def same(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_equal_seed_and_step_give_equal_batches(cache: Cache, maps: torch.Tensor, held: HeldMaps) -> None:
    held.training_batch(0, 7, 4)
    again = HeldMaps(cache, range(len(cache)), shrunk(maps), FORM)
    assert same(held.training_batch(5, 7, 4), again.training_batch(5, 7, 4))
    assert not same(held.training_batch(5, 7, 4), held.training_batch(5, 8, 4))
    assert not same(held.training_batch(5, 7, 4), held.training_batch(6, 7, 4))


def test_a_training_crop_is_a_window_of_the_maps_or_its_mirror(held: HeldMaps, maps: torch.Tensor) -> None:
    whole, seen = shrunk(maps), set()
    for step in range(8):
        batch = held.training_batch(step, 0, 4)
        for crop, row in zip(batch.inputs, batch.row.tolist(), strict=True):
            windows = whole[row].unfold(1, 64, 1).unfold(2, 64, 1)
            mirrored = windows.flip(-1) * torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1, 1)
            found = [
                (flip, *place.tolist())
                for flip, choice in enumerate((windows, mirrored))
                for place in (choice == crop[:, None, None]).all(-1).all(-1).all(0).nonzero()
            ]
            assert len(found) == 1
            seen.add(found[0])
    assert {flip for flip, _, _ in seen} == {0, 1}
    assert len({place for _, *place in map(list, seen) for place in [tuple(place)]}) > 8


def test_without_flip_nothing_is_mirrored(cache: Cache, maps: torch.Tensor) -> None:
    plain = HeldMaps(cache, [0], shrunk(maps[:1].abs()), FORM, augmentation=Augmentation(flip=False))
    assert all((plain.training_batch(step, 0, 1).inputs >= 0).all() for step in range(8))


def test_evaluation_takes_the_centre_as_a_window_of_a_video_does(held: HeldMaps, maps: torch.Tensor) -> None:
    batch = held.evaluation_batch([4, 1])
    assert torch.equal(batch.inputs, shrunk(maps)[[4, 1], :, 4:68, 4:68])
    assert torch.equal(batch.inputs, centre_inputs(maps[[4, 1]], FORM))
    assert batch.label.tolist() == held.labels[[4, 1]].tolist()
    assert batch.row.tolist() == [4, 1]
    sizes = [len(part.label) for part in held.evaluation_batches(4)]
    assert sizes == [4, 4, 1]
    with pytest.raises(IndexError, match=r"0\.\.8"):
        held.evaluation_batch([9])


def test_the_input_is_averaged_down_to_its_size(maps: torch.Tensor) -> None:
    small = centre_inputs(maps, MapForm(size=16, signs=(-1, 1)))
    expected = maps[..., 8:136, 8:136].unfold(2, 8, 8).unfold(3, 8, 8).mean((-1, -2))
    torch.testing.assert_close(small, expected)


def test_parts_share_the_maps(cache: Cache, maps: torch.Tensor, held: HeldMaps) -> None:
    rows = [1, 4, 5, 7]
    part, alone = held.part(rows), HeldMaps(cache, rows, shrunk(maps[rows]), FORM)
    assert part._maps is held._maps
    assert same(part.training_batch(3, 1, 4), alone.training_batch(3, 1, 4))
    assert same(part.evaluation_batch([2]), alone.evaluation_batch([2]))
    assert same(part.part([3]).evaluation_batch([0]), held.evaluation_batch([7]))


def test_balanced_batches_draw_every_class_equally_often(cache: Cache, held: HeldMaps) -> None:
    rows = [i for i, row in enumerate(cache.rows) if row["label"] == 0] + [1]
    part = held.part(rows, balanced=True)
    labels = np.concatenate([part.training_batch(step, 0, 4).label.numpy() for step in range(200)])
    assert 0.4 < (labels == 0).mean() < 0.6


def test_no_clips_and_clips_without_a_label_are_refused(cache: Cache, held: HeldMaps, maps: torch.Tensor) -> None:
    with pytest.raises(SettingsError, match="no clips to hold"):
        held.part([])
    with pytest.raises(SettingsError, match="batch_size=10"):
        held.training_batch(0, 0, 10)
    unlabelled = [{**row, "label": None} for row in cache.rows]
    with pytest.raises(ClipError, match="label None in row 0"):
        HeldMaps(type("Rows", (), {"rows": unlabelled, "classes": cache.classes})(), [0], shrunk(maps[:1]), FORM)
