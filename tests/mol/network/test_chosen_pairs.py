"""MOL on a part of the work: the flow of chosen pairs, and the emotion alone, are those of the whole network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from mol import MOL
from mol.common.errors import ClipError
from mol.network.model import MOLOutput

KINDS = {
    "paper": {},
    "paper, side by side": {"meeting": "side-by-side"},
    "paper, statistics per frame": {"batch_stats": "frame"},
    "released": {"variant": "released"},
}
CLOSE = {"rtol": 1e-7, "atol": 1e-9}


def network(kind: str) -> MOL:
    """Without the zeros that it starts with; in float64: the same neighbours, however a convolution rounds."""
    torch.manual_seed(0)
    model = MOL(3, dropout=0.0, **KINDS[kind])  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".mix." in name or ".predict" in name:
                parameter.normal_(std=0.02)
    return model.double()


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> MOL:
    return network(request.param)


@pytest.fixture(scope="module")
def clips() -> Tensor:
    return torch.randn(2, 1, 8, 128, 128, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.fixture(scope="module")
def whole(model: MOL, clips: Tensor) -> MOLOutput:
    with torch.no_grad():
        return model.eval()(clips)


@contextmanager
def inputs_of(model: MOL, *parts: str) -> Iterator[dict[str, int]]:
    """How many samples each part gets while this is open; those that never run are missing."""
    seen: dict[str, int] = {}
    hooks = [
        model.get_submodule(part).register_forward_hook(
            lambda _m, inputs, _o, part=part: seen.update({part: seen.get(part, 0) + len(inputs[0])})
        )
        for part in parts
    ]
    yield seen
    for hook in hooks:
        hook.remove()


# Flow of chosen pairs


@pytest.mark.parametrize(
    "pairs",
    [
        [[1, 0, 1, 0, 1], [6, 2, 0, 0, 3]],
        [[1, 1, 0, 1], [4, 4, 4, 4]],
        [[0], [6]],
        [[], []],
    ],
    ids=["in any order", "repeated", "one", "none"],
)
def test_flow_of_chosen_pairs_is_that_of_the_whole_network(
    model: MOL, clips: Tensor, whole: MOLOutput, pairs: list[list[int]]
) -> None:
    chosen = torch.tensor(pairs, dtype=torch.int64)
    with torch.no_grad():
        found = model.eval()(clips, chosen)
    assert found.flow.shape == (len(pairs[0]), 2, 128, 128)
    torch.testing.assert_close(found.flow, whole.flow[chosen[0], chosen[1]], **CLOSE)
    torch.testing.assert_close(found.logits, whole.logits, **CLOSE)
    torch.testing.assert_close(found.landmarks, whole.landmarks, **CLOSE)


def test_the_flow_network_sees_the_chosen_pairs_only(clips: Tensor) -> None:
    model = network("paper").float()
    for training in (True, False):
        with inputs_of(model.train(training), "flow.conv1", "flow.cost", "f5c1", "motion") as seen, torch.no_grad():
            model(clips.float(), torch.tensor([[1, 0, 1], [6, 2, 0]]))
        # Two frames a pair; F of the opening frames as well, which the emotion is told from.
        assert seen == {"flow.conv1": 6, "flow.cost": 3, "f5c1": 2 + 3, "motion": 3}
        with inputs_of(model, "flow", "motion") as seen, torch.no_grad():
            model(clips.float(), torch.zeros(2, 0, dtype=torch.int64))
        assert seen == {}


@pytest.mark.parametrize("kind", ["paper", "paper, side by side"])
def test_training_on_chosen_pairs_reaches_every_part(kind: str, clips: Tensor) -> None:
    model = network(kind).float().train()
    out = model(clips.float(), torch.tensor([[1, 0, 1], [6, 2, 0]]))
    out.flow.square().mean().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not torch.count_nonzero(p.grad)}
    assert {name.split(".")[0] for name in without} == {"emotion", "landmarks"}


def test_with_statistics_per_frame_training_on_chosen_pairs_normalises_over_all(clips: Tensor) -> None:
    pairs = torch.tensor([[1, 0], [6, 2]])
    one, other = (network("paper, statistics per frame").train() for _ in range(2))
    with torch.no_grad():
        found, whole = one(clips, pairs), other(clips)
    torch.testing.assert_close(found.flow, whole.flow[pairs[0], pairs[1]], **CLOSE)
    torch.testing.assert_close(found.logits, whole.logits, **CLOSE)
    for (name, ours), (_, theirs) in zip(one.named_buffers(), other.named_buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name, **CLOSE)


@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_has_no_pairs(model: MOL, clips: Tensor, training: bool) -> None:
    out = model.train(training)(clips[:0], torch.zeros(2, 0, dtype=torch.int64))
    assert [tuple(part.shape) for part in out] == [(0, 3), (0, 2, 128, 128), (0, 7, 68, 2)]
    assert model.recognise(clips[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (
            torch.tensor([[0, 2], [0, 0]]),
            "clip 2 with first frame 0; there are 2 clips, counted from 0, and first frames 0 to 6",
        ),
        (torch.tensor([[0, 0], [0, 7]]), "clip 0 with first frame 7; there are 2 clips"),
        (torch.tensor([[0, 0], [0, -1]]), "clip 0 with first frame -1"),
        (torch.tensor([[0, 1], [2, 3], [4, 5]]), r"int64 of shape \(3, 2\); int64 of shape \(2, M\) is needed"),
        (torch.tensor([0, 1]), r"int64 of shape \(2,\)"),
        (torch.tensor([[0.0], [1.0]]), "float32 of shape"),
        ([(0, 1)], "pairs is list"),
    ],
)
def test_pairs_that_do_not_exist_are_refused(clips: Tensor, pairs: Tensor, words: str) -> None:
    with torch.device("meta"):
        model = MOL(3)
    with pytest.raises(ClipError, match=words):
        model(clips, pairs)


# The emotion alone


def test_recognition_alone_gives_the_logits_of_the_whole_network(model: MOL, clips: Tensor, whole: MOLOutput) -> None:
    with torch.no_grad():
        torch.testing.assert_close(model.eval().recognise(clips), whole.logits, **CLOSE)


def test_recognition_alone_runs_neither_flow_nor_landmarks(model: MOL, clips: Tensor) -> None:
    with inputs_of(model.eval(), "stack", "emotion", "flow", "landmarks") as seen, torch.no_grad():
        model.recognise(clips)
    assert seen == {"stack": 16, "emotion": 2}


@pytest.mark.parametrize("kind", ["paper", "released"])
def test_training_the_emotion_alone_reaches_its_parts_only(kind: str, clips: Tensor) -> None:
    model = network(kind).float().train()
    with inputs_of(model, "flow", "landmarks") as seen:
        model.recognise(clips.float()).square().mean().backward()
    assert seen == {}
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"stack", "f5c1", "f5c2", "emotion"}


def test_recognition_alone_refuses_the_clips_that_the_network_refuses(model: MOL, clips: Tensor) -> None:
    with pytest.raises(ClipError, match=r"shape \(2, 1, 7, 128, 128\)"):
        model.recognise(clips[:, :, 1:])
