"""``docs/datasets.md``: its generated part is what the data sets state, and the rest agrees with it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from markdown_parts import generated_part
from places import ROOT

from mol.data.protocols import PROTOCOLS
from mol.data.sets import casme2, generic
from mol.data.sets.__main__ import markdown
from mol.data.sets.registry import SETS
from mol.synth.layouts import LAYOUTS

PAGE = ROOT / "docs/datasets.md"
TEXT = PAGE.read_text(encoding="utf-8")


def section(name: str) -> str:
    """The page from the anchor of a data set to the next one or the next part."""
    return re.split(r"<a id=|<!-- |\n## No ", TEXT.partition(f'<a id="{name}"></a>')[2])[0]


def test_the_page_has_what_the_data_sets_state() -> None:
    assert generated_part(TEXT, "sets") == markdown(), "run python -m mol.data.sets docs/datasets.md"


def test_the_command_writes_the_page(tmp_path) -> None:
    page = tmp_path / "datasets.md"
    page.write_text(TEXT.replace(markdown(), "old"), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "mol.data.sets", str(page)], check=True, cwd=ROOT)
    assert page.read_text(encoding="utf-8") == TEXT


@pytest.mark.parametrize("name", SETS)
def test_the_section_of_a_set_has_its_facts(name: str) -> None:
    entry, text = SETS[name], section(name)
    facts = [entry.title, entry.citation, entry.access, entry.url, entry.remarks, *entry.tree.strip().splitlines()]
    facts += [f"{emotion} {count}" for emotion, count in entry.counts.items()]
    facts += [f"| {quirk} | {done} |" for quirk, done in entry.quirks]
    assert [fact for fact in facts if fact not in text] == []
    assert f"mol prepare --dataset {name}" in re.sub(" +", " ", text)
    (row,) = re.findall(rf"^\| \[`{name}`\]\(#{name}\) \|.*$", TEXT, re.MULTILINE)
    for fact in (entry.title, entry.subject, f"{entry.fps:g}" if entry.fps else "–", entry.clips or "–"):
        assert f"{fact}" in row


def test_every_name_in_a_command_exists() -> None:
    assert set(re.findall(r"--dataset ([\w-]+)", TEXT)) == set(SETS)
    assert set(re.findall(r"--layout ([\w-]+)", TEXT)) <= {*LAYOUTS, "long"}
    assert set(re.findall(r"--protocol ([\w-]+)", TEXT)) <= {*PROTOCOLS, "as-labelled"}


def test_links_within_the_page_have_targets() -> None:
    anchors = set(re.findall(r'<a id="([^"]+)">', TEXT))
    headings = {
        re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^##+ (.+)$", TEXT, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors | headings


def test_the_columns_of_ones_own_table_are_those_of_its_loader() -> None:
    (header,) = re.findall(r"^ +(subject,clip,.+)$", section("generic"), re.MULTILINE)
    assert set(header.split(",")) == set(generic.COLUMNS) - set(re.findall(r"`(dataset|fps|action_units)`", TEXT))


def test_the_example_of_time_and_space_is_casme2() -> None:
    assert f"CASME II has {casme2.SET.clips} clips" in TEXT
