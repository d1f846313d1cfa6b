"""The drawing of the wings: made from today's imports, every arrow true, none through a box."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tools.architecture import ORDER, ROOT, Import, read_imports
from tools.draw_architecture import KERNELS, PICTURE, WINGS, Box, arrows, draw, node_of, place

SVG = "{http://www.w3.org/2000/svg}"


def closure(pairs: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """Every pair of names of which one leads to the other."""
    found = set(pairs)
    while more := {(a, d) for (a, b), (c, d) in product(found, found) if b == c} - found:
        found |= more
    return found


def made_up(*pairs: str) -> list[Import]:
    return [Import(Path("x.py"), 1, *pair.split()) for pair in pairs]


def test_the_committed_drawing_is_made_from_todays_imports():
    drawn = draw(read_imports(ROOT))
    assert PICTURE.read_text(encoding="utf-8") == drawn, "run: python -m tools.draw_architecture"


def test_the_drawing_has_every_wing_and_the_page_explains_each():
    assert list(WINGS) == list(ORDER["mol"])
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert f"]({PICTURE.relative_to(ROOT / 'docs').as_posix()})" in page
    assert re.findall(r"^\| `([a-z]+)/` \|", page, re.MULTILINE) == list(reversed(ORDER["mol"]))


def test_arrows_that_follow_from_others_are_left_out():
    imports = made_up(
        "mol.report.page mol.loso.run",
        "mol.report.page mol.common.errors",
        "mol.loso.run mol.data.cache",
        "mol.data.cache mol.common.errors",
        "mol.data.cache mol.data.pool",
        "mol.network.model mol.common.errors",
        "mol.network.model molkernels",
        "mol.common.extras molkernels.installation",
        "bench.network mol.network.model",
    )
    assert arrows(imports) == [
        ("common", KERNELS),
        ("network", "common"),
        ("network", KERNELS),
        ("data", "common"),
        ("loso", "data"),
        ("report", "loso"),
    ]


def test_the_arrows_drawn_say_all_that_the_imports_say():
    drawn = closure(arrows(read_imports(ROOT)))
    for one in read_imports(ROOT):
        upper, lower = node_of(one.importer), node_of(one.imported)
        assert upper == lower or (upper, lower) in drawn or upper in (KERNELS, "bench"), one


def test_no_arrow_runs_through_a_box():
    found = arrows(read_imports(ROOT))
    boxes = place(found)
    paths = ElementTree.fromstring(draw(read_imports(ROOT))).findall(f"{SVG}path")
    for (name, target), path in zip(found, paths, strict=False):
        end = float(re.findall(r"[\d.]+", path.attrib["d"])[-3 if "C" in path.attrib["d"] else 0])
        upper, lower = boxes[name], boxes[target]
        for other in set(boxes) - {name, target}:
            box = boxes[other]
            between = upper.y < box.y < lower.y
            assert not (between and abs(end - box.x) < box.width / 2 + 4), f"{name} → {target} runs through {other}"


def test_every_box_stands_above_what_it_imports_and_none_overlap():
    found = arrows(read_imports(ROOT))
    boxes = place(found)
    for name, target in found:
        assert boxes[name].y + boxes[name].height < boxes[target].y, (name, target)
    for one, other in product(boxes.values(), repeat=2):
        assert one == other or apart(one, other)


def apart(one: Box, other: Box) -> bool:
    beside = abs(one.x - other.x) >= (one.width + other.width) / 2
    return beside or one.y + one.height <= other.y or other.y + other.height <= one.y


def test_two_wings_in_one_place_are_refused():
    with pytest.raises(ValueError, match="give one of them another column"):
        place([("vision", "common"), ("data", "common")])


def test_a_step_of_a_call_that_no_import_shows_is_refused():
    imports = [one for one in read_imports(ROOT) if one.importer != "molkernels.ops"]
    with pytest.raises(ValueError, match=r"molkernels\.ops does not import molkernels\.dispatch"):
        draw(imports)


def test_the_drawing_is_legible_in_light_and_dark():
    """Text against what it stands on: a contrast of 4.5 at least, as WCAG asks for."""
    light, dark = draw(read_imports(ROOT)).split("@media (prefers-color-scheme: dark)")
    colours = {}
    for scheme, text in (("light", light), ("dark", dark)):
        rules = dict(re.findall(r"([.a-z]+) \{[^}]*?fill: (#\w{6})", text))
        colours[scheme] = rules
        for ink, paper in product(("text", ".note"), (".paper", ".wing", ".face", ".kernels", ".part")):
            assert contrast(rules[ink], rules[paper]) >= 4.5, (scheme, ink, paper)
        assert contrast(rules[".tip"], rules[".paper"]) >= 4.5
    assert colours["light"].keys() == colours["dark"].keys()


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
