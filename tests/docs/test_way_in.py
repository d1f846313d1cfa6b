"""What CONTRIBUTING, the page on architecture, the changelog and the citation say is there."""

import re

import pytest
import yaml
from places import ROOT

import molkernels

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_what_a_page_links_to_and_names_is_there(name):
    page = ROOT / name
    text = page.read_text(encoding="utf-8")
    links = [target.partition("#")[0] for target in re.findall(r"\]\(((?!http)[^)]+)\)", text)]
    for target in filter(None, links):
        assert (page.parent / target).exists(), target
    named = re.findall(r"`((?:mol|molkernels|tests|tools|docs|csrc|bench)/[\w./]+)`", text)
    assert named
    for path in named:
        assert (ROOT / path).exists(), path


def test_the_table_of_checks_has_every_target_that_checks():
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    table = re.findall(r"^\| `make ([a-z-]+)` \|", CONTRIBUTING, re.MULTILINE)
    assert set(table) == targets - {"install", "demo", "demo-long", "loso", "clean"}


def test_changelog_and_citation_have_the_version_and_its_date():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version, date = re.search(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", changelog, re.MULTILINE).groups()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], str(citation["date-released"])) == (version, date)
    assert molkernels.__version__ == version


def test_ci_tests_what_the_metadata_promises():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert matrix["python"][0] == oldest[1]
    assert workflow["env"]["TORCH"].startswith(re.search(r"^TORCH \?= (\S+)", MAKEFILE, re.MULTILINE)[1])
    assert workflow["jobs"]["test"]["steps"][-1] == {"run": ".ci/run"}


@pytest.mark.parametrize("name", ["bug.yml", "data-set.yml", "feature.yml"])
def test_issue_forms_are_what_github_takes(name):
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / name).read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    questions = {entry["id"]: entry["attributes"]["label"] for entry in form["body"]}
    assert len(questions) == len(form["body"])
    asks = any("mol info" in str(entry) for entry in form["body"])
    assert asks == (name != "feature.yml")
