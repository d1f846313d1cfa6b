"""Saved results as tables and as the generated blocks of pages, on made-up results."""

import copy
import json
import re

import numpy as np
import pytest
from bench_results import OPERATOR, SECONDS, timed_row, whole_result
from places import ROOT

from bench import record, report
from mol.common.errors import SettingsError


@pytest.fixture
def result():
    return whole_result()


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


def test_several_results_make_a_section_each(result, tmp_path, capsys):
    first = record.save(result, tmp_path)
    result["machine"]["commit"] = "def"
    assert report.main([str(first), str(record.save(result, tmp_path))]) == 0
    assert capsys.readouterr().out.count("## A CPU, 2 threads, 2026-01-02") == 2


def block_rows(result, block=report.full_block):
    text = block(result, "r.json")
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return cells[0], {line[0]: line[1:] for line in cells[2:]}


def test_the_full_table_shows_the_baselines_with_ratios_and_ours_in_bold(result):
    titles, rows = block_rows(result)
    assert titles == ["", "`cpu`", "`torch.compile` of the reference", "`reference`", "published loop", "of the limit"]
    assert list(rows) == ["F5C, forward", "F5C, forward and backward", "MOL released, forward, batch 2"]
    ours, compiled, plain, loop, share = rows["F5C, forward"]
    assert re.fullmatch(r"\*\*[\d.]+ ms\*\*", ours)
    assert re.fullmatch(r"[\d.]+ ms, [12]\.\d\d×", compiled)
    assert re.fullmatch(r"[\d.]+ ms, [23]\.\d\d×", plain)
    assert re.fullmatch(r"\d+ ms, (19|20|21)×", loop)
    assert share == "82 %"
    assert rows["MOL released, forward, batch 2"][1] == ""


def add_idiomatic(result, factor, differs=0.0125):
    """The idiomatic form, `factor` times as slow as the compiled reference."""
    for row in [row for row in result["rows"] if row["contender"] == "compiled-reference"]:
        times = {key: [factor * seconds for seconds in row[key]] for key in ("seconds", "durations")}
        result["rows"].append({**row, **times, "contender": "compiled-idiomatic", "graph_differs": differs})


@pytest.mark.parametrize(("factor", "cell"), [(0.6, r"1[12]\.\d ms \(idiomatic\), 1\.[12]\d×"),
                                              (1.5, r"[12]\d\.\d ms \(reference\), [12]\.\d\d×")])  # fmt: skip
@pytest.mark.parametrize("block", [report.full_block, report.short_block])
def test_the_ratio_is_to_the_faster_of_the_compiled_forms_which_is_named(result, block, factor, cell):
    add_idiomatic(result, factor)
    titles, rows = block_rows(result, block)
    assert titles == ["", "`cpu`", "`torch.compile`, the faster form", "`reference`", "published loop", "of the limit"]
    assert re.fullmatch(cell, rows["F5C, forward"][1]), rows["F5C, forward"]
    assert rows["MOL released, forward, batch 2"][1] == ""
    text = " ".join(block(result, "r.json").split())
    assert "`torch.compile` had two forms of each operator, and its column names the faster" in text


def test_an_idiomatic_form_that_is_faster_than_ours_is_bold(result):
    add_idiomatic(result, 0.1)
    ours, compiled, *_ = block_rows(result)[1]["F5C, forward"]
    assert "**" not in ours
    assert re.fullmatch(r"\*\*[\d.]+ ms\*\* \(idiomatic\), 0\.\d\d×", compiled)


def test_a_result_without_the_idiomatic_form_reads_as_it_did(result):
    text = report.full_block(result, "r.json")
    assert "idiomatic" not in text
    assert "(reference)" not in text


def test_the_share_of_other_neighbours_is_said_below_the_tables(result):
    add_idiomatic(result, 1.5)
    assert "Neighbours that are not the exact graph's: F5C, forward: 1.2 %." in report.markdown(result)
    text = " ".join(report.full_block(result, "r.json").split())
    assert "Neighbours of the idiomatic form that are not the exact graph's: F5C, forward: 1.2 %." in text


def test_the_full_table_has_a_row_in_bfloat16_only_beside_a_baseline_in_bfloat16(result):
    rng = np.random.default_rng(1)
    result["rows"].append(timed_row(rng, "f5c", "forward", OPERATOR, "reference", "bfloat16"))
    rows = block_rows(result)[1]
    assert rows["F5C, forward, bfloat16"][1] == rows["F5C, forward, bfloat16"][3] == ""
    assert re.fullmatch(r"[\d.]+ ms, 2\.\d\d×", rows["F5C, forward, bfloat16"][2])
    assert "F5C, forward and backward, bfloat16" not in rows


def test_a_block_holds_the_network_in_bfloat16_against_the_published_loop_in_float32(result):
    assert "over MOL in bfloat16" not in report.full_block(result, "r.json")
    rng = np.random.default_rng(1)
    mol = next(found for found in result["rows"] if found["subject"] == "mol" and found["contender"] == "cpu")
    result["rows"].append(timed_row(rng, "mol", mol["task"], mol["sizes"], "cpu", "bfloat16"))
    text = " ".join(report.full_block(result, "r.json").split())
    assert re.search(r"The published loop in float32 over MOL in bfloat16: forward, batch 2, \d+×\.", text)


def test_a_measured_protocol_is_printed_among_the_results_and_is_no_run(result, tmp_path, capsys):
    protocol = {"folds": 28, "steps": 1000, "batch": 32, "dataset": "samm"}
    durations = {"published-loop-float32": {"32": [6.0] * 50}, "cpu-float32": {"32": [1.0] * 50}}
    about = {key: result[key] for key in ("format", "machine", "limits")}
    path = tmp_path / "x-loso.json"
    path.write_text(json.dumps({**about, "loso": {"protocol": protocol, "draft": False, "durations": durations}}))
    assert report.main([str(path)]) == 0
    assert "7.78 hours" in capsys.readouterr().out  # 28 000 steps of a second
    with pytest.raises(SettingsError, match="is not a result of `pytest bench/`"):
        record.load(path)


def test_bold_goes_to_a_baseline_that_is_faster(result):
    loop = next(row for row in result["rows"] if row["contender"] == "published-loop")
    loop["durations"] = [0.001 for _ in loop["durations"]]
    loop["seconds"] = [0.001] * 3
    rows = block_rows(result)[1]
    assert "**" not in rows["F5C, forward"][0]
    assert re.fullmatch(r"\*\*1\.00 ms\*\*, 0\.\d\d×", rows["F5C, forward"][3])


def test_the_fastest_of_several_backends_is_named_in_its_row(result):
    quick = copy.deepcopy(next(row for row in result["rows"] if row["contender"] == "cpu"))
    quick["contender"] = "triton"
    quick["seconds"] = [seconds / 2 for seconds in quick["seconds"]]
    result["rows"].append(quick)
    titles, rows = block_rows(result)
    assert titles[1] == "`molkernels`"
    assert rows["F5C, forward"][0].endswith("(`triton`)")
    assert rows["F5C, forward and backward"][0].endswith("(`cpu`)")


def test_a_block_says_what_was_measured_where(result):
    text = " ".join(report.full_block(result, "bench/r.json").split())
    for part in ("A CPU, 2 threads", "AVX2", "PyTorch 2.13.0", "2026-01-02", "F5C, MOL released on 14×128×16×16",
                 "copy 20.0 GB/s, GEMM float32 100 GFLOP/s, GEMM bfloat16 200 GFLOP/s",
                 "batch 2, above the imports: `published-loop` 768 MiB, `cpu` 768 MiB",
                 "[bench/r.json](bench/r.json)"):  # fmt: skip
        assert part in text


def test_no_block_is_made_of_a_run_in_which_our_backends_failed(result):
    for row in result["rows"]:
        if row["contender"] == "cpu" and row["subject"] == "mol":
            row["seconds"] = None
    with pytest.raises(SettingsError, match="MOL released, forward, batch 2; fix"):
        report.full_block(result, "r.json")


@pytest.mark.parametrize(("kind", "generate"), [("bench", report.short_block), ("bench-full", report.full_block)])
def test_the_text_between_the_markers_is_replaced_and_nothing_else(result, tmp_path, kind, generate):
    page = tmp_path / "README.md"
    path = record.save(result, tmp_path / "results")
    page.write_text(f"before\n<!-- {kind}: old.json -->\nold \\1\n<!-- /{kind} -->\nafter\n")
    for option in ("--page", "--readme"):
        assert report.main([str(path), option, str(page)]) == 0
        name = "results/a-cpu-2-threads/2026-01-02-abc.json"
        block = generate(result, name)
        assert page.read_text() == f"before\n<!-- {kind}: {name} -->\n{block}<!-- /{kind} -->\nafter\n"


def test_a_page_without_markers_is_left_alone_and_the_error_holds_the_lines(result, tmp_path, capsys):
    page = tmp_path / "README.md"
    page.write_text("text\n")
    path = record.save(result, tmp_path)
    assert report.main([str(path), "--page", str(page)]) == 2
    assert "<!-- bench: a-cpu-2-threads/2026-01-02-abc.json -->\n<!-- /bench -->" in capsys.readouterr().err
    assert page.read_text() == "text\n"


def test_the_short_table_has_the_rows_of_its_constant_in_its_order():
    """Of a result that has them all, the one that the README shows."""
    page = ROOT / "README.md"
    path = page.parent / report.MARKERS["bench"].search(page.read_text(encoding="utf-8")).group(1)
    rows = block_rows(record.load(path), report.short_block)[1]
    assert len(rows) == len(report.SHORT)
    assert next(iter(rows)) == "F5C, forward"
    assert list(rows)[-2:] == [
        "MOL released, training step, batch 2",
        "MOL released, training step, batch 2, bfloat16",
    ]


def test_the_short_table_leaves_out_what_was_not_measured(result):
    full, short = (block_rows(result, block)[1] for block in (report.full_block, report.short_block))
    assert list(short) == list(full)[:3]
    assert "Peak memory" not in report.short_block(result, "r.json")


def test_a_result_without_measurements_is_refused(tmp_path, capsys):
    path = tmp_path / "x-gpu.json"
    path.write_text('{"format": 2, "machine": {}, "steps": {"build": {"status": 1}}}')
    assert report.main([str(path)]) == 2
    assert "holds no measurements" in capsys.readouterr().err


@pytest.mark.parametrize(("page", "kinds"), [("README.md", {"bench"}), ("docs/performance.md", {"bench-full", "loso"})])
def test_pages_hold_what_is_generated_from_the_committed_results(page, kinds):
    page = ROOT / page
    text = page.read_text(encoding="utf-8")
    found = {kind: match for kind, pattern in report.MARKERS.items() if (match := pattern.search(text))}
    assert kinds <= found.keys(), f"a block is missing: see python -m bench.report RESULT.json --page {page}"
    for kind, match in found.items():
        path, block = match.groups()
        assert block == report.generated(kind, record.read(page.parent / path), path), kind
