"""Numbers that no setting can have are refused in one line, from the command line, a YAML file and in Python."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from tiny_cache import write_tiny_cache
from tiny_model import instead_of_mol

from mol.arguments import read_config
from mol.commands import RUNNERS, SYNTH_LAYOUT, SYNTH_LONG
from mol.common.errors import MOLError, SettingsError
from mol.data.clips import Augmentation
from mol.training.settings import LossConfig, RateConfig, TrainConfig
from mol.training.train import train
from mol.vision.tvl1 import TVL1Settings

COMMANDS = {**RUNNERS, "synth-layout": SYNTH_LAYOUT, "synth-long": SYNTH_LONG}
# What each command cannot do without.
NEEDED = {
    "train": ["--cache", "c"],
    "loso": ["--caches", "[c]", "--protocol", "as-labelled"],
    "report": ["--runs", "[r]"],
    "evaluate": ["--weights", "w"],
    "predict": ["--video", "v", "--weights", "w"],
    "spot": ["--video", "v", "--weights", "w"],
    "prepare": ["--dataset", "generic", "--root", "r"],
    "check-data": ["--manifests", "[m]"],
    "extract": ["--manifest", "m"],
}
HUGE = "1" + "0" * 4200


def numeric(config_class: type, prefix: str = "") -> Iterator[str]:
    """The dotted name of every setting that can be a single number."""
    for name, kind in get_type_hints(config_class).items():
        if dataclasses.is_dataclass(kind):
            yield from numeric(kind, f"{prefix}{name}.")  # type: ignore[arg-type]
        elif re.search(r"\b(int|float)\b", str(kind)) and not re.match(r"(list|tuple|typing\.ClassVar)\[", str(kind)):
            yield prefix + name


SETTINGS = [(command, name) for command, (kind, _) in COMMANDS.items() for name in numeric(kind)]


def read(command: str, *arguments: str) -> Any:
    return read_config(COMMANDS[command][0], [*NEEDED.get(command, []), *arguments], f"mol {command}")


def test_the_settings_are_found():
    names = {f"{command} {name}" for command, name in SETTINGS}
    assert {"train learning_rate", "loso loss.w_of", "extract tvl1.tau", "predict fps", "synth noise"} <= names
    assert len(names) > 130


@pytest.mark.parametrize(("command", "name"), SETTINGS)
def test_infinite_and_enormous_numbers_are_refused_with_the_name_of_the_setting(
    tmp_path: Path, command: str, name: str
):
    for text in (".nan", ".inf", "-.inf", "1e400", HUGE, f"-{HUGE}", "9" * 5000, "true", "-1e300"):
        if text == "true" and name in ("held_out", "folds"):
            continue
        with pytest.raises(SettingsError) as caught:
            read(command, f"--{name}={text}")
        assert name.rsplit(".")[-1] in str(caught.value), text
        assert len(str(caught.value)) < 700
        (tmp_path / "settings.yaml").write_text(nested(name, text))
        with pytest.raises(SettingsError) as caught:
            read(command, "--config", str(tmp_path / "settings.yaml"))
        assert len(str(caught.value)) < 700


def nested(name: str, value: str) -> str:
    """YAML of one setting with a dotted name."""
    *sections, last = name.split(".")
    lines = [f"{'  ' * depth}{section}:" for depth, section in enumerate(sections)]
    return "\n".join([*lines, f"{'  ' * len(sections)}{last}: {value}", ""])


@pytest.mark.parametrize(
    "make",
    [
        lambda value: TrainConfig(cache="c", learning_rate=value),
        lambda value: TrainConfig(cache="c", held_out=value),
        lambda value: TrainConfig(cache="c", weight_decay=value),
        lambda value: TrainConfig(cache="c", clip_norm=value),
        lambda value: LossConfig(w_of=value),
        lambda value: RateConfig(flow=value),
        lambda value: Augmentation(gamma=value),
        lambda value: TVL1Settings(tau=value),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 10**4000])
def test_python_has_the_same_limits_as_the_command_line(make: Any, value: float):
    with pytest.raises(SettingsError):
        make(value)


def test_a_file_of_settings_is_named_where_one_of_them_cannot_be(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text("cache: c\nsteps: many\n")
    with pytest.raises(SettingsError, match=rf"^{file}: steps must be a whole number, not 'many'"):
        read_config(TrainConfig, ["--config", str(file)], "mol train")
    file.write_text("cache: c\nmodel: 3\n")
    with pytest.raises(SettingsError, match=r"--model must be named settings such as --model\.k, not '3'"):
        read_config(TrainConfig, ["--config", str(file)], "mol train")
    file.write_text("cache: c\nconfig: settings.yaml\n")
    with pytest.raises(SettingsError, match="cannot name another one"):
        read_config(TrainConfig, ["--config", str(file)], "mol train")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_of_settings_is_read_in_every_unicode_encoding(tmp_path: Path, encoding: str):
    file = tmp_path / "settings.yaml"
    file.write_bytes("cache: Gesichter/Zoë\nlearning_rate: 1e-3\nheld_out: [sub01, 'Ω']\n".encode(encoding))
    config = read_config(TrainConfig, ["--config", str(file), "--steps", "7"], "mol train")
    assert (config.cache, config.learning_rate, config.held_out) == ("Gesichter/Zoë", 1e-3, ["sub01", "Ω"])
    assert config.steps == 7


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 100.0},
        {"learning_rate": 1e-300},
        {"weight_decay": 1e6},
        {"clip_norm": 1e300},
        {"clip_norm": 1e-300},
        {"batch_size": 10**6},
        {"warmup_steps": 10**18},
        {"log_every": 10**18},
        {"validate_every": 10**18},
        {"validation_clips": 10**18},
        {"checkpoint_every": 10**18},
        {"flow_pairs": 10**18},
        {"seed": 2**63 - 1},
        {"held_out": 1e-300},
        {"held_out": 1 - 1e-16},
        {"inner_validation": 1e-300},
        {"augment": Augmentation(gamma=100)},
        {"augment": Augmentation(drift=100)},
        {"loss": LossConfig(w_me=1e6, w_of=1e6, w_ldm=1e6)},
        {"loss": LossConfig(w_me=1e-300, w_of=1e-300, w_ldm=1e-300)},
        {"rates": RateConfig(flow=1e6, predictors=1e6, emotion=1e6)},
    ],
    ids=str,
)
def test_a_training_with_an_extreme_setting_runs_or_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
):
    instead_of_mol(monkeypatch)
    cache = write_tiny_cache(tmp_path / "cache", people=3, videos=2)
    usual = TrainConfig(cache=str(cache.path), run=str(tmp_path / "run"), steps=2, batch_size=2, device="cpu")
    with suppress(MOLError):
        assert train(replace(usual, **changes)).step == 2
