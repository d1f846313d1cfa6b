"""Saved results as tables, pictures and the README's text, on made-up results."""

import copy
import json
import re

import numpy as np
import pytest
from places import ROOT

from bench import plots, report
from bench.timing import paired_ratio, quantiles
from mol.common.errors import SettingsError

SECONDS = {"published-loop": 0.2, "cpu": 0.01, "reference": 0.03, "compiled-reference": 0.02}
OPERATOR = {"maps": 14, "channels": 128, "side": 16, "threads": 2}


def row(rng, subject, task, sizes, contender, dtype="float32", sweep=None, factor=1.0):
    durations = list(factor * SECONDS[contender] * np.exp(0.02 * rng.standard_normal(5)))
    return {
        "group": f"{subject} of a test, {task}", "subject": subject, "task": task, "sizes": sizes, "sweep": sweep,
        "contender": contender, "dtype": dtype, "shape": "14×128×16×16", "error": 1e-6, "tolerance": 2e-5,
        "flops": 1e9 * factor, "bytes": 4e6 * factor, "seconds": list(quantiles(durations)), "rounds": 5,
        "share_of_limit": 0.82, "bound": "arithmetic", "speedup_over": {}, "durations": durations,
        "peak_bytes": None if subject == "mol" else 5 * 2**20,
    }  # fmt: skip


def with_speedups(rows):
    for own in rows:
        own["speedup_over"] = {
            other["contender"]: paired_ratio(other["durations"], own["durations"])
            for other in rows
            if other["dtype"] == "float32"
            and other is not own
            and report.timed_together(other) == report.timed_together(own)
        }
    return rows


@pytest.fixture
def result():
    """F5C in both directions with a sweep over maps, and the network forward, on a processor without bfloat16."""
    rng = np.random.default_rng(0)
    rows = [row(rng, "f5c", task, OPERATOR, name) for task in ("forward", "forward-backward") for name in SECONDS]
    rows.append(row(rng, "f5c", "forward", OPERATOR, "cpu", "bfloat16", factor=1.1))
    names = ("published-loop", "cpu", "reference")
    rows += [row(rng, "mol", "forward", {"batch": 2, "threads": 2}, name, factor=100) for name in names]
    rows += [row(rng, "f5c", "forward", {**OPERATOR, "maps": maps}, name, sweep="maps", factor=maps / 14)
             for maps in (1, 56) for name in SECONDS]  # fmt: skip
    machine = {
        "device": "A CPU, 2 threads", "threads": 2, "platform": "Linux", "python": "3.11.7", "torch": "2.13.0",
        "cpu_capability": "AVX2", "date": "2026-01-02T03:04:05+00:00", "commit": "abc",
    }  # fmt: skip
    memory = [{"contender": name, "dtype": "float32", "batch": 2, "peak_bytes": 2**30, "imports_bytes": 2**28}
              for name in names]  # fmt: skip
    return {
        "format": 2, "machine": machine, "rows": with_speedups(rows), "memory": memory,
        "limits": {"copy": {"bytes_per_second": 2e10}, "gemm": {"float32": 1e11, "bfloat16": 2e11}},
        "left_out": [{"contender": "spatial-correlation-sampler", "subject": "cost-volume", "reason": "not installed"}],
    }  # fmt: skip


def table_under(text, heading):
    """The lines of the table below the first line that begins with `heading`."""
    block = re.search(rf"^{re.escape(heading)}.*\n\n((?:\|.*\n?)+)", text, re.MULTILINE).group(1)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]


def test_a_group_has_a_line_for_each_contender_with_its_ratios_limit_and_peak(result):
    titles, _, *lines = table_under(report.markdown(result), "**f5c of a test, forward**")
    assert [line[:2] for line in lines] == [[name, "float32"] for name in SECONDS] + [["cpu", "bfloat16"]]
    ours = dict(zip(titles, lines[1], strict=True))
    fast = next(row for row in result["rows"] if row["contender"] == "cpu")
    assert float(ours["× published-loop"]) == pytest.approx(fast["speedup_over"]["published-loop"][1], abs=0.005)
    assert ours["of limit"] == "82 % of arithmetic"
    assert ours["peak MiB"] == "5.0"


def test_a_row_that_failed_its_check_says_so_in_a_full_line(result):
    result["rows"][0] |= {"seconds": None, "share_of_limit": None, "bound": None, "peak_bytes": None, "error": 0.5}
    titles, _, first, *_ = table_under(report.markdown(result), "**f5c of a test, forward**")
    assert len(first) == len(titles)
    assert first[2] == "not timed"
    assert first[-1] == "5e-01, over 2e-05"


def test_a_sweep_has_a_line_for_each_size_the_standard_point_among_them(result):
    titles, _, *lines = table_under(report.markdown(result), "**F5C, forward, over maps**")
    assert titles == ["maps", *SECONDS, "cpu, bfloat16"]
    assert [line[0] for line in lines] == ["1", "14", "56"]
    assert all(line[1:5] != [""] * 4 for line in lines)
    assert [line[5] != "" for line in lines] == [False, True, False]


def test_memory_and_what_was_left_out_are_listed(result):
    text = report.markdown(result)
    assert "| cpu | float32 | 2 | 1024 | 768 |" in text
    assert "- spatial-correlation-sampler, cost-volume: not installed" in text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [('{"format": 1}', "format 1.*pytest bench/ --save-results"), ("[]", "format None"), ("{", "cannot be read")],
)
def test_other_formats_are_refused_with_the_way_out(tmp_path, capsys, text, complaint):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match=complaint):
        report.load(path)
    assert report.main([str(path)]) == 2
    assert re.search(complaint, capsys.readouterr().err)


def test_a_saved_result_is_found_again_and_several_make_a_section_each(result, tmp_path, capsys):
    first = report.save(result, tmp_path)
    assert first == tmp_path / "a-cpu-2-threads" / "2026-01-02-abc.json"
    result["machine"]["commit"] = "def"
    assert report.main([str(first), str(report.save(result, tmp_path))]) == 0
    assert capsys.readouterr().out.count("## A CPU, 2 threads, 2026-01-02") == 2


def test_three_significant_digits():
    assert [report.digits(x) for x in (0.01234, 8.571, 42.0, 999.6, 12345.0)] == [
        "0.0123",
        "8.57",
        "42.0",
        "1000",
        "12345",
    ]
    assert [report.duration(x) for x in (0.0009, 0.042, 0.9996, 14.591)] == ["0.900 ms", "42.0 ms", "1.00 s", "14.6 s"]
    assert [report.times(x) for x in (0.987, 9.99, 9.996, 17.4)] == ["0.99×", "9.99×", "10×", "17×"]


def readme_rows(result):
    block = report.readme_block(result, "r.json")
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if line.startswith("|")
    ]
    return cells[0], {line[0]: line[1:] for line in cells[2:]}


def test_the_readme_shows_the_baselines_with_ratios_and_ours_in_bold(result):
    titles, rows = readme_rows(result)
    assert titles == ["", "`cpu`", "`torch.compile` of the reference", "`reference`", "published loop", "of the limit"]
    assert list(rows) == ["F5C, forward", "F5C, forward and backward", "MOL released, forward, batch 2"]
    ours, compiled, plain, loop, share = rows["F5C, forward"]
    assert re.fullmatch(r"\*\*[\d.]+ ms\*\*", ours)
    assert re.fullmatch(r"[\d.]+ ms, [12]\.\d\d×", compiled)
    assert re.fullmatch(r"[\d.]+ ms, [23]\.\d\d×", plain)
    assert re.fullmatch(r"\d+ ms, (19|20|21)×", loop)
    assert share == "82 %"
    assert rows["MOL released, forward, batch 2"][1] == ""


def test_the_readme_has_a_row_in_bfloat16_only_beside_a_baseline_in_bfloat16(result):
    rng = np.random.default_rng(1)
    result["rows"].append(row(rng, "f5c", "forward", OPERATOR, "reference", "bfloat16"))
    rows = readme_rows(result)[1]
    assert rows["F5C, forward, bfloat16"][1] == rows["F5C, forward, bfloat16"][3] == ""
    assert re.fullmatch(r"[\d.]+ ms, 2\.\d\d×", rows["F5C, forward, bfloat16"][2])
    assert "F5C, forward and backward, bfloat16" not in rows


def test_the_readme_holds_the_network_in_bfloat16_against_the_published_loop_in_float32(result):
    assert "in bfloat16 against" not in report.readme_block(result, "r.json")
    rng = np.random.default_rng(1)
    mol = next(found for found in result["rows"] if found["subject"] == "mol" and found["contender"] == "cpu")
    result["rows"].append(row(rng, "mol", mol["task"], mol["sizes"], "cpu", "bfloat16"))
    text = " ".join(report.readme_block(result, "r.json").split())
    assert re.search(r"MOL in bfloat16 against the published loop in float32: forward, batch 2: \d+×\.", text)


def test_a_second_of_video_is_named_as_such():
    second = {"subject": "mol", "task": "prediction", "sizes": {"batch": 5, "threads": 2}}
    assert report.label(second) == "MOL released, prediction, 1 s of video"


def test_a_measured_protocol_is_printed_among_the_results_and_is_no_run(result, tmp_path, capsys):
    protocol = {"folds": 28, "steps": 1000, "batch": 32, "dataset": "samm"}
    durations = {"published-loop-float32": {"32": [6.0] * 50}, "cpu-float32": {"32": [1.0] * 50}}
    about = {key: result[key] for key in ("format", "machine", "limits")}
    path = tmp_path / "x-loso.json"
    path.write_text(json.dumps({**about, "loso": {"protocol": protocol, "draft": False, "durations": durations}}))
    assert report.main([str(path)]) == 0
    assert "7.78 h" in capsys.readouterr().out  # 28 000 steps of a second
    with pytest.raises(SettingsError, match="no run of `pytest bench/`"):
        report.load(path)


def test_bold_goes_to_a_baseline_that_is_faster(result):
    loop = next(row for row in result["rows"] if row["contender"] == "published-loop")
    loop["durations"] = [0.001 for _ in loop["durations"]]
    loop["seconds"] = [0.001] * 3
    rows = readme_rows(result)[1]
    assert "**" not in rows["F5C, forward"][0]
    assert re.fullmatch(r"\*\*1\.00 ms\*\*, 0\.\d\d×", rows["F5C, forward"][3])


def test_the_fastest_of_several_backends_is_named_in_its_row(result):
    quick = copy.deepcopy(next(row for row in result["rows"] if row["contender"] == "cpu"))
    quick["contender"] = "triton"
    quick["seconds"] = [seconds / 2 for seconds in quick["seconds"]]
    result["rows"].append(quick)
    titles, rows = readme_rows(result)
    assert titles[1] == "`molkernels`"
    assert rows["F5C, forward"][0].endswith("(`triton`)")
    assert rows["F5C, forward and backward"][0].endswith("(`cpu`)")


def test_the_readme_says_what_was_measured_where(result):
    text = " ".join(report.readme_block(result, "bench/r.json").split())
    for part in ("A CPU, 2 threads", "AVX2", "PyTorch 2.13.0", "2026-01-02", "F5C, MOL released on 14×128×16×16",
                 "copy 20.0 GB/s, GEMM float32 100 GFLOP/s, GEMM bfloat16 200 GFLOP/s",
                 "batch 2: `published-loop` 768 MiB, `cpu` 768 MiB", "[bench/r.json](bench/r.json)"):  # fmt: skip
        assert part in text


def test_no_readme_text_is_made_of_a_run_in_which_our_backends_failed(result):
    for row in result["rows"]:
        if row["contender"] == "cpu" and row["subject"] == "mol":
            row["seconds"] = None
    with pytest.raises(SettingsError, match="MOL released, forward, batch 2; mend"):
        report.readme_block(result, "r.json")


def test_the_text_between_the_markers_is_replaced_and_nothing_else(result, tmp_path):
    readme = tmp_path / "README.md"
    path = report.save(result, tmp_path / "results")
    readme.write_text("before\n<!-- bench: old.json -->\nold \\1\n<!-- /bench -->\nafter\n")
    for _ in range(2):
        assert report.main([str(path), "--readme", str(readme)]) == 0
        name = "results/a-cpu-2-threads/2026-01-02-abc.json"
        block = report.readme_block(result, name)
        assert readme.read_text() == f"before\n<!-- bench: {name} -->\n{block}<!-- /bench -->\nafter\n"


def test_a_readme_without_markers_is_left_alone_and_the_error_holds_the_lines(result, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("text\n")
    path = report.save(result, tmp_path)
    assert report.main([str(path), "--readme", str(readme)]) == 2
    assert "<!-- bench: a-cpu-2-threads/2026-01-02-abc.json -->\n<!-- /bench -->" in capsys.readouterr().err
    assert readme.read_text() == "text\n"


@pytest.mark.parametrize("kind", ["bench", "loso"])
def test_the_readme_holds_what_is_generated_from_the_committed_result(kind):
    found = report.MARKERS[kind].search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found, f"README.md has no {kind} markers: see python -m bench.report RESULT.json --readme README.md"
    path, text = found.groups()
    assert text == report.generated(report.read(ROOT / path), path)


def test_pictures_are_drawn_in_both_formats_and_the_same_again(result, tmp_path):
    first, second = plots.draw(result, tmp_path / "a"), plots.draw(json.loads(json.dumps(result)), tmp_path / "b")
    names = ["speedup", "roofline", "scaling", "memory"]
    assert [path.name for path in first] == [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert one.stat().st_size > 5000
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert first[1].read_bytes().startswith(b"<?xml")


def test_pictures_without_rows_are_not_drawn(result, tmp_path):
    result["rows"] = [row | {"peak_bytes": None} for row in result["rows"] if row["sweep"] is None]
    result["memory"] = []
    assert [path.name for path in plots.draw(result, tmp_path) if path.suffix == ".png"] == [
        "speedup.png",
        "roofline.png",
    ]


def test_the_ideal_grows_with_the_work_and_shrinks_with_the_threads(result):
    first = result["rows"][1]
    double = first | {"flops": 2 * first["flops"], "sizes": {**first["sizes"], "threads": 8}}
    assert plots.ideal_ms(first, double) == pytest.approx(1e3 * first["seconds"][1] / 2)
