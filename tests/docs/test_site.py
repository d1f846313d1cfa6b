"""The documentation site: complete navigation, links that hold, a build without warnings and without the network."""

import ast
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from places import ROOT, environment

DOCS = ROOT / "docs"
WINGS = DOCS / "reference" / "mol"
OUTSIDE = [path for path in (ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md") if path.exists()]
OUTSIDE += [ROOT / "bench" / "README.md", ROOT / "csrc" / "README.md"]
PAGES = [*sorted(DOCS.rglob("*.md")), *sorted(DOCS.rglob("*.rst")), *OUTSIDE]


def navigation() -> list[str]:
    """The pages of NAV in docs/conf.py, without running it."""
    for statement in ast.parse((DOCS / "conf.py").read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "NAV":
            return [page for pages in ast.literal_eval(statement.value).values() for page in pages]
    raise AssertionError("docs/conf.py has no NAV")


def listed() -> list[str]:
    """All pages that the sidebar leads to."""
    contents = (WINGS / "index.rst").read_text(encoding="utf-8").partition(".. toctree::")[2]
    wings = re.findall(r"^   (\w+)$", contents, re.MULTILINE)
    return ["docs/index", *navigation(), *(f"docs/reference/mol/{wing}" for wing in wings)]


def test_the_sidebar_leads_to_every_page_once():
    assert sorted(listed()) == sorted(path.relative_to(ROOT).with_suffix("").as_posix() for path in PAGES)


def test_every_package_of_mol_is_on_one_page():
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "mol").rglob("__init__.py")}
    shown: list[str] = []
    for page in WINGS.glob("*.rst"):
        wing = re.search(
            r"^\.\. wing:: (\S+)$(?:\n   :without: (.*)$)?", page.read_text(encoding="utf-8"), re.MULTILINE
        )
        if wing:
            inside = {name for name in packages if name.startswith(f"{wing[1]}.")}
            shown += [wing[1], *(inside - set((wing[2] or "").split()) if wing[2] != "*" else ())]
    assert sorted(shown) == sorted(packages)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_a_page_lead_to_files(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


class Links(HTMLParser):
    """Where a page leads, what it loads, and the anchors that it has."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.leads: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors.add(values.get("id", ""))
        if tag == "a" and "href" in values:
            self.leads.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical", "index", "search", "next", "prev"):
            self.loads.append(values["href"])
        elif "src" in values:
            self.loads.append(values["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` builds it."""
    recipe = re.search(r"^docs: install\n\t\$\(BIN\)/(.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)[1]
    folder = tmp_path_factory.mktemp("site")
    words = recipe.replace("build/", f"{folder}/").split()
    assert words[0] == "python"
    done = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout
    return folder / "docs"


@pytest.mark.slow
def test_the_site_needs_no_network(site):
    for page in site.rglob("*.html"):
        assert [address for address in Links(page).loads if urlsplit(address).netloc] == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


@pytest.mark.slow
def test_every_link_within_the_site_leads_somewhere(site):
    pages = {page: Links(page) for page in site.rglob("*.html")}
    assert len(pages) > len(PAGES)
    broken = []
    for page, links in pages.items():
        for address in links.leads + links.loads:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            missing = not target.is_file()
            if not missing and parts.fragment and target in pages:
                missing = unquote(parts.fragment) not in pages[target].anchors
            if missing:
                broken.append(f"{page.relative_to(site)} → {address}")
    assert broken == []


@pytest.mark.slow
def test_the_reference_has_the_public_names_with_their_arguments(site):
    page = (site / "docs" / "reference" / "molkernels.html").read_text(encoding="utf-8")
    for name in ("F5C", "FCC", "CCC", "CostVolume", "backend", "explain"):
        assert f'id="molkernels.{name}"' in page
    assert "number of neighbours, the node itself included" in page
    commands = (site / "docs" / "reference" / "commands.html").read_text(encoding="utf-8")
    assert 'id="cmdoption-mol-loso-selection"' in commands
