"""The cache of what was found out about a device: where it lies, and that no state of it is an error."""

import json

import pytest
import torch

from molkernels import cache


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MOLKERNELS_CACHE", str(tmp_path / "cache"))


def test_the_folder_is_the_users_or_one_named_by_the_environment(monkeypatch, tmp_path):
    assert cache.folder() == tmp_path / "cache"
    monkeypatch.delenv("MOLKERNELS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder() == tmp_path / "xdg" / "molkernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.folder() == tmp_path / "home" / ".cache" / "molkernels"


def test_what_is_saved_is_added_to_what_is_there(tmp_path):
    assert cache.load("found.json") == {}
    cache.save("found.json", "one", {"a": 1})
    cache.save("found.json", "two", {"a": 2})
    cache.save("found.json", "one", {"b": 3})
    assert cache.load("found.json") == {"one": {"a": 1, "b": 3}, "two": {"a": 2}}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["found.json"]


@pytest.mark.parametrize("content", [b"", b'{"one": {', b"[1, 2]", b"\xff\xfe\x00", b'{"one": 5}'])
def test_a_damaged_file_holds_nothing_and_is_replaced(tmp_path, content):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "found.json").write_bytes(content)
    assert cache.load("found.json") == {}
    cache.save("found.json", "one", {"a": 1})
    assert json.loads((tmp_path / "cache" / "found.json").read_text()) == {"one": {"a": 1}}


def test_a_folder_that_cannot_be_made_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MOLKERNELS_CACHE", str(tmp_path / "file" / "cache"))
    cache.save("found.json", "one", {"a": 1})
    assert cache.load("found.json") == {}


def test_a_full_disk_leaves_the_old_file_and_no_other(monkeypatch, tmp_path):
    cache.save("found.json", "one", {"a": 1})

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.json, "dump", full)
    cache.save("found.json", "one", {"a": 2})
    assert cache.load("found.json") == {"one": {"a": 1}}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["found.json"]


def test_the_key_names_device_torch_and_build():
    key = cache.key(torch.device("cpu"), "cpu 0.2.0-7")
    assert cache.device_name(torch.device("cpu")) in key
    assert torch.__version__ in key
    assert key.endswith("cpu 0.2.0-7")
