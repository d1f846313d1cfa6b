"""The command line: what people type, and what they see when it cannot work."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from places import environment

from mol import cli, commands, info
from mol.arguments import spell_out
from mol.cli import COMMANDS, main
from mol.common.errors import SettingsError
from mol.data.sets.registry import SETS
from mol.prediction.predict import PredictConfig
from mol.synth.layouts import LAYOUTS
from molkernels.installation import install_command


def errors_of(capsys, *arguments: str) -> str:
    """Run a command that must fail with code 2; its one line on stderr."""
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    lines = shown.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def seen(monkeypatch) -> list:
    """Settings with which a command was run; nothing else happens."""
    configs: list = []
    for name, (config_class, _) in commands.RUNNERS.items():
        monkeypatch.setitem(commands.RUNNERS, name, (config_class, configs.append))
    return configs


def test_without_arguments_and_with_help_the_commands_are_listed(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        assert all(f"\n  {name} " in shown for name in COMMANDS)


def test_every_command_listed_can_be_run_and_the_other_way_round():
    assert set(COMMANDS) == set(commands.RUNNERS)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "info"])
def test_help_of_a_command_explains_its_options_with_defaults(capsys, name):
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert "default:" in shown
    assert "--config" in shown
    assert f"usage: mol {name}" in shown


def test_help_of_predict_holds_units_and_remedies(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "0.5 seconds" in shown
    assert "points in pixels" in shown


def test_help_of_prepare_and_of_a_layout_list_the_names_that_they_take(capsys):
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    lines = capsys.readouterr().out.splitlines()
    listed = lines[lines.index("data sets:") + 1 :]
    assert [line.split()[0] for line in listed] == list(SETS)
    assert [line.split()[1:3] for line in listed if line.split()[0] == "casme2"] == [["CASME", "II"]]
    with pytest.raises(SystemExit):
        main(["synth", "--layout", "smic", "--help"])
    assert f"layouts: {', '.join(LAYOUTS)}" in " ".join(capsys.readouterr().out.split())


def test_an_unknown_command_is_named_with_the_nearest(capsys):
    line = errors_of(capsys, "predcit")
    assert "predcit" in line
    assert "did you mean predict" in line


def test_missing_required_options_are_named(capsys):
    line = errors_of(capsys, "predict")
    assert "video" in line
    assert "weights" in line


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--wieghts", "run"], "wieghts"),
        (["--weights", "run", "--on-error", "ignore"], "on_error"),
        (["--weights", "run", "--batch-size", "many"], "batch_size"),
        (["--weights", "run", "--interval", "0"], "interval"),
        (["--weights", "run", "second.mp4"], "second.mp4"),
        (["--weights", "run", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--weights", "nowhere"], "nowhere"),
    ],
    ids=["option", "choice", "number", "range", "extra argument", "config file", "weights"],
)
def test_what_is_wrong_is_named_in_one_line(capsys, arguments, named):
    assert named in errors_of(capsys, "predict", "talk.mp4", *arguments)


def test_traceback_shows_where_an_error_came_from(capsys, tmp_path):
    assert main(["predict", "talk.mp4", "--weights", str(tmp_path), "--traceback"]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "CheckpointError" in shown


def test_a_list_in_an_error_keeps_its_lines(monkeypatch, capsys):
    def fails(_):
        raise SettingsError("2 clips are  bad: \n  one\n  two\nRepair them.")

    monkeypatch.setitem(commands.RUNNERS, "info", (commands.InfoConfig, fails))
    assert main(["info"]) == 2
    assert capsys.readouterr().err == "error: 2 clips are bad:\n  one\n  two\nRepair them.\n"


def test_values_without_names_fill_the_list_of_a_command(seen):
    assert main(["loso", "cache/one", "--protocol", "megc2019", "cache/two"]) == 0
    assert (seen[0].caches, seen[0].protocol) == (["cache/one", "cache/two"], "megc2019")


def test_synth_with_a_layout_has_the_settings_of_layouts(monkeypatch):
    configs: list = []
    monkeypatch.setattr(commands, "SYNTH_LAYOUT", (commands.LayoutConfig, configs.append))
    assert main(["synth", "--layout", "samm", "--people", "3", "--length", "[16, 20]"]) == 0
    assert (configs[0].layout, configs[0].out) == ("samm", None)
    assert (configs[0].settings().people, configs[0].settings().length) == (3, (16, 20))


def test_synth_of_long_videos_has_settings_of_its_own(monkeypatch):
    configs: list = []
    monkeypatch.setattr(commands, "SYNTH_LONG", (commands.LongConfig, configs.append))
    for typed in (["--layout", "long"], ["--layout=long"]):
        assert main(["synth", *typed, "--minutes", "0.5", "--micro-seconds", "[0.2, 0.3]"]) == 0
    assert [(config.layout, config.minutes, config.settings().micro_seconds) for config in configs] == [
        ("long", 0.5, (0.2, 0.3))
    ] * 2


def test_a_synthetic_set_goes_through_prepare_and_check_data_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    typed = "mol synth --layout smic --people 2 --clips 3 --workers 1"
    for _ in range(3):
        assert main(typed.split()[1:]) == 0
        said = capsys.readouterr().out
        typed = said.split("next: ")[1].splitlines()[0].split(", then ")[0]
    assert typed == "mol extract manifests/smic"
    assert "no errors" in said


def test_ctrl_c_ends_with_130(monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setitem(commands.RUNNERS, "info", (commands.InfoConfig, interrupted))
    assert main(["info"]) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(36, "File name too long", "x.mp4"), "File name too long: 'x.mp4' (--traceback shows where)"),
        (PermissionError(13, "Permission denied", "a", None, "b"), "Permission denied: 'a' and 'b' (--traceback shows"),
        (OSError("no number"), "no number (--traceback shows where)"),
        (
            UnicodeEncodeError("ascii", "sub-ä", 4, 5, "x"),
            "the encoding of this system, ascii, lacks 'sub-ä'; set PYTHONUTF8=1",
        ),
    ],
)
def test_errors_of_the_system_are_one_line(monkeypatch, capsys, error, line):
    def fails(_):
        raise error

    monkeypatch.setitem(commands.RUNNERS, "info", (commands.InfoConfig, fails))
    assert line in errors_of(capsys, "info")


@pytest.mark.parametrize("name", ["x" * 256, "x" * 5000, "ü" * 200])
def test_names_that_are_too_long_are_one_line(capsys, tmp_path, name):
    assert "too long" in errors_of(capsys, "evaluate", "--weights", str(tmp_path / name))
    assert "too long" in errors_of(capsys, "check-data", str(tmp_path / name))
    assert "too long" in errors_of(capsys, "train", "--cache", "nowhere", "--run", str(tmp_path / name))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("after", "code", "errors"),
    [
        (">/dev/full", 2, "error: the output could not be written: No space left on device\n"),
        (">&-", 0, ""),
        ("| true", 0, ""),
    ],
)
@pytest.mark.parametrize("arguments", [[], ["prepare", "--help"]], ids=["commands", "help"])
def test_output_that_goes_nowhere_is_no_traceback(arguments, after, code, errors):
    shell = f'set -o pipefail; "$@" {after}'
    command = ["bash", "-c", shell, "bash", sys.executable, "-m", "mol", *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, errors)


def test_an_unforeseen_error_keeps_its_traceback(monkeypatch):
    def broken(_):
        raise ZeroDivisionError

    monkeypatch.setitem(commands.RUNNERS, "info", (commands.InfoConfig, broken))
    with pytest.raises(ZeroDivisionError):
        main(["info"])


def test_options_reach_the_command_with_dashes_or_underscores(seen):
    assert (
        main(["predict", "--weights=run", "--save-arrays", "talk.mp4", "--on_error", "skip", "--batch-size", "2"]) == 0
    )
    expected = PredictConfig("talk.mp4", "run", save_arrays=True, on_error="skip", batch_size=2)
    assert seen == [expected]


def test_a_yaml_file_sets_options_and_the_command_line_overrides_it(seen, tmp_path: Path):
    file = tmp_path / "predict.yaml"
    file.write_text("weights: run\ninterval: 3\nstride: 4\n", encoding="utf-8")
    assert main(["predict", "talk.mp4", "--config", str(file), "--stride", "7"]) == 0
    assert (seen[0].interval, seen[0].stride, seen[0].weights) == (3, 7, "run")


def test_synth_options_are_those_of_the_settings(seen):
    assert main(["synth", "--people", "3", "--out", "somewhere", "--amplitude", "[0.5, 2.0]"]) == 0
    assert seen[0].settings().people == 3
    assert seen[0].settings().amplitude == (0.5, 2.0)
    assert seen[0].out == "somewhere"


def test_paths_with_dashes_are_left_alone(seen):
    assert main(["predict", "my-talk.mp4", "--weights", "runs/run-1"]) == 0
    assert (seen[0].video, seen[0].weights) == ("my-talk.mp4", "runs/run-1")


@dataclass
class Flags:
    video: str
    fast: bool = False
    size: int = 1


@pytest.mark.parametrize(
    ("typed", "spelled"),
    [
        (["v"], ["--video", "v"]),
        (["--fast", "v"], ["--fast", "true", "--video", "v"]),
        (["--fast", "false", "v"], ["--fast", "false", "--video", "v"]),
        (["v", "--fast"], ["--video", "v", "--fast", "true"]),
        (["--size", "-3"], ["--size", "-3"]),
        (["--a-b=c-d"], ["--a_b=c-d"]),
    ],
)
def test_what_is_typed_is_spelled_out(typed, spelled):
    assert spell_out(Flags, ("video",), typed) == spelled


def test_a_value_without_a_name_too_many_is_refused():
    with pytest.raises(SettingsError, match="'w'"):
        spell_out(Flags, ("video",), ["v", "w"])


def test_info_names_versions_kernels_and_the_line_that_installs_a_missing_part(capsys, monkeypatch):
    monkeypatch.setattr(info, "find_spec", lambda name: None)
    assert main(["info"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "torch" in shown
    assert "reference" in shown
    assert "".join(install_command("report").split()) in "".join(shown.split())


def test_python_m_mol_is_the_command_and_help_imports_nothing_heavy():
    program = (
        "import runpy, sys; sys.argv = ['mol', '--help']\n"
        "try: runpy.run_module('mol', run_name='__main__')\n"
        "except SystemExit as left: assert left.code == 0\n"
        "heavy = {'cv2', 'dlib', 'av', 'matplotlib', 'lightning_fabric', 'sklearn', 'jsonargparse'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: mol COMMAND" in done.stdout


def test_errors_are_red_only_on_a_terminal(monkeypatch, capsys):
    monkeypatch.delenv("NO_COLOR", raising=False)
    main(["nonsense"])
    assert "\033[" not in capsys.readouterr().err
    monkeypatch.setattr(cli.sys.stderr, "isatty", lambda: True, raising=False)
    main(["nonsense"])
    assert capsys.readouterr().err.startswith("\033[31merror:")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("train", "--cache is required (folder made by `mol synth` or `mol extract`"),
        ("predict film.mp4", "--weights is required (run folder of `mol train`"),
        ("train --cache c --lerning_rate 1", "unknown option --lerning_rate; did you mean --learning_rate? See"),
        ("train --cache c --zzz 1", "unknown option --zzz. See mol train --help."),
        ("loso c --protocol smic --folds", "--folds needs a value. See mol loso --help."),
        ("prepare --dataset smic --root x --part XX", "--part must be HS, VIS or NIR, not 'XX'."),
        ("train --cache c --steps many", "--steps must be a whole number, not 'many'."),
        ("train --cache c --loss.w_of high", "--loss.w_of must be a number, not 'high'."),
        ("train --cache c --held_out [a", "--held_out must be a number or a list such as '[a, b]', not '[a'."),
        ("train --cache c --config nowhere.yaml", "nowhere.yaml is missing; correct the file, or name another"),
    ],
)
def test_a_typing_mistake_is_explained_in_the_words_of_the_command_line(capsys, typed, message):
    assert message in errors_of(capsys, *typed.split())
