"""The order of the packages and wings, held against the imports; made-up sources show that each breach is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.architecture import (
    DOORS,
    FACES,
    ORDER,
    PACKAGES,
    ROOT,
    circles,
    find_modules,
    part_of,
    past_the_doors,
    read_imports,
    unlisted,
    upward,
)


def report(problems: list[str]) -> str:
    return "\n".join(problems)


def test_imports_only_point_down():
    problems = upward(read_imports(ROOT))
    assert not problems, report(problems)


def test_mol_uses_only_the_doors_of_molkernels():
    problems = past_the_doors(read_imports(ROOT))
    assert not problems, report(problems)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_by_way_of_others(package: str):
    problems = circles(one for one in read_imports(ROOT) if one.importer.partition(".")[0] == package)
    assert not problems, report(problems)


def test_every_module_has_a_place_and_every_place_a_module():
    modules = find_modules(ROOT)
    problems = unlisted(modules)
    assert not problems, report(problems)
    for package, order in ORDER.items():
        there = {part_of(module) for module in modules if module.partition(".")[0] == package}
        assert set(order + FACES[package]) == there
    assert set(DOORS) <= modules.keys()


def write_sources(root: Path, sources: dict[str, str]) -> None:
    """Files by their paths, and an empty `__init__.py` in each folder that has none."""
    for name, source in sources.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        for folder in Path(name).parents[:-1]:
            (root / folder / "__init__.py").touch()
        (root / name).write_text(source, encoding="utf-8")


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("from mol.data.cache import Cache", 1),
        ("from mol.data import cache", 1),
        ("import mol.data.cache", 1),
        ("import os\nimport mol.data.cache as kept, sys", 2),
        ("from ..data.cache import Cache", 1),
        ("from ..data import cache", 1),
        ("from .. import data", 1),
        ("def read():\n    def open():\n        from mol.data.cache import Cache", 3),
        ("class Video:\n    from mol.data.cache import Cache", 2),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mol.data.cache import Cache", 3),
        ("try:\n    pass\nfinally:\n    import mol.data.cache", 4),
        ("import importlib\ncache = importlib.import_module('mol.data.cache')", 2),
    ],
)
def test_an_upward_import_is_found_wherever_it_stands(tmp_path: Path, source: str, line: int):
    write_sources(tmp_path, {"mol/vision/video.py": source, "mol/data/cache.py": "class Cache: pass"})
    (problem,) = upward(read_imports(tmp_path))
    assert problem.startswith(f"mol/vision/video.py:{line}: imports mol.data")
    assert problem.endswith("but mol.vision stands below mol.data")


@pytest.mark.parametrize(
    ("sources", "problem"),
    [
        (
            {"molkernels/ops.py": "import molkernels.functional", "molkernels/functional.py": ""},
            "molkernels/ops.py:1: imports molkernels.functional, but molkernels.ops stands below molkernels.functional",
        ),
        (
            {"molkernels/ops.py": "def f():\n    from mol import MOL", "mol/__init__.py": ""},
            "molkernels/ops.py:2: imports mol, but molkernels.ops stands below the face of mol",
        ),
        (
            {"mol/report/page.py": "from bench.timing import quantiles", "bench/timing.py": ""},
            "mol/report/page.py:1: imports bench.timing, but mol.report stands below bench",
        ),
        (
            {"mol/training/train.py": "from mol import MOL", "mol/__init__.py": ""},
            "mol/training/train.py:1: imports mol, but mol.training stands below the face of mol",
        ),
        (
            {"mol/report/page.py": "from mol.cli import COMMANDS", "mol/cli.py": "COMMANDS = {}"},
            "mol/report/page.py:1: imports mol.cli, but mol.report stands below the face of mol",
        ),
        ({"bench/timing.py": "import tests.helpers"}, "bench/timing.py:1: imports tests, but bench stands below tests"),
    ],
)
def test_what_stands_higher_is_named_with_file_line_and_import(tmp_path: Path, sources: dict[str, str], problem: str):
    write_sources(tmp_path, sources)
    assert upward(read_imports(tmp_path)) == [problem]


def test_imports_down_and_within_a_wing_are_right(tmp_path: Path):
    write_sources(
        tmp_path,
        {
            "molkernels/modules.py": "class F5C: pass",
            "mol/common/errors.py": "import os",
            "mol/vision/video.py": "from mol.common.errors import MOLError\nfrom mol.vision import points",
            "mol/vision/points.py": "from molkernels import modules",
            "mol/cli.py": "from mol.vision.video import read_video",
            "bench/network.py": "from mol.cli import main\nimport molkernels.ops",
        },
    )
    imports = read_imports(tmp_path)
    assert len(imports) == 6
    assert not upward(imports) + past_the_doors(imports) + circles(imports) + unlisted(find_modules(tmp_path))


def test_mol_may_not_pass_the_doors(tmp_path: Path):
    write_sources(
        tmp_path,
        {
            "mol/network/model.py": "import molkernels as mk\nfrom molkernels.modules import F5C\n"
            "from molkernels import dispatch",
            "molkernels/modules.py": "",
            "molkernels/dispatch.py": "",
        },
    )
    (problem,) = past_the_doors(read_imports(tmp_path))
    assert problem.startswith("mol/network/model.py:3: imports molkernels.dispatch, but mol may only use molkernels, ")


def test_a_circle_is_found_in_its_shortest_form(tmp_path: Path):
    write_sources(
        tmp_path,
        {
            "mol/data/cache.py": "from mol.data.pool import Pool",
            "mol/data/pool.py": "def open():\n    from mol.data import clips\nfrom mol.data.detour import way",
            "mol/data/clips.py": "import os\nfrom mol.data.cache import Cache",
            "mol/data/detour.py": "from mol.data.clips import Clips",
            "bench/plots.py": "from bench import report",
            "bench/report.py": "from bench import tables",
            "bench/tables.py": "",
        },
    )
    first, second = circles(read_imports(tmp_path))
    assert first == (
        "circle: mol/data/cache.py:1: imports mol.data.pool; mol/data/pool.py:2: imports mol.data.clips; "
        "mol/data/clips.py:2: imports mol.data.cache"
    )
    assert second.startswith("circle: mol/data/detour.py:1: imports mol.data.clips; ")


def test_a_package_that_takes_from_its_own_module_which_takes_from_it_is_a_circle(tmp_path: Path):
    write_sources(
        tmp_path,
        {
            "molkernels/__init__.py": "from molkernels.extension import build_info\nVERSION = 1",
            "molkernels/extension.py": "def build_info():\n    from molkernels import VERSION",
        },
    )
    assert circles(read_imports(tmp_path)) == [
        "circle: molkernels/__init__.py:1: imports molkernels.extension; molkernels/extension.py:2: imports molkernels"
    ]


def test_a_new_wing_face_or_kernel_module_needs_a_place(tmp_path: Path):
    new = ("mol/astrology/peaks.py", "mol/extras.py", "molkernels/attention.py", "bench/anything.py")
    write_sources(tmp_path, dict.fromkeys(new, ""))
    problems = unlisted(find_modules(tmp_path))
    assert [problem.partition(":")[0] for problem in problems] == [
        "molkernels/attention.py",
        "mol/astrology/__init__.py",
        "mol/astrology/peaks.py",
        "mol/extras.py",
    ]
    assert problems[2].endswith("ORDER and FACES in tools/architecture.py do not list 'astrology' of mol")
