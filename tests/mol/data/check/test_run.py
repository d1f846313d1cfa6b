"""The check as a whole: its command, its processes, its settings."""

from __future__ import annotations

import csv
import multiprocessing
import signal
import subprocess
import sys
import threading
import time

import pytest
from check_sets import encoded
from places import ROOT

from mol.common.errors import DataError, SettingsError
from mol.data.check import CheckDataConfig, check_data, run_check_data


def test_progress_counts_clips(data):
    seen: list[tuple[int, int]] = []
    check_data(CheckDataConfig([data.manifest()], workers=1), lambda done, total: seen.append((done, total)))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_several_processes_find_what_one_finds(data):
    for index in range(30):
        data.add(f"s{3 + index % 5}", f"c{index}")
    for row in (0, 5, 20):
        data.picture(data.clips[row], 8).unlink()
    data.picture(data.clips[4], 9).write_bytes(b"")
    folder = data.manifest()
    one = check_data(CheckDataConfig([folder], workers=1))
    assert check_data(CheckDataConfig([folder], workers=2)) == one


def test_the_command_prints_counts_and_the_next_command(data, capsys):
    run_check_data(CheckDataConfig([data.manifest()], workers=1))
    shown = capsys.readouterr().out
    assert "as-labelled" in shown
    assert "no errors" in shown
    assert f"next: mol extract {data.manifest()}" in shown


def test_the_command_shows_found_beside_expected_and_fails_on_errors(data, capsys, tmp_path):
    out = tmp_path / "findings.csv"
    with pytest.raises(DataError, match=r"4 errors, listed above \(4 × counts\)"):
        run_check_data(CheckDataConfig([data.manifest()], protocol="megc2019", workers=1, out=str(out)))
    rows = [line.split() for line in capsys.readouterr().out.replace("│", " ").splitlines()]
    assert ["smic", "negative", "1", "70"] in rows
    assert ["smic", "clips", "3", "164"] in rows
    assert ["smic", "subjects", "2", "16"] in rows
    with out.open(encoding="utf-8", newline="") as table:
        assert [row["severity"] for row in csv.DictReader(table)] == ["error"] * 4 + ["info"]


def test_many_findings_of_a_kind_are_shortened_in_the_table(data, capsys):
    for index in range(14):
        clip = data.add("s9", f"c{index}")
        data.picture(clip, 9).unlink()
    run_check_data(CheckDataConfig([data.manifest()], workers=1))
    assert "and 4 more" in capsys.readouterr().out


def test_settings_that_cannot_work_are_refused():
    for settings in ({"manifests": []}, {"manifests": ["a"], "frames": 1}, {"manifests": ["a"], "short": "drop"}):
        with pytest.raises(SettingsError):
            CheckDataConfig(**settings)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_all_processes_without_a_traceback(data, tmp_path):
    large = data.root / "large.jpg"
    large.write_bytes(encoded(data.rng, ".jpg", (480, 640)))
    for index in range(40):
        clip = data.add("s3", f"c{index}", offset=4)
        data.change(clip, offset=84)
        for number in range(5, 85):
            data.picture(clip, number, ".jpg").hardlink_to(large)
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from mol.data.check import CheckDataConfig, check_data\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        check_data(CheckDataConfig([sys.argv[1]], workers=2), lambda done, total: print(done, flush=True))\n"
        "    except KeyboardInterrupt:\n"
        "        sys.exit(130)\n",
        encoding="utf-8",
    )
    root = ROOT
    process = subprocess.Popen(
        [sys.executable, str(script), data.manifest()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    while int(process.stdout.readline() or 10**6) < 4:
        time.sleep(0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_a_clip_whose_worker_dies_twice_is_a_finding_and_hides_no_other(data):
    for index in range(40):
        data.add("s3", f"c{index}")
    ended = threading.Event()
    killed: set[int] = set()

    def kill_next() -> None:
        """Kill the worker that tries the first lost clip again."""
        while not ended.wait(0.01):
            for process in multiprocessing.active_children():
                if process.pid not in killed:
                    process.kill()
                    return

    killer = threading.Thread(target=kill_next)

    def kill_all_at_first_result(done: int, total: int) -> None:
        if done == 1 and not killed:
            for process in multiprocessing.active_children():
                killed.add(process.pid)
                process.kill()
            killer.start()

    try:
        findings = check_data(CheckDataConfig([data.manifest()], workers=2), kill_all_at_first_result)
    finally:
        ended.set()
        killer.join()
    (finding,) = [finding for finding in findings if finding.severity != "info"]
    assert (finding.severity, finding.kind) == ("error", "unreadable")
    assert finding.what == "a worker process died, probably out of memory"
