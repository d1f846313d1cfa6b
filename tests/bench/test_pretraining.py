"""What starting weights give: which people are left for them, the table, and the whole way on a few clips."""

import json

import pytest

from bench import pretraining, report


def saved(tmp_path, **changes):
    def seeds(values):
        return {str(seed): {"uf1": value, "uar": value, "accuracy": value} for seed, value in enumerate(values)}

    found = {
        "settings": {"network": "mol", "seeds": [0, 1], "steps": 300, "batch_size": 32},
        "folds": {"done": 4, "total": 48},
        "runs": {
            "random": {"seeds": seeds([0.30, 0.40]), "not_reportable": []},
            "pretrained": {"seeds": seeds([0.50, 0.60]), "not_reportable": []},
        },
        "test": {"videos": 20, "only_first": 1, "only_other": 9, "p_value": 0.0215},
    }
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"format": 2, "machine": {}, "pretraining": {**found, **changes}}))
    return path


def test_a_saved_measurement_becomes_a_table(tmp_path, capsys):
    assert pretraining.main(["--report", str(saved(tmp_path))]) == 0
    text = capsys.readouterr().out
    assert "| random weights | 0.350 ± 0.071 |" in text
    assert "| mol pretrain | 0.550 ± 0.071 |" in text
    assert "4 of 48 folds, 300 steps of 32 clips each, seeds [0, 1]" in text
    assert "right with mol pretrain only 9, with random weights only 1; McNemar's exact test: p = 0.0215" in text


def test_the_report_of_all_results_prints_the_same_table_and_fills_no_page(tmp_path, capsys):
    path = saved(tmp_path)
    pretraining.main(["--report", str(path)])
    table = capsys.readouterr().out
    assert report.main([str(path)]) == 0
    assert capsys.readouterr().out == table
    page = tmp_path / "page.md"
    page.write_text("text\n")
    assert report.main([str(path), "--page", str(page)]) == 2
    assert "has no block on a page" in capsys.readouterr().err
    assert page.read_text() == "text\n"


def test_a_table_says_that_the_emotion_was_trained_alone(tmp_path, capsys):
    settings = {"network": "mol", "seeds": [0], "steps": 50, "batch_size": 32, "flow_pairs": 0, "landmark_weight": 0}
    assert pretraining.main(["--report", str(saved(tmp_path, settings=settings))]) == 0
    assert "50 steps of 32 clips each (the emotion alone), seeds [0]" in capsys.readouterr().out


def test_a_file_of_another_kind_is_refused(tmp_path, capsys):
    path = tmp_path / "run.json"
    path.write_text('{"format": 2, "rows": []}')
    assert pretraining.main(["--report", str(path)]) == 2
    assert "not a file of bench.pretraining; print it with: python -m bench.report" in capsys.readouterr().err


def test_nobody_of_the_data_set_lends_the_face_to_the_starting_weights():
    strangers = pretraining.strangers()
    assert strangers == [f"orl-s{person}" for person in range(27, 41)]
    used = {f"orl-s{clip.person:02d}" for clip in pretraining.plan_layout(pretraining.DATASET).clips}
    assert not used & set(strangers)


@pytest.mark.slow
def test_the_whole_way_on_a_few_clips_goes_on_where_it_was_stopped(tmp_path, capsys):
    arguments = ["--people", "3", "--clips", "6", "--few-clips", "--network", "apex-difference", "--steps", "2"]
    arguments += ["--batch-size", "4", "--pretrain-steps", "2", "--seeds", "0", "--device", "cpu"]
    arguments += ["--work", str(tmp_path / "work"), "--folder", str(tmp_path / "results")]
    assert pretraining.main([*arguments, "--folds", "1"]) == 0
    assert "1 of 3 folds, 2 steps of 4 clips each" in capsys.readouterr().out
    weights = tmp_path / "work/pretrain/apex-difference.safetensors"
    before = weights.stat().st_mtime_ns
    assert pretraining.main([*arguments, "--folds", "1-2"]) == 0
    assert "2 of 3 folds" in capsys.readouterr().out
    assert weights.stat().st_mtime_ns == before
    (path,) = tmp_path.glob("results/*/*-pretraining.json")
    found = json.loads(path.read_text())["pretraining"]
    assert found["starting_weights"]["people"] == [f"synthetic/{person}" for person in pretraining.strangers()]
    assert len(found["starting_weights"]["fingerprint"]) == 64
    assert found["runs"]["pretrained"]["seeds"]["0"]["videos"] == 2
