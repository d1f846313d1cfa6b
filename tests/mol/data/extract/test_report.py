"""What the command prints."""

import shlex

from extract_sets import config_of, make_set

from mol.arguments import read_config
from mol.data.extract.report import command_of
from mol.data.extract.run import run_extract
from mol.data.extract.settings import ExtractConfig


def test_command_line_gives_the_configuration_back(tmp_path):
    config = config_of(tmp_path / "my manifest", several="largest", subclips=2, workers=3)
    assert read_config(ExtractConfig, shlex.split(command_of(config))[2:], "mol extract") == config


def test_command_says_how_fast_it_was_and_what_comes_next(tmp_path, capsys):
    run_extract(config_of(make_set(tmp_path, (8,))))
    said = capsys.readouterr().out
    assert "1 clips, 1 sub-clips: " in said
    assert "clips/s" in said
    assert "TV-L1" in said
    assert f"next: mol loso {tmp_path / 'cache'} --protocol megc2019 --sets '[casme2]'" in said
