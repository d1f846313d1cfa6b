"""The command that adds an extra names the source of this installation, and an index only if it came from one."""

import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mol.common import extras
from mol.common.errors import MissingExtraError
from molkernels import installation
from molkernels.installation import command_for, install_command

ROOT = Path(installation.__file__).parent.parent

METADATA = """Metadata-Version: 2.4
Name: molkernels
Version: 0.2.0
Requires-Dist: torch>=2.10
Provides-Extra: train
Requires-Dist: jsonargparse[signatures]>=4.49; extra == "train"
Requires-Dist: rich>=13.9; extra == "train"
Provides-Extra: report
Requires-Dist: matplotlib>=3.9; extra == "report"
Provides-Extra: triton
Requires-Dist: triton>=3.8; sys_platform == "linux" and extra == "triton"
Provides-Extra: mol
Requires-Dist: molkernels[report,train]; extra == "mol"
"""
COMMIT = "b4419b4b827b8d172e0309bf1d85550ced3a1557"
HASH = {"hash": f"sha256={'c0' * 32}", "hashes": {"sha256": "c0" * 32}}


def installed(folder, origin, installer="pip\n"):
    """A site-packages folder as pip 26.3 leaves it, with the given direct_url.json."""
    site = folder / "site-packages"
    information = site / "molkernels-0.2.0.dist-info"
    information.mkdir(parents=True)
    (site / "molkernels").mkdir()
    (information / "METADATA").write_text(METADATA)
    if installer:
        (information / "INSTALLER").write_text(installer)
    if origin is not None:
        (information / "direct_url.json").write_text(json.dumps(origin))
    return site


def test_a_wheel_is_named_by_its_file(tmp_path):
    wheel = tmp_path / "my wheels" / "molkernels-0.2.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    site = installed(tmp_path, {"archive_info": HASH, "url": wheel.as_uri()})
    assert "my%20wheels" in wheel.as_uri()
    assert command_for(site, "train") == f'pip install "{wheel}[train]"'
    assert shlex.split(command_for(site, "train")) == ["pip", "install", f"{wheel}[train]"]


def test_a_checkout_installed_without_e_is_named_without_e(tmp_path):
    checkout = tmp_path / "my checkout"
    checkout.mkdir()
    site = installed(tmp_path, {"dir_info": {}, "url": checkout.as_uri()})
    assert command_for(site, "train") == f'pip install "{checkout}[train]"'


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("report", 'pip install "matplotlib>=3.9"'),
        ("train", 'pip install "jsonargparse[signatures]>=4.49" "rich>=13.9"'),
        ("triton", 'pip install "triton>=3.8"'),
        ("mol", 'pip install "matplotlib>=3.9" "jsonargparse[signatures]>=4.49" "rich>=13.9"'),
    ],
)
def test_where_the_wheel_is_gone_the_extra_is_spelled_out(tmp_path, extra, command):
    gone = {"archive_info": HASH, "url": "file:///tmp/gone/molkernels-0.2.0-py3-none-any.whl"}
    assert command_for(installed(tmp_path, gone), extra) == command


def test_a_wheel_that_was_only_unpacked_is_not_looked_for_on_an_index(tmp_path):
    assert command_for(installed(tmp_path, None, installer=None), "report") == 'pip install "matplotlib>=3.9"'


@pytest.mark.parametrize(
    ("origin", "argument"),
    [
        (
            {"url": "https://example.org/a/b.git", "vcs_info": {"commit_id": COMMIT, "vcs": "git"}},
            f"molkernels[train] @ git+https://example.org/a/b.git@{COMMIT}",
        ),
        (
            {
                "subdirectory": "kernels",
                "url": "ssh://git@example.org/a/b.git",
                "vcs_info": {"commit_id": COMMIT, "requested_revision": "v0.2.0", "vcs": "git"},
            },
            f"molkernels[train] @ git+ssh://git@example.org/a/b.git@{COMMIT}#subdirectory=kernels",
        ),
        (
            {"url": "file:///home/me/my checkout", "vcs_info": {"commit_id": COMMIT, "vcs": "git"}},
            f"molkernels[train] @ git+file://localhost/home/me/my%20checkout@{COMMIT}",
        ),
        (
            {"archive_info": HASH, "url": "https://example.org/molkernels-0.2.0-py3-none-any.whl"},
            "molkernels[train] @ https://example.org/molkernels-0.2.0-py3-none-any.whl",
        ),
        (None, "molkernels[train]"),
    ],
    ids=["git", "git-subdirectory", "git-on-this-disk", "wheel-by-url", "index"],
)
def test_what_lies_elsewhere_is_named_by_its_address(tmp_path, origin, argument):
    assert command_for(installed(tmp_path, origin), "train") == f'pip install "{argument}"'
    assert shlex.split(command_for(tmp_path / "site-packages", "train"))[2] == argument


def test_a_checkout_that_runs_is_named_whatever_lies_beside_it(tmp_path):
    """Even if another molkernels is installed, or setuptools left its molkernels.egg-info in the checkout."""
    checkout = tmp_path / "my checkout"
    (checkout / "molkernels").mkdir(parents=True)
    (checkout / "csrc").mkdir()
    (checkout / "csrc" / "pep517.py").touch()
    information = checkout / "molkernels.egg-info"
    information.mkdir()
    (information / "PKG-INFO").write_text(METADATA)
    assert command_for(checkout, "train") == f'pip install -e "{checkout}[train]"'
    assert command_for(checkout) == f'pip install -e "{checkout}"'
    assert install_command("train") == f'pip install -e "{ROOT}[train]"'


def test_links_to_a_checkout_lead_to_it(tmp_path):
    """As `pip install -e --config-settings editable_mode=strict` makes them."""
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "molkernels").symlink_to(ROOT / "molkernels")
    assert command_for(tmp_path / "links", "train") == f'pip install -e "{ROOT}[train]"'


def test_a_package_without_any_record_is_not_looked_for_on_an_index(tmp_path):
    (tmp_path / "molkernels").mkdir()
    assert command_for(tmp_path, "train") == 'pip install ".[train]" (in a checkout of molkernels)'


def test_the_command_is_that_of_the_package_which_runs(tmp_path):
    """Two installations on sys.path: each names its own."""
    site = installed(tmp_path, None)
    copy = site / "molkernels" / "installation.py"
    copy.write_bytes(Path(installation.__file__).read_bytes())
    spec = importlib.util.spec_from_file_location("molkernels_elsewhere", copy)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.install_command("train") == 'pip install "molkernels[train]"'
    assert install_command("train") == f'pip install -e "{ROOT}[train]"'


def test_a_missing_part_is_refused_with_this_command():
    with pytest.raises(MissingExtraError) as refused:
        extras.require("no_such_module", extra="report")
    assert str(refused.value).endswith(f'Install it with: pip install -e "{ROOT}[report]"')
    with pytest.raises(MissingExtraError) as refused:
        extras.installed_file("no-such-distribution", "a/file.txt", "demo")
    assert str(refused.value).endswith(f'Install it with: pip install -e "{ROOT}[demo]"')


def test_importing_the_extras_imports_no_torch():
    code = "import sys, mol.common.extras; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
