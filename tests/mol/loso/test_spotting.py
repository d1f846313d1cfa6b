"""Leave-one-subject-out of the task spot: long videos of the person held out, parameters from other people."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_fixtures import dlib_detector
from flow_model import LucasKanadeMOL
from tiny_cache import moving_clip
from tiny_model import instead_of_mol

import mol.loso.spot_fold
from mol.common.errors import DataError, SettingsError
from mol.data.cache import CacheSettings, CacheWriter
from mol.data.prepare import PrepareConfig, prepare
from mol.loso.plan import read_plan
from mol.loso.run import LosoResult, loso, run_loso
from mol.loso.settings import LosoConfig
from mol.loso.spot_fold import long_videos
from mol.loso.spot_scores import pool_spotting, read_spotted
from mol.report.report import ReportConfig, run_report
from mol.scoring.expression import Expression
from mol.scoring.spotting import pool_videos, score_video
from mol.synth.long_plan import LongSettings
from mol.synth.long_set import write_long

EMOTIONS = ("happiness", "surprise", "neutral")
# A second and a half with one expression; strong and without noise, because Lucas and Kanade's flow is coarse.
FILMS = LongSettings(
    people=2,
    videos=1,
    minutes=1.5 / 60,
    micro=40,
    macro=0,
    blinks=0,
    pictures=1,
    noise=0,
    amplitude=(2.5, 3.0),
    micro_seconds=(0.2, 0.3),
)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A cache of clips of two people, and the manifest of their long videos."""
    folder = tmp_path_factory.mktemp("material")
    rows: list[dict[str, Any]] = [
        {
            "dataset": "long",
            "subject": subject,
            "clip": f"v{label}",
            "start": 0,
            "interval": 1,
            "label": label,
            "emotion": EMOTIONS[label],
        }
        for subject in ("p01", "p02")
        for label in range(3)
    ]
    with CacheWriter(folder / "cache", CacheSettings("extracted", list(EMOTIONS), {}, {}), rows) as writer:
        for place in writer.pending():
            writer.write(place, *moving_clip(np.random.default_rng(place), (place % 2, 1)))
        writer.finish()
    write_long(folder / "set", FILMS, workers=1, detector=dlib_detector())
    prepare(PrepareConfig("long", str(folder / "set"), str(folder / "manifest")))
    return str(folder / "cache"), str(folder / "manifest")


def settings(material: tuple[str, str], run: Path, **changes: Any) -> LosoConfig:
    cache, manifest = material
    usual = {"steps": 2, "batch_size": 3, "learning_rate": 3e-3, "schedule": "constant", "device": "cpu"}
    values = {"task": "spot", "videos": [manifest], "keep_checkpoints": False, **usual, **changes}
    return LosoConfig(caches=[cache], protocol="as-labelled", run=str(run), **values)


@pytest.fixture(scope="module")
def done(material: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LosoResult]:
    with pytest.MonkeyPatch.context() as patch:
        instead_of_mol(patch, LucasKanadeMOL)
        yield loso(settings(material, tmp_path_factory.mktemp("spot") / "run"))


def test_every_fold_spots_in_the_videos_of_the_person_held_out(done: LosoResult) -> None:
    plan = read_plan(done.run)
    assert [fold.person for fold in plan.folds] == ["long/p01", "long/p02"]
    for fold in plan.folds:
        found = read_spotted(done.run, fold)
        (video,) = found.videos
        assert video.path == f"videos/{fold.subject}_take1.mkv"
        assert [one.kind for one in video.annotated] == ["micro"]
        assert set(video.found) == {"network", "MDMD"}
        assert found.kinds == ["micro"]
        assert all(one.kind == "micro" for way in video.found.values() for one in way)


def test_parameters_are_chosen_on_people_who_are_not_held_out(done: LosoResult) -> None:
    for fold in read_plan(done.run).folds:
        other = {"long/p01": "long/p02", "long/p02": "long/p01"}[fold.person]
        found = read_spotted(done.run, fold)
        assert found.chosen_on["people"] == [other]
        written = json.loads((done.run / fold.folder / "parameters.json").read_text())
        assert {name: written[name] for name in found.parameters} == found.parameters


def test_scores_are_those_of_the_intervals_of_all_folds(done: LosoResult) -> None:
    plan = read_plan(done.run)
    scores = json.loads((done.run / "spotting.json").read_text())
    videos = [video for fold in plan.folds for video in read_spotted(done.run, fold).videos]
    by_hand = pool_videos(score_video(video.annotated, video.found["network"]) for video in videos)
    assert scores["seeds"]["0"]["network"]["micro"]["f1"] == pytest.approx(by_hand.of("micro").f1, abs=1e-6)
    nothing = scores["seeds"]["0"]["nothing"]["micro"]
    assert (nothing["annotated"], nothing["found"], nothing["f1"]) == (2, 0, 0.0)
    assert scores["videos"] == 2
    assert scores["problems"] == {}
    assert pool_spotting(done.run, plan, plan.folds) == scores
    with open(done.run / "expressions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["by"] for row in rows].count("annotated") == 2


def test_the_report_has_a_section_with_the_baselines_beside_it(done: LosoResult, tmp_path: Path) -> None:
    run_report(ReportConfig(runs=[str(done.run)], out=str(tmp_path / "report")))
    page = next((tmp_path / "report").rglob("*.html")).read_text(encoding="utf-8")
    for part in ("<h2>Spotting</h2>", "Spotting in 2 long videos", "MDMD", "nothing"):
        assert part in page
    assert next((tmp_path / "report").rglob("spotting.csv")).read_text().startswith("by,kind,precision")


def test_an_interrupted_fold_goes_on_with_the_next_video(
    material: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of_mol(monkeypatch, LucasKanadeMOL)
    config = settings(material, tmp_path / "run", folds="1")
    watched: list[str] = []
    real = mol.loso.spot_fold.watch_video

    def watch(*arguments: Any) -> Any:
        if len(watched) == 1:
            watched.append("stopped")
            raise KeyboardInterrupt
        watched.append(str(arguments[2].path))
        return real(*arguments)

    monkeypatch.setattr(mol.loso.spot_fold, "watch_video", watch)
    with pytest.raises(KeyboardInterrupt):
        loso(config)
    kept = list((tmp_path / "run").rglob("spotting/*.npz"))
    assert len(kept) == 1
    assert loso(replace(config, resume=True)).done == 1
    assert [Path(path).name for path in watched] == ["p01_take1.mkv", "stopped", "p02_take1.mkv"]
    assert not list((tmp_path / "run").rglob("spotting/*.npz"))


def test_a_video_without_a_face_is_named_and_counts_as_missed(
    material: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from films import write_film

    instead_of_mol(monkeypatch, LucasKanadeMOL)
    root = tmp_path / "set"
    for name in ("p01", "p02"):
        (root / "videos").mkdir(parents=True, exist_ok=True)
        grey = np.full((30, 64, 64), 99, np.uint8)
        write_film(root / f"videos/{name}.mkv", grey, codec="ffv1", pixels="gray")
    head = "subject,video,path,kind,onset,apex,offset,emotion"
    lines = [f"{name},a,videos/{name}.mkv,micro,3,5,9,happiness" for name in ("p01", "p02")]
    (root / "expressions.csv").write_text("\n".join([head, *lines]) + "\n")
    prepare(PrepareConfig("long", str(root), str(tmp_path / "manifest")))
    config = settings(material, tmp_path / "run", videos=[str(tmp_path / "manifest")])
    run_loso(config)
    printed = capsys.readouterr().out
    assert "nothing could be found in long/p01/a: no window of the video has a usable face" in printed
    scores = json.loads((tmp_path / "run/spotting.json").read_text())
    assert scores["seeds"]["0"]["network"]["micro"]["annotated"] == 2


# What cannot work


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"videos": None}, "--task spot needs the long videos: --videos MANIFEST"),
        ({"network": "flow-cnn", "batch_size": None}, "spotted by optical flow"),
        ({"task": "recognise"}, "videos are for spotting; add --task spot"),
        ({"task": "watch"}, "task"),
        ({"spot_people": 0}, "spot_people"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_named(material, tmp_path, changes, message) -> None:
    with pytest.raises(SettingsError, match=message):
        loso(settings(material, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_manifest_without_long_videos_is_refused(material, tmp_path) -> None:
    clips = tmp_path / "clips.csv"
    films = Path(material[1]).parent / "set/videos"
    clips.write_text(f"subject,clip,path,onset,apex,offset,label\np01,a,{films}/p01_take1.mkv,1,2,30,happiness\n")
    prepare(PrepareConfig("generic", str(clips), str(tmp_path / "manifest")))
    with pytest.raises(SettingsError, match="lists no long videos"):
        long_videos(settings(material, tmp_path / "run", videos=[str(tmp_path / "manifest")]))


def test_long_videos_of_other_people_are_refused(material, tmp_path) -> None:
    films = Path(material[1]).parent / "set/videos"
    root = tmp_path / "set"
    root.mkdir()
    head = "subject,video,path,kind,onset,apex,offset,emotion"
    (root / "expressions.csv").write_text(f"{head}\nzoe,a,{films}/p01_take1.mkv,micro,3,5,9,happiness\n")
    prepare(PrepareConfig("long", str(root), str(tmp_path / "manifest")))
    with pytest.raises(SettingsError, match="long/zoe, …, and the clips of long/p01, …: nobody is in both"):
        loso(settings(material, tmp_path / "run", videos=[str(tmp_path / "manifest")]))


def test_a_damaged_result_is_named_with_the_remedy(done: LosoResult, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(done.run, tmp_path / "run")
    plan = read_plan(tmp_path / "run")
    path = tmp_path / "run" / plan.folds[0].folder / "spotting.json"
    path.write_text(path.read_text().replace('"onset"', '"begin"'))
    with pytest.raises(DataError, match=r"spotting\.json.*delete the fold's folder"):
        pool_spotting(tmp_path / "run", plan, plan.folds)


def test_expressions_are_read_back_as_they_were_written(done: LosoResult) -> None:
    fold = read_plan(done.run).folds[0]
    (video,) = read_spotted(done.run, fold).videos
    assert isinstance(video.annotated[0], Expression)
    assert video.annotated[0].emotion in {"happiness", "surprise", "disgust", "repression", "sadness", "others"}
