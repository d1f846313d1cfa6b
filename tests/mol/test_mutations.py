"""Damaged files of every kind, read by every command that reads them: at worst one line says what is wrong.

`MOL_MUTATIONS=500 pytest tests/mol/test_mutations.py` tries 500 of each kind.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from data_fixtures import write_frames_folder
from mutations import mutate, sign
from places import DATA
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_cache import face_shape
from tiny_model import SmallestMOL, instead_of_mol

from mol.cli import main
from mol.data.manifest import Clip, Manifest, write_manifest

COUNT = int(os.environ.get("MOL_MUTATIONS", "5"))
CPU = ["--device", "cpu"]
EVALUATE = ["evaluate", "--weights", "run", "--out", "out", "--tvl1-pairs", "0", "--pictures", "false", *CPU]
PREDICT = ["predict", "frames", "--weights", "run", "--out", "out", "--landmarks", "points.csv", *CPU]
RESUME = ["train", "--config", "interrupted/config.yaml", "--resume"]
LOSO = ["loso", "--config", "loso/loso.yaml", "--resume"]
REPORT = ["report", "loso", "--out", "out", *CPU]
FOLD = "loso/folds/seed0/one-s1"
LAST = "checkpoints/last"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What version 0.1 wrote, with a video and a manifest."""
    folder = tmp_path_factory.mktemp("sound")
    shutil.copytree(DATA / "version-0.1", folder, dirs_exist_ok=True)
    rng = np.random.default_rng(0)
    write_frames_folder(rng.integers(0, 256, (8, 144, 144), np.uint8), folder / "frames")
    head = ",".join(f"{axis}_{point}" for point in range(68) for axis in "xy")
    row = ",".join(f"{value:.2f}" for value in face_shape().ravel())
    (folder / "points.csv").write_text("\n".join([head, *[row] * 8, ""]))
    clips = [Clip("one", f"s{i}", "v", "frames", 1, 4, 8, "happiness", "4", 25.0, "row") for i in (1, 2)]
    write_manifest(folder / "manifest", Manifest("one", folder, clips, [], {"settings": {}}))
    return folder


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    instead_of_mol(monkeypatch, SmallestMOL)


def outcome(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> int:
    """Run a command: its exit code; an error must be one line, or a line and a list."""
    code = main(arguments)
    shown = capsys.readouterr().err
    assert code in (0, 2)
    if code:
        errors = [line for line in shown.splitlines() if line and not line.startswith("  ")]
        assert errors[-1].startswith("error: ")
        assert len(shown) < 3000
    return code


CASES: dict[str, list[list[str]]] = {
    f"run/{LAST}/state.json": [EVALUATE, PREDICT],
    f"run/{LAST}/weights.safetensors": [EVALUATE, PREDICT],
    f"interrupted/{LAST}/state.json": [RESUME],
    f"interrupted/{LAST}/weights.safetensors": [RESUME],
    f"interrupted/{LAST}/optimizer.safetensors": [RESUME],
    "interrupted/config.yaml": [RESUME],
    "interrupted/log.csv": [RESUME],
    "cache/settings.json": [["check-data", "cache"], EVALUATE, LOSO],
    "cache/index.json": [["check-data", "cache"], EVALUATE, RESUME, LOSO],
    "cache/frames.npy": [["check-data", "cache"], EVALUATE],
    "cache/checksums.npy": [["check-data", "cache"], EVALUATE],
    "cache/landmarks.npy": [["check-data", "cache"], EVALUATE],
    "loso/folds.json": [REPORT, LOSO],
    "loso/loso.yaml": [REPORT, LOSO],
    "loso/environment.json": [REPORT],
    f"{FOLD}/fold.json": [REPORT, LOSO],
    f"{FOLD}/predictions.csv": [REPORT, LOSO],
    f"{FOLD}/log.csv": [REPORT],
    f"{FOLD}/{LAST}/state.json": [REPORT],
    "manifest/manifest.json": [["check-data", "manifest"]],
    "manifest/clips.csv": [["check-data", "manifest"]],
}


@pytest.mark.parametrize(
    ("file", "arguments"),
    [
        pytest.param(file, command, marks=[pytest.mark.slow] * (command is REPORT and file != "loso/folds.json"))
        for file, commands in CASES.items()
        for command in commands
    ],
)
def test_no_damaged_file_ends_in_a_traceback(
    sound: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    arguments: list[str],
):
    codes: Counter[int] = Counter()
    # Drawing the page of a report takes seconds.
    count = max(2, COUNT // 4) if arguments[0] == "report" else COUNT
    for number in range(count):
        folder = tmp_path / str(number)
        shutil.copytree(sound, folder)
        monkeypatch.chdir(folder)
        seed = f"{file} {arguments[0]} {number}"
        what = mutate(Path(file), random.Random(seed))
        resign(Path(file))
        try:
            codes[outcome(arguments, capsys)] += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed!r}, {what}: {type(error).__name__}: {error}") from error
        shutil.rmtree(folder)
    assert codes.total() == count
    # A report is made whatever befell logs and checkpoints; it says what is missing.
    # A log goes on without its damaged rows.
    assert codes[2] or arguments[0] == "report" or Path(file).name == "log.csv"


def resign(file: Path) -> None:
    """Let a changed file pass the checksums, as a file of a program that is wrong would."""
    if file.suffix == ".safetensors":
        sign(file.parent)
    if file.name == "clips.csv" and file.exists():
        head = json.loads((file.parent / "manifest.json").read_text())
        head["sha256"] = sha256(file.read_bytes()).hexdigest()
        (file.parent / "manifest.json").write_text(json.dumps(head))


@pytest.fixture
def folder(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what is sound; paths are relative to it."""
    shutil.copytree(sound, tmp_path / "then")
    monkeypatch.chdir(tmp_path / "then")
    return tmp_path / "then"


def test_what_is_sound_is_read_by_every_command(folder: Path, capsys: pytest.CaptureFixture[str]):
    for arguments in {tuple(command) for commands in CASES.values() for command in commands}:
        if "manifest" not in arguments:  # its pictures are noise, and two clips share them
            assert outcome(list(arguments), capsys) == 0, arguments


def state_with(path: str, edit: Callable[[dict], object]) -> None:
    file = Path(path) / LAST / "state.json"
    state = json.loads(file.read_text())
    edit(state)
    file.write_text(json.dumps(state))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda state: state.update(classes=["happiness"]), "it names 1 classes, but model.num_classes is 2"),
        (lambda state: state.update(classes=[1, 2]), "classes[0] is 1, but must be text"),
        (lambda state: state.update(classes=["a", "a"]), "classes are a, a, but must all be different"),
        (lambda state: state.update(classes=None), "classes is null, but must be a list"),
        (lambda state: state.update(training_videos=[1]), "training_videos has 1 counts for 2 classes"),
        (lambda state: state.update(training_videos=[1, -3]), "training_videos[1] is -3, but must be a whole number"),
        (lambda state: state.update(mean_shape=[[0, 0]]), "mean_shape is a list of 1, but must be a list"),
        (lambda state: state["mean_shape"].__setitem__(3, [float("nan"), 0]), "mean_shape[3][0] is NaN, but must be"),
        (lambda state: state["model"].update(num_classes=10**15), "model.num_classes is 1000000000000000"),
        (lambda state: state["model"].update(k={"a": 1}), "model.k is a set of named entries, but must be"),
        (lambda state: state["model"].update(variant=[["a"]]), "model.variant[0] is a list of 1, but must be"),
        (lambda state: state["files"].update({"../x": {"bytes": 1, "crc32": 1}}), "files names '../x'"),
        (lambda state: state["files"].clear(), "files does not name weights.safetensors"),
        (lambda state: state.update(config={}), "config.cache is missing"),
        (lambda state: state["config"].update(loss={"w_me": "much"}), 'config.loss.w_me is "much", but must be'),
        (lambda state: state["config"].update(loss={"w_mee": 1}), "config.loss names weights that the network"),
        (lambda state: state.pop("train_people"), "train_people is missing"),
        (lambda state: state.update(calibration={"value": "hot"}), 'value is "hot", but must be a number or null'),
        (lambda state: state.update(calibration={"value": -1}), "the recorded temperature is -1"),
    ],
)
def test_facts_of_a_checkpoint_that_cannot_be_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str], edit: Callable[[dict], object], message: str
):
    state_with("run", edit)
    assert main(EVALUATE) == 2
    assert message in capsys.readouterr().err


def test_a_checkpoint_that_asks_for_more_memory_than_there_is_is_refused_before_it_takes_any(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    state_with("run", lambda state: state.update(network="flow-cnn", model={"num_classes": 2, "filters": [10**6] * 40}))
    assert main(EVALUATE) == 2
    assert "weights.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("run", "file", "name", "arguments", "message"),
    [
        ("run", "weights", "norm.running_var", EVALUATE, "norm.running_var has negative variances"),
        ("run", "weights", "norm.running_var", PREDICT, "norm.running_var has negative variances"),
        ("interrupted", "optimizer", "0.exp_avg_sq", RESUME, "0.exp_avg_sq has negative values"),
        ("interrupted", "optimizer", "0.step", RESUME, "0.step has negative values"),
    ],
)
def test_negative_variances_are_refused(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    run: str,
    file: str,
    name: str,
    arguments: list[str],
    message: str,
):
    path = Path(run) / LAST / f"{file}.safetensors"
    tensors = load_file(path)
    tensors[name] = -tensors[name].abs() - 1e-3
    with safe_open(path, framework="pt") as opened:
        header = opened.metadata()
    save_file(tensors, path, metadata=header)
    sign(path.parent)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def damage_cache(row: int, name: str = "frames", count: int = 4000) -> None:
    """Invert bytes in the middle of a row."""
    array = np.load(f"cache/{name}.npy", mmap_mode="r+")
    flat = array[row].reshape(-1).view(np.uint8)
    flat[1000 : 1000 + count] ^= 255
    array.flush()


@pytest.mark.parametrize("arguments", [EVALUATE, RESUME, [*LOSO[:-1], "--run", "new"]], ids=lambda words: words[0])
def test_no_command_computes_with_damaged_rows(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]):
    for row in range(4):
        damage_cache(row)
    assert main(arguments) == 2
    assert "of cache (one/s" in (shown := capsys.readouterr().err)
    assert "is damaged: its frames, flow or landmarks are not what was written" in shown


def test_check_data_lists_all_damaged_rows(folder: Path, capsys: pytest.CaptureFixture[str]):
    damage_cache(0)
    damage_cache(3, "flow", count=1)
    assert main(["check-data", "cache"]) == 2
    shown = capsys.readouterr()
    assert "2 × damaged rows" in shown.err
    assert "one/s1/v0" in shown.out
    assert "one/s2/v1" in shown.out
