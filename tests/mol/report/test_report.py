"""`mol report`: the page shows the run's own numbers, says what speaks against them, and needs nothing from outside."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loso_runs import CLASSES, SETS, write_loso_run
from PIL import Image
from tiny_cache import write_tiny_cache
from tiny_model import instead_of_mol

import mol.network.checkpoint
import mol.report.misread
import mol.training.train
from mol.arguments import read_config, spell_out
from mol.common.errors import DataError, MOLError, SettingsError
from mol.loso.latex import escape_latex
from mol.loso.run import loso
from mol.loso.saved_run import LosoRun, read_run
from mol.loso.settings import LosoConfig
from mol.pictures.markup import Markup, element
from mol.report.charts import curve_picture, inline_svg, mean_curve
from mol.report.compare import compare_runs, paired_test
from mol.report.misread import confident_failures, read_again
from mol.report.report import ReportConfig, report
from mol.scoring.calibration import expected_calibration_error

VOID = {"br", "hr", "img", "meta", "path", "use", "rect", "circle", "line", "polyline", "image"}


class Page(HTMLParser):
    """The text, the links and the open elements of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        found = dict(attributes)
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag in ("img", "image"):
            self.images.append(found)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sets, two seeds, all folds done; with its report."""
    path = write_loso_run(tmp_path_factory.mktemp("runs") / "full", seeds=(0, 1))
    report(ReportConfig([str(path)], device="cpu"))
    return path


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page(run / "report" / "report.html")


def report_of(path: Path, **settings: object) -> Page:
    return Page(report(ReportConfig([str(path)], device="cpu", **settings)))  # type: ignore[arg-type]


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_page_loads_nothing_from_outside(page: Page, run: Path):
    assert [link for link in page.links if not link.startswith(("data:", "#"))] == []
    text = (run / "report" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!#)", text)
    assert "script" not in page.tags


def test_page_is_well_formed(page: Page):
    assert page.open == []
    assert page.tags.count("h1") == page.tags.count("main") == 1


def test_every_link_in_the_contents_has_its_section(page: Page, run: Path):
    text = (run / "report" / "report.html").read_text(encoding="utf-8")
    anchors = [link[1:] for link in page.links if link.startswith("#")]
    assert {"scores", "confusion", "confidence", "people", "training", "failures", "settings", "reproduce"} <= set(
        anchors
    )
    assert [anchor for anchor in anchors if f'id="{anchor}"' not in text] == []


@pytest.mark.parametrize("group", ["composite", *SETS])
def test_scores_are_mean_and_deviation_over_seeds_of_the_runs_own(page: Page, run: Path, group: str):
    scores = json.loads((run / "scores.json").read_text())
    for name in ("accuracy", "war", "uar", "wf1", "uf1", "epe_px"):
        assert f"{scores['mean'][group][name]:.3f} ± {scores['sd'][group][name]:.3f}" in page.text


def test_fold_means_are_shown_and_labelled(page: Page, run: Path):
    mean = json.loads((run / "scores.json").read_text())["fold_mean"]["mean"]["composite"]["uf1"]
    after = page.text[page.text.index("mean over folds of each fold’s own scores") :]
    assert f"{mean:.3f}" in after


def test_tables_beside_the_page_hold_the_same_scores(run: Path):
    scores = json.loads((run / "scores.json").read_text())
    rows = {row["set"]: row for row in rows_of(run / "report" / "scores.csv")}
    assert list(rows) == ["composite", *SETS]
    for group, row in rows.items():
        assert float(row["uf1"]) == pytest.approx(scores["mean"][group]["uf1"], abs=1e-6)
        assert float(row["uf1_sd"]) == pytest.approx(scores["sd"][group]["uf1"], abs=1e-6)


def test_confusion_counts_every_vote_once(run: Path):
    votes = rows_of(run / "predictions.csv")
    table = {row["true \\ predicted"]: row for row in rows_of(run / "report" / "confusion-composite.csv")}
    for true in CLASSES:
        for said in CLASSES:
            expected = sum(vote["label"] == true and vote["prediction"] == said for vote in votes)
            assert int(table[true][said]) == expected


# Confidence


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, every fold with a temperature; with its report."""
    path = write_loso_run(tmp_path_factory.mktemp("runs") / "calibrated", seeds=(0, 1), temperature=0.6, videos=8)
    report(ReportConfig([str(path)], device="cpu", pictures=False))
    return path


def votes_in(path: Path, name: str, seed: int) -> tuple[np.ndarray, list[int]]:
    """Probabilities and labels in the tables of all folds of a seed."""
    rows = [row for table in sorted(path.glob(f"folds/seed{seed}/*/{name}")) for row in rows_of(table)]
    shares = np.array([[float(row[f"p_{name}"]) for name in CLASSES] for row in rows])
    return shares, [CLASSES.index(row["label"]) for row in rows]


@pytest.mark.parametrize(
    ("kind", "name"), [("calibrated", "predictions.csv"), ("not calibrated", "predictions-uncalibrated.csv")]
)
def test_confidence_is_scored_over_all_folds_with_and_without_temperature(calibrated: Path, kind: str, name: str):
    expected = [expected_calibration_error(*votes_in(calibrated, name, seed)).expected for seed in (0, 1)]
    rows = rows_of(calibrated / "report" / "calibration.csv")
    (row,) = [row for row in rows if (row["set"], row["probabilities"]) == ("composite", kind)]
    assert float(row["ece"]) == pytest.approx(np.mean(expected), abs=1e-5)
    assert float(row["ece_sd"]) == pytest.approx(np.std(expected, ddof=1), abs=1e-5)
    text = Page(calibrated / "report" / "report.html").text
    assert f"{np.mean(expected):.3f} ± {np.std(expected, ddof=1):.3f}" in text
    bins = [row for row in rows_of(calibrated / "report" / "reliability.csv") if row["probabilities"] == kind]
    votes = len(rows_of(calibrated / "predictions.csv"))
    assert sum(int(one["videos"]) for one in bins) == votes
    for suffix in (".png", ".svg"):
        assert (calibrated / "report" / "pictures" / f"reliability{suffix}").stat().st_size > 1000


def test_the_temperatures_of_the_folds_are_told(calibrated: Path):
    text = Page(calibrated / "report" / "report.html").text
    assert "14 of 14 folds have a temperature: median 0.60" in text
    assert "fitted on 24 videos of people set aside" in text


def test_a_run_without_temperatures_says_how_to_get_them(page: Page, run: Path):
    assert "Not calibrated: train with --inner-validation 0.2." in page.text
    kinds = {row["probabilities"] for row in rows_of(run / "report" / "calibration.csv")}
    assert kinds == {"not calibrated"}


def test_folds_that_lack_a_temperature_are_counted_with_the_reason(tmp_path: Path):
    path = write_loso_run(tmp_path / "run", temperature=1.5)
    facts = path / "folds" / "seed0" / "samm-006" / "fold.json"
    lacking = {"value": None, "note": "only 12 videos", "videos": 12, "clips": 30, "people": 1}
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "calibration": lacking}))
    text = report_of(path, pictures=False).text
    assert "6 of 7 folds have a temperature" in text
    assert "The others are as the softmax gives them: only 12 videos (1 fold)." in text


def test_a_fold_with_a_temperature_needs_its_uncalibrated_votes(tmp_path: Path):
    path = write_loso_run(tmp_path / "run", temperature=1.5) / "folds" / "seed0" / "casme2-sub03"
    table = path / "predictions-uncalibrated.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join([lines[0], *lines[:0:-1]]))
    with pytest.raises(DataError, match=r"predictions-uncalibrated\.csv has other videos than predictions\.csv"):
        read_run(tmp_path / "run")
    table.unlink()
    with pytest.raises(DataError, match=r"predictions-uncalibrated\.csv is missing; delete the folder"):
        read_run(tmp_path / "run")
    facts = json.loads((path / "fold.json").read_text())
    (path / "fold.json").write_text(json.dumps({**facts, "calibration": {"value": -1}}))
    with pytest.raises(DataError, match=r"fold\.json is damaged .the recorded temperature is -1"):
        read_run(tmp_path / "run")


def test_probabilities_that_are_none_are_named(tmp_path: Path):
    path = write_loso_run(tmp_path / "run") / "folds" / "seed0" / "samm-006" / "predictions.csv"
    header, first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, ",".join([*first.split(",")[:-1], "1.5\n"]), *rest]))
    with pytest.raises(DataError, match=r"predictions\.csv, line 2: the probabilities must not be negative"):
        read_run(tmp_path / "run")


def test_people_have_their_right_videos_as_mean_over_seeds(run: Path, page: Page):
    votes = [row for row in rows_of(run / "predictions.csv") if row["subject"] == "sub03"]
    right = sum(vote["label"] == vote["prediction"] for vote in votes) / 2
    (entry,) = (entry for entry in read_run(run).right_by_person()["casme2"] if entry[0] == "sub03")
    assert entry == ("sub03", len(votes) // 2, right)
    assert re.search(rf"sub03 {right:.1f}|sub03 {right:.0f} of {len(votes) // 2}", page.text)


def test_pictures_lie_beside_the_page_as_files(run: Path):
    pictures = {path.name for path in (run / "report" / "pictures").iterdir()}
    assert {"people.png", "confusion-composite.png", "confusion-smic.png", "curve-loss.png"} <= pictures
    assert {"curve-loss.svg", "curve-loss-emotion.svg", "curve-loss-flow.svg", "curve-loss-landmarks.svg"} <= pictures


def test_settings_versions_hardware_and_commands_are_shown(page: Page, run: Path):
    for words in ("learning_rate: 0.0015", "torch 2.10.0", "A GPU · memory, GiB 79.2", "mol loso --protocol megc2019"):
        assert words in page.text
    assert f"mol loso --config {run / 'loso.yaml'} --run {run}-again" in page.text


def test_a_reportable_run_has_no_banner(page: Page):
    assert "Not reportable" not in page.text


def test_a_run_on_the_test_subjects_says_not_reportable_and_why(tmp_path: Path):
    reason = "not reportable: checkpoints were chosen on the test subjects"
    path = write_loso_run(tmp_path / "peek", not_reportable=[reason])
    text = report_of(path).text
    assert "Not reportable checkpoints were chosen on the test subjects" in text
    assert (
        "Not reportable: checkpoints were chosen on the test subjects" in (path / "report" / "scores.tex").read_text()
    )


def test_an_unfinished_run_shows_what_is_there_and_names_what_is_missing(tmp_path: Path):
    text = report_of(write_loso_run(tmp_path / "part", done=5)).text
    assert "incomplete: 5 of 7 folds are done (missing: smic/s1, smic/s2)" in text
    assert "5 of 7 done" in text
    assert "casme2" in text


def test_a_run_without_a_finished_fold_still_has_a_page(tmp_path: Path):
    page = report_of(write_loso_run(tmp_path / "new", done=0))
    assert "No fold is done yet" in page.text
    assert "incomplete: 0 of 7 folds are done" in page.text
    assert page.open == []


def test_the_report_does_not_depend_on_the_tables_of_the_run(tmp_path: Path):
    """Another process may be rewriting them; every number comes from the folds, which are read once."""
    path = write_loso_run(tmp_path / "run", seeds=(0, 1))
    before = report_of(path).text
    earlier = write_loso_run(tmp_path / "earlier", seeds=(0, 1), done=3)
    for name in ("scores.json", "predictions.csv"):
        shutil.copy(earlier / name, path / name)
    for name in ("scores.csv", "scores.tex", "subjects.csv", "confusion-seed0.csv"):
        (path / name).unlink()
    assert "14 of 14 done" in before
    assert report_of(path).text == before
    assert report(ReportConfig([str(path)], device="cpu")).with_name("scores.tex").is_file()


def test_the_run_and_its_report_have_the_same_latex_table(run: Path):
    assert (run / "report" / "scores.tex").read_text() == (run / "scores.tex").read_text()


def test_one_set_is_not_shown_twice_as_composite(tmp_path: Path):
    assert read_run(write_loso_run(tmp_path / "one", sets={"samm": ("006", "007")})).groups == ["samm"]


def test_names_from_the_data_are_text_and_not_markup(tmp_path: Path):
    name = "<script>alert('x')</script>&amp;"
    path = write_loso_run(tmp_path / "odd", sets={"samm": ("006",)}, protocol=name)
    page = report_of(path)
    assert "script" not in page.tags
    assert name in page.text


@given(st.text())
def test_text_of_an_element_comes_out_as_it_went_in(text: str):
    found: list[str] = []
    parser = HTMLParser(convert_charrefs=True)
    parser.handle_data = found.append  # type: ignore[method-assign]
    parser.feed(element("p", text, title=text))
    parser.close()
    assert "".join(found) == text


def test_markup_is_kept_and_absent_attributes_are_left_out():
    assert element("p", Markup("<b>x</b>"), None, id=None, hidden=True) == "<p hidden><b>x</b></p>"


def test_latex_prints_special_characters():
    assert escape_latex(r"a_b & 50 % ± \x") == r"a\_b \& 50 \% $\pm$ \textbackslash{}x"


# Damaged folders


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"is not a run folder of `mol loso`: folds\.json is missing"):
        read_run(tmp_path)


def test_a_run_of_mol_train_is_told_from_one_of_mol_loso(tmp_path: Path):
    (tmp_path / "log.csv").write_text("step\n")
    with pytest.raises(DataError, match="mol evaluate"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("folds.json", "{", r"folds\.json cannot be read as JSON"),
        ("folds.json", "[]", r"folds\.json: its content is an empty list, but must be a set"),
        ("folds.json", '{"format": 2}', "later version of mol"),
        ("folds.json", '{"format": 1, "folds": [{"seed": 0}]}', r"folds\[0\].dataset is missing"),
        ("folds.json", '{"format": 1, "folds": []}', "folds is an empty list, but must be a list of at least 1"),
        ("folds.json", '{"format": 1, "folds": [3]}', r"folds\[0\] is 3, but must be a set of named entries"),
        ("environment.json", "nothing", r"environment\.json cannot be read as JSON"),
        ("environment.json", '{"versions": [1]}', "versions is a list of 1, but must be a set of named entries"),
        ("loso.yaml", "a: [", r"loso\.yaml cannot be read as YAML"),
        ("loso.yaml", "a", 'its content is "a", but must be a set of named entries'),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str, message: str):
    path = write_loso_run(tmp_path / "run")
    (path / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_run(path)
    assert str(path / name) in str(caught.value)


def change_folds(text: str, **changes: object) -> str:
    """folds.json with other entries; None takes an entry out."""
    content = {**json.loads(text), **changes}
    return json.dumps({name: value for name, value in content.items() if value is not None})


@pytest.mark.parametrize("entry", ["protocol", "classes", "datasets", "caches", "seeds", "selection", "notes", "folds"])
def test_a_plan_without_an_entry_is_named(tmp_path: Path, entry: str):
    path = write_loso_run(tmp_path / "run") / "folds.json"
    path.write_text(change_folds(path.read_text(), **{entry: None}))
    with pytest.raises(DataError, match=f": {entry} is missing.*copy the whole run folder again"):
        read_run(path.parent)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",negative,", ",sour,", r"line \d+: the label 'sour' is not one of the classes"),
        (",0.", ",zero.", r"line 2: could not convert"),
        ("samm,006,", "samm,007,", r"line 2 is of samm/007, the fold is of samm/006"),
        ("dataset,subject", "dataset,person", "lacks the column subject"),
    ],
)
def test_a_damaged_table_of_a_fold_is_named_with_its_line(tmp_path: Path, old: str, new: str, message: str):
    run = write_loso_run(tmp_path / "run", sets={"samm": ("007", "005", "003", "006")})
    table = run / "folds" / "seed0" / "samm-006" / "predictions.csv"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=message) as caught:
        read_run(run)
    assert str(table) in str(caught.value)
    assert f"delete the folder {table.parent} and run mol loso with --resume" in str(caught.value)


def test_a_row_cut_short_is_named(tmp_path: Path):
    path = write_loso_run(tmp_path / "run") / "folds" / "seed0" / "samm-006" / "predictions.csv"
    path.write_text(path.read_text().rstrip()[:-20])
    with pytest.raises(DataError, match=r"predictions\.csv, line \d+ has too few values"):
        read_run(tmp_path / "run")


def test_a_fold_whose_files_contradict_each_other_is_named(tmp_path: Path):
    path = write_loso_run(tmp_path / "run") / "folds" / "seed0" / "samm-006" / "predictions.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match=r"predictions\.csv has \d+ videos, fold\.json says \d+"):
        read_run(tmp_path / "run")


@pytest.mark.parametrize("name", ["uf1", "epe_px", "clips"])
def test_a_fold_without_one_of_its_scores_is_named(tmp_path: Path, name: str):
    path = write_loso_run(tmp_path / "run") / "folds" / "seed0" / "samm-006" / "fold.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: None}))
    with pytest.raises(DataError, match=f"fold.json: {name} is null, but must be a (whole )?number"):
        read_run(tmp_path / "run")


def test_a_fold_without_its_table_is_named(tmp_path: Path):
    path = write_loso_run(tmp_path / "run") / "folds" / "seed0" / "samm-006" / "predictions.csv"
    path.unlink()
    with pytest.raises(DataError, match=r"samm-006/predictions\.csv is missing; delete the folder"):
        read_run(tmp_path / "run")


def test_a_missing_log_costs_its_curve_and_is_said(tmp_path: Path):
    path = write_loso_run(tmp_path / "run")
    log = path / "folds" / "seed0" / "samm-006" / "log.csv"
    log.unlink()
    assert f"1 folds have no curve: {log} is missing" in report_of(path).text


# Failures


def test_the_most_confident_wrong_videos_come_first_each_once(run: Path):
    videos = read_run(run).videos
    chosen = [failure.video for failure in confident_failures(videos, 5)]
    confidence = [video.probabilities[video.prediction] for video in chosen]
    assert confidence == sorted(confidence, reverse=True)
    assert len({video.key for video in chosen}) == 5
    assert not any(video.right for video in chosen)
    left_out = [v for v in videos if not v.right and v.key not in {one.key for one in chosen}]
    assert all(video.probabilities[video.prediction] <= confidence[-1] for video in left_out)


def test_without_the_caches_the_page_says_why_there_are_no_pictures(page: Page):
    assert re.search(r"No pictures: \S*cache-\w+ is not a cache folder", page.text)


def test_no_failures_are_shown_where_none_are_wanted(tmp_path: Path):
    text = report_of(write_loso_run(tmp_path / "run"), failures=0).text
    assert "None are shown (--failures 0)" in text


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    write_tiny_cache(folder / "cache", people=3, videos=3, windows=2)
    with pytest.MonkeyPatch.context() as patch:
        instead_of_mol(patch)
        loso(
            LosoConfig(
                caches=[str(folder / "cache")],
                protocol="as-labelled",
                run=str(folder / "run"),
                steps=2,
                batch_size=4,
                log_every=1,
                device="cpu",
            )
        )
    return folder / "run"


@pytest.fixture
def trained(trained_once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A real run of `mol loso` with a tiny network on a tiny cache, which lies beside it."""
    instead_of_mol(monkeypatch)
    return trained_once


def read_failures(run: LosoRun) -> list[mol.report.misread.Failure]:
    import torch

    return read_again(run, confident_failures(run.videos, 4), torch.device("cpu"))


def test_a_real_run_is_reported_with_what_the_network_saw(trained: Path):
    page = report_of(trained)
    assert "Not reportable synthetic clips" in page.text
    assert "No pictures" not in page.text
    kinds = [
        Image.open(io.BytesIO(base64.b64decode((image.get("src") or image["href"] or "").split(",")[1])))
        for image in page.images
    ]
    assert {image.size for image in kinds} == {(128, 128), (160, 160)}
    assert all(image.get("alt") for image in page.images if "src" in image)
    assert list((trained / "report" / "pictures").glob("failure-1-*.png"))


def test_failures_are_shown_with_the_caches_own_frames_flow_and_landmarks(trained: Path):
    run = read_run(trained)
    failures = read_failures(run)
    assert failures
    cache = mol.report.misread.Cache.open(trained.parent / "cache")
    for failure in failures:
        assert failure.seen is not None, failure.reason
        rows = [i for i, row in enumerate(cache.rows) if (row["subject"], row["clip"]) == failure.video.key[1:]]
        crops = [cache.frames[row][:, 8:136, 8:136] for row in rows]
        assert any(np.array_equal(failure.seen.frames, crop) for crop in crops)
        assert failure.seen.flow_ours.shape == (7, 2, 128, 128)
        row = next(row for row, crop in zip(rows, crops, strict=True) if np.array_equal(failure.seen.frames, crop))
        np.testing.assert_allclose(failure.seen.landmarks, cache.landmarks[row][1:] - 8, atol=1e-4)


def test_a_checkpoint_that_was_not_the_one_scored_is_not_shown_as_if(trained: Path, tmp_path: Path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    for path in (run / "folds").rglob("predictions.csv"):
        rows = rows_of(path)
        for row in rows:
            for name in ("happiness", "surprise", "disgust"):
                row[f"p_{name}"] = "1.0" if name == row["prediction"] else "0.0"
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    reasons = {failure.reason for failure in read_failures(read_run(run))}
    assert all("is not the one that was scored" in reason for reason in reasons)


def test_another_cache_in_the_place_of_the_first_is_noticed(trained: Path):
    cache, aside = trained.parent / "cache", trained.parent / "aside"
    cache.rename(aside)
    try:
        write_tiny_cache(cache, people=3, videos=3, windows=2, seed=1)
        reasons = {failure.reason for failure in read_failures(read_run(trained))}
    finally:
        shutil.rmtree(cache)
        aside.rename(cache)
    assert reasons == {f"{cache} holds other clips than when the run was made"}


# Curves


def test_mean_curve_takes_each_curve_within_its_own_steps_only():
    short, long = np.array([[1.0, 4.0], [3.0, 2.0]]), np.array([[1.0, 0.0], [3.0, 0.0], [5.0, 8.0]])
    np.testing.assert_allclose(mean_curve([short, long]), [[1, 2], [3, 1], [5, 8]])


def test_svg_on_the_page_has_the_pages_colours_and_names_of_its_own(tmp_path: Path):
    generator = np.random.default_rng(0)
    curves = [[(step, float(generator.uniform(1, 2))) for step in range(300)] for _ in range(3)]
    curve_picture([tmp_path / "a.svg"], curves, "Loss")
    svg = inline_svg(tmp_path / "a.svg", 'a "loss" < 1', "a-")
    assert svg.startswith('<svg class="chart" viewBox=')
    assert 'aria-label="a &quot;loss&quot; &lt; 1"' in svg
    assert "#1b2530" not in svg
    assert "var(--ink)" in svg
    names = re.findall(r'\bid="([^"]+)"', svg)
    assert names
    assert all(name.startswith("a-") for name in names)
    assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= set(names)


# Several runs


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("compared")
    return [
        write_loso_run(folder / "all", seeds=(0, 1)),
        write_loso_run(folder / "no_flow", seeds=(0, 1), skill=0.2, number=1, settings={"loss": {"w_of": 0.0}}),
    ]


def test_comparison_shows_scores_and_differences_to_the_first_run(others: list[Path], tmp_path: Path):
    path = report(ReportConfig([str(one) for one in others], out=str(tmp_path / "out")))
    text = Page(path).text
    first, second = (json.loads((one / "scores.json").read_text())["mean"]["composite"]["uf1"] for one in others)
    assert f"{second:.3f}" in text
    assert f"▼ −{first - second:.3f}" in text
    row = next(
        r for r in rows_of(tmp_path / "out" / "comparison.csv") if (r["run"], r["set"]) == ("no_flow", "composite")
    )
    assert float(row["uf1_difference"]) == pytest.approx(second - first, abs=1e-6)
    latex = (tmp_path / "out" / "comparison.tex").read_text()
    assert r"no\_flow" in latex
    assert "epe" not in latex
    assert latex.count(r"\begin{table}") == 4


def test_comparison_lists_only_the_settings_that_differ(others: list[Path]):
    usual = read_run(others[0]).settings["loss"]
    settings = compare_runs([read_run(one) for one in others]).settings
    assert settings == {f"loss.{name}": [weight, None] for name, weight in usual.items() if weight} | {
        "loss.w_of": [usual["w_of"], 0.0]
    }


def test_paired_test_is_mcnemars_exact_one_on_the_mean_votes(others: list[Path]):
    first, other = (read_run(one) for one in others)
    right = []
    for run in (first, other):
        votes: dict[tuple[str, str, str], list[np.ndarray]] = {}
        for video in run.videos:
            votes.setdefault(video.key, []).append(video.probabilities)
        labels = {video.key: video.label for video in run.videos}
        right.append({key: np.mean(found, axis=0).argmax() == labels[key] for key, found in votes.items()})
    only_first = sum(right[0][key] and not right[1][key] for key in right[0])
    only_other = sum(right[1][key] and not right[0][key] for key in right[0])
    discordant = only_first + only_other
    tail = sum(math.comb(discordant, k) for k in range(min(only_first, only_other) + 1))
    test = paired_test(first, other)
    assert (test.only_first, test.only_other) == (only_first, only_other)
    assert test.videos == test.both_right + test.both_wrong + discordant == len(right[0])
    assert test.p_value == pytest.approx(min(1.0, 2 * tail / 2**discordant))


def test_a_run_has_no_p_value_against_one_that_answers_the_same(tmp_path: Path):
    runs = [read_run(write_loso_run(tmp_path / name)) for name in ("a", "b")]
    assert paired_test(*runs).p_value is None


def test_runs_are_paired_on_the_videos_that_both_tested(tmp_path: Path):
    whole, part = write_loso_run(tmp_path / "whole"), write_loso_run(tmp_path / "part", done=3, number=1)
    test = paired_test(read_run(whole), read_run(part))
    assert test.videos == len(read_run(part).videos) < len(read_run(whole).videos)


def test_runs_of_different_protocols_are_not_compared(tmp_path: Path):
    one = write_loso_run(tmp_path / "one")
    two = write_loso_run(tmp_path / "two", protocol="samm-5", classes=("anger", "others"))
    with pytest.raises(SettingsError, match=r"one \(protocol megc2019.*two \(protocol samm-5: anger, others\)"):
        compare_runs([read_run(one), read_run(two)])


def test_runs_on_different_sets_are_compared_set_by_set(tmp_path: Path):
    one = write_loso_run(tmp_path / "one")
    two = write_loso_run(tmp_path / "two", sets={name: SETS[name] for name in ("casme2", "samm")})
    assert compare_runs([read_run(one), read_run(two)]).groups == ["casme2", "samm"]


def test_runs_without_a_common_set_are_not_compared(tmp_path: Path):
    one = write_loso_run(tmp_path / "one", sets={"samm": SETS["samm"]})
    two = write_loso_run(tmp_path / "two", sets={"smic": SETS["smic"]})
    with pytest.raises(SettingsError, match="share no data set"):
        compare_runs([read_run(one), read_run(two)])


def test_a_run_cannot_be_compared_with_itself_or_before_it_has_results(tmp_path: Path):
    whole, new = write_loso_run(tmp_path / "whole"), write_loso_run(tmp_path / "new", done=0)
    with pytest.raises(SettingsError, match="given twice"):
        compare_runs([read_run(whole), read_run(whole)])
    with pytest.raises(SettingsError, match="no finished fold"):
        compare_runs([read_run(whole), read_run(new)])


def test_runs_with_one_name_are_told_apart_by_their_path(tmp_path: Path):
    paths = [write_loso_run(tmp_path / name / "loso", number=index) for index, name in enumerate("ab")]
    assert compare_runs([read_run(path) for path in paths]).names == [str(path) for path in paths]


# Settings


@pytest.mark.parametrize(
    ("settings", "message"), [({"runs": []}, "no run"), ({"runs": ["a"], "failures": -1}, "negative")]
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], message: str):
    with pytest.raises(SettingsError, match=message):
        ReportConfig(**settings)  # type: ignore[arg-type]


def test_runs_are_given_without_their_option():
    spelled = spell_out(ReportConfig, ("runs",), ["runs/a", "runs/b", "--failures", "3"])
    config = read_config(ReportConfig, spelled, "mol report")
    assert (config.runs, config.failures) == (["runs/a", "runs/b"], 3)


def test_errors_of_a_report_are_of_the_projects_own(tmp_path: Path):
    with pytest.raises(MOLError):
        report(ReportConfig([str(tmp_path / "nowhere")]))
