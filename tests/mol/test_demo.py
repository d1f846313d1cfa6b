"""The demonstration: its stages, what it goes on from, and what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_fixtures import write_frames_folder
from tiny_cache import write_tiny_cache
from tiny_model import instead_of_mol

from mol import demo
from mol.common.errors import InUseError, MissingExtraError, SettingsError
from mol.common.locks import lock
from mol.demo import DEMO, DEMO_LONG, DemoConfig, Recipe, Stages, run_demo, talking_head
from mol.synth.clip_plan import SynthSettings
from mol.synth.faces import load_faces
from mol.training.resume import TrainingInterrupted
from molkernels.installation import install_command

TINY = Recipe(
    SynthSettings(people=3),
    held_out=0.25,
    steps=3,
    batch_size=2,
    flow_pairs=4,
    tvl1_pairs=2,
)


def test_a_folder_is_for_one_process(tmp_path):
    with lock(tmp_path / ".lock", "mol demo"), pytest.raises(InUseError, match="choose another --out"):
        run_demo(DemoConfig(out=str(tmp_path)), TINY)


# Stages


def run_stage(folder: Path, done: list[str], settings: dict | None = None, result: str = "result.txt") -> None:
    def work() -> None:
        done.append("work")
        (folder / result).write_text("x", encoding="utf-8")

    Stages.read(folder).run(1, "synth", "clips", settings or {"seed": 0}, [folder / result], work)


def test_a_stage_that_is_done_is_not_done_again(tmp_path):
    done: list[str] = []
    run_stage(tmp_path, done)
    run_stage(tmp_path, done)
    assert done == ["work"]


def test_a_stage_whose_results_are_gone_is_done_again(tmp_path):
    done: list[str] = []
    run_stage(tmp_path, done)
    (tmp_path / "result.txt").unlink()
    run_stage(tmp_path, done)
    assert done == ["work", "work"]


def test_a_stage_that_was_interrupted_is_done_again(tmp_path):
    def interrupted() -> None:
        (tmp_path / "result.txt").write_text("half", encoding="utf-8")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stages.read(tmp_path).run(1, "synth", "clips", {"seed": 0}, [tmp_path / "result.txt"], interrupted)
    done: list[str] = []
    run_stage(tmp_path, done)
    assert done == ["work"]


def test_other_settings_are_refused_with_the_difference_and_nothing_is_touched(tmp_path):
    run_stage(tmp_path, [])
    before = (tmp_path / "stages.json").read_bytes()
    with pytest.raises(SettingsError, match=r"seed: 0 → 1.*--out"):
        run_stage(tmp_path, [], {"seed": 1})
    assert (tmp_path / "stages.json").read_bytes() == before


def test_tuples_and_lists_are_the_same_setting(tmp_path):
    done: list[str] = []
    run_stage(tmp_path, done, {"length": (1, 2)})
    run_stage(tmp_path, done, {"length": [1, 2]})
    assert done == ["work"]


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_a_damaged_note_of_the_stages_is_named(tmp_path, content):
    (tmp_path / "stages.json").write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"stages\.json"):
        Stages.read(tmp_path)


# The whole


@pytest.fixture
def real_frames(tmp_path) -> Path:
    """A folder of eight frames of a real face that drifts."""
    face = load_faces(("astronaut",))[0]
    left, top = (face.points.min(axis=0) - 60).clip(0).astype(int) // 2 * 2
    picture = face.image[top : top + 240, left : left + 240]
    write_frames_folder(np.stack([np.roll(picture, 2 * index, axis=1) for index in range(8)]), tmp_path / "talk")
    return tmp_path / "talk"


@pytest.fixture
def tiny_parts(monkeypatch) -> list[str]:
    """Clips of textures instead of faces and a tiny network; all the rest is real. Lists the clips that were made."""
    made: list[str] = []

    def synthesize(path, settings, progress):
        made.append(str(path))
        return write_tiny_cache(Path(path))

    monkeypatch.setattr(demo, "synthesize", synthesize)
    instead_of_mol(monkeypatch)
    return made


def test_the_demonstration_leaves_scores_pictures_and_a_prediction(tmp_path, tiny_parts, real_frames, capsys):
    out = tmp_path / "demo"
    run_demo(DemoConfig(str(out), precision="32"), TINY, real_frames)
    shown = capsys.readouterr().out
    for path in (
        out / "pictures" / "clips.png",
        out / "run" / "pictures" / "gallery.png",
        out / "run" / "pictures" / "confusion.png",
        out / "prediction" / "overview.png",
        out / "prediction" / "overlay.mp4",
    ):
        assert path.stat().st_size > 1000
        assert path.name in shown
    assert "zero flow" in shown
    assert "mean shape" in shown

    scores = json.loads((out / "run" / "evaluation.json").read_text(encoding="utf-8"))
    state = json.loads((out / "run" / "checkpoints" / "last" / "state.json").read_text(encoding="utf-8"))
    assert state["step"] == TINY.steps
    assert not set(scores["people"]) & set(state["train_people"])

    weights = (out / "run" / "checkpoints" / "last" / "weights.safetensors").read_bytes()
    run_demo(DemoConfig(str(out), precision="32"), TINY, real_frames)
    assert capsys.readouterr().out.count("done before") == 5
    assert len(tiny_parts) == 1
    assert (out / "run" / "checkpoints" / "last" / "weights.safetensors").read_bytes() == weights

    with pytest.raises(SettingsError, match="steps: 3 → 4"):
        run_demo(DemoConfig(str(out), precision="32"), replace(TINY, steps=4), real_frames)


@pytest.mark.slow
def test_an_interrupted_training_is_gone_on_with(tmp_path, tiny_parts, real_frames, monkeypatch, capsys):
    out = tmp_path / "demo"
    resumed: list[bool] = []
    real = demo.train

    def interrupted(config):
        resumed.append(config.resume)
        raise TrainingInterrupted(Path(config.run), 1, config.resume_command())

    monkeypatch.setattr(demo, "train", interrupted)
    with pytest.raises(TrainingInterrupted):
        run_demo(DemoConfig(str(out), precision="32"), TINY, real_frames)
    assert "Run the same mol demo again to continue." in capsys.readouterr().out
    monkeypatch.setattr(demo, "train", real)
    run_demo(DemoConfig(str(out), precision="32"), TINY, real_frames)
    assert resumed == [True]
    assert len(tiny_parts) == 1
    assert (out / "prediction" / "predictions.json").exists()


def test_long_has_a_folder_and_a_recipe_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made: list[tuple[str, int]] = []

    def synthesize(path, settings, progress):
        made.append((str(path), settings.clips, settings.seed))
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "synthesize", synthesize)
    for long in (False, True):
        with pytest.raises(KeyboardInterrupt):
            run_demo(DemoConfig(long=long, seed=3), video=Path("talk.mp4"))
    assert made == [("demo/clips", DEMO.synth.clips, 3), ("demo-long/clips", DEMO_LONG.synth.clips, 3)]
    assert DEMO_LONG.steps > DEMO.steps


# Parts


def test_without_the_wheel_of_the_talking_head_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(demo, "_TALKING_HEAD", ("no-such-distribution", "video.mp4"))
    with pytest.raises(MissingExtraError, match=re.escape(install_command("demo"))):
        talking_head()


def test_the_talking_head_is_found_without_importing_its_package(tmp_path, monkeypatch):
    package = tmp_path / "talking"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    (package / "data" / "head.mp4").write_bytes(b"x")
    record = tmp_path / "talking_wheel-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: talking-wheel\nVersion: 1.0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(demo, "_TALKING_HEAD", ("talking-wheel", "talking/data/head.mp4"))
    assert talking_head() == package / "data" / "head.mp4"
