"""The whole run on a pretended GPU, without the packages that a machine for measuring lacks."""

import json
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from places import ROOT, environment

from bench.gpu import __main__, steps
from bench.gpu.journal import read_lines

# Not on a machine for measuring: what `mol train` and the data need.
LACKING = (
    "jsonargparse",
    "lightning",
    "lightning_fabric",
    "av",
    "dlib",
    "msgspec",
    "openpyxl",
    "face_recognition_models",
)
BLOCK = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {LACKING}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked by the test)")
sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture
def lacking(tmp_path):
    """The environment of processes, and of theirs, that cannot import those packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCK)
    variables = environment(OMP_NUM_THREADS="1")
    variables["PYTHONPATH"] = f"{folder}:{variables['PYTHONPATH']}"
    return variables


def bench_gpu(*arguments, variables=None):
    command = [sys.executable, "-m", "bench.gpu", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=variables or environment(), capture_output=True, text=True, check=False
    )


def test_the_packages_are_blocked(lacking):
    done = subprocess.run([sys.executable, "-c", "import av"], env=lacking, capture_output=True, text=True, check=False)
    assert "blocked by the test" in done.stderr


EVERY = [step.name for step in steps.steps(True, True) if not step.on_request]
# One for each module of `bench.gpu` that a step runs.
KINDS = ["smoke", "timings", "compiled-timings", "memcheck", "training"]


@pytest.mark.slow
@pytest.mark.parametrize("only", [KINDS, EVERY], ids=["kinds", "every"])
def test_the_steps_go_through_without_the_packages_that_are_lacking(tmp_path, lacking, only):
    out = tmp_path / "out"
    done = bench_gpu(out, "--pretend", "--no-build", "--minutes", "8", "--only", *only, variables=lacking)
    lines, torn = read_lines(out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert torn == 0
    status = {line["step"]: line["status"] for line in lines if line["kind"] == "step"}
    assert status == {name: "done" for name in EVERY if name in (*only, *steps.ALWAYS)}
    facts = next(line for line in lines if line["kind"] == "facts")
    assert facts["pretended"] is True
    assert not any(facts["packages"][name] for name in ("jsonargparse", "lightning-fabric", "av", "msgspec"))
    rows = [line["row"] for line in lines if line["kind"] == "row"]
    assert {row["dtype"] for row in rows} == {"float32", "tf32", "bfloat16"}
    assert {"reference", "compiled-reference", "compiled-idiomatic"} < {row["contender"] for row in rows}
    assert {row["subject"] for row in rows} == {"ccc-channel", "cost-volume", "mol"}
    assert all(row["error"] <= row["tolerance"] for row in rows)
    assert next(line for line in lines if line["kind"] == "sanitizer")["errors"] == 0
    tests = {line["task"] for line in lines if line["kind"] == "task" and line["step"] == "memcheck"}
    assert any("test_knn_agrees_with_the_reference[cpu" in name for name in tests)
    suites = ElementTree.parse(out / "tests.xml").findall("testsuite")
    assert [suite.get("name") for suite in suites] == list(status)
    assert len(list(out.iterdir())) == 3  # few files come back from some machines
    assert done.stdout.count("PRETENDED on a processor") == 1
    read = bench_gpu("--read", out, variables=lacking)
    assert read.returncode == 0, read.stderr
    assert "PRETENDED on a processor" in read.stdout


def test_chosen_steps_on_a_full_disk_go_through_and_are_said(tmp_path):
    """No file grows beyond a kilobyte: half a line is written, and then nothing."""
    command = [sys.executable, "-m", "bench.gpu", str(tmp_path), "--pretend", "--no-build", "--only", "facts"]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -S -f 1; exec "$@"', "bash", *command],
        cwd=ROOT, env=environment(PYTHONDONTWRITEBYTECODE="1"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "facts: done" in done.stdout
    assert "library: done" in done.stdout
    lost = [json.loads(line.partition("only here: ")[2]) for line in done.stderr.splitlines() if "only here" in line]
    kept, torn = read_lines(tmp_path)
    assert torn == 1
    kinds = [line["kind"] for line in (*kept, *lost)]
    assert kinds == ["run", "started", "facts", "task", "step", "started", "library", "task", "step"]
    assert "lines of results are cut off" in done.stdout


def test_without_a_gpu_the_run_ends_at_once(tmp_path):
    done = bench_gpu(tmp_path, "--no-build")
    assert done.returncode == 2
    assert "PyTorch finds no CUDA device" in done.stderr
    assert [line["step"] for line in read_lines(tmp_path)[0] if line["kind"] == "step"] == ["facts"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "one folder OUT is needed"),
        (["a", "b"], "one folder OUT is needed"),
        (["a", "--minutes", "0"], "--minutes is 0.0, but must be positive"),
        (["a", "--only", "speed"], "no step is named 'speed'"),
        (["--read"], "--read needs a folder"),
    ],
)
def test_a_wrong_command_is_refused(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        __main__.main(arguments)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
