"""The report in a real browser, where there is one: it shows, loads nothing, and fits wide and narrow windows."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from loso_runs import SETS, write_loso_run
from PIL import Image

import mol.report.sections.failures
from mol.pictures.evaluation import Seen
from mol.report.misread import Failure
from mol.report.report import ReportConfig, report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
QUIET = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --hide-scrollbars --virtual-time-budget=3000
""".split()  # noqa: SIM905 - read as the command line that it is

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is on the PATH")


def browse(folder: Path, page: Path, *options: str) -> str:
    """Open a page; what the browser prints."""
    assert BROWSER
    command = [BROWSER, *QUIET, f"--user-data-dir={folder / 'profile'}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of a run, with pictures of failures from random numbers, and that of a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    paths = [
        write_loso_run(folder / name, seeds=(0, 1), number=index) for index, name in enumerate(("first", "second"))
    ]
    long_name = "a-rather-long-name-of-a-run-that-somebody-chose-to-tell-it-from-forty-others"
    paths.append(
        write_loso_run(folder / long_name, seeds=(0,), number=2, done=4, settings={"normalisation": "released-subject"})
    )
    page = report(ReportConfig([str(paths[0])], device="cpu"))
    failures = page_with_failures(paths[0], folder / "failures")
    comparison = report(ReportConfig([str(path) for path in paths], out=str(folder / "comparison")))
    return {"run": page, "failures": failures, "comparison": comparison}


def page_with_failures(path: Path, folder: Path) -> Path:
    """A report as if checkpoints and caches were there."""
    generator = np.random.default_rng(3)
    seen = Seen(
        frames=generator.integers(0, 255, (8, 128, 128), dtype=np.uint8),
        numbers=range(40, 72, 4),
        flow=generator.normal(size=(7, 2, 128, 128)),
        flow_ours=generator.normal(size=(7, 2, 128, 128)),
        landmarks=generator.uniform(0, 128, (7, 68, 2)),
        landmarks_ours=generator.uniform(0, 128, (7, 68, 2)),
    )

    def read_again(run: object, failures: list[Failure], device: object) -> list[Failure]:
        return [Failure(failure.video, seen) for failure in failures]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mol.report.sections.failures, "read_again", read_again)
        return report(ReportConfig([str(path)], out=str(folder), failures=2, device="cpu"))


NAMES = ("run", "failures", "comparison")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1280, 420])
def test_page_fits_the_window_and_every_picture_shows(pages: dict[str, Path], tmp_path: Path, name: str, width: int):
    found = measure(tmp_path, pages[name], width)
    assert found["scrollWidth"] <= width
    assert found["height"] > 1000
    assert all(size > 0 for size in found["images"])
    assert (len(found["images"]) > 0) == (name == "failures")


def measure(folder: Path, page: Path, width: int) -> dict:
    """Sizes in a window of `width`: the page in a frame, because browsers have no windows as narrow as telephones."""
    script = """
      const frame = document.querySelector('iframe');
      frame.onload = () => {
        const inside = frame.contentDocument;
        const images = [...inside.images].map(image => image.naturalWidth);
        const {scrollWidth, scrollHeight} = inside.documentElement;
        document.body.dataset.found = JSON.stringify({scrollWidth, images, height: scrollHeight});
      };
      frame.srcdoc = SOURCE;
    """.replace("SOURCE", json.dumps(page.read_text(encoding="utf-8")).replace("</", "<\\/"))
    wrapper = folder / "wrapper.html"
    wrapper.write_text(
        f'<!doctype html><body><iframe width="{width}" height="900" style="border:0"></iframe><script>{script}</script>'
    )
    printed = browse(folder, wrapper, "--dump-dom")
    found = re.search(r'data-found="([^"]+)"', printed)
    assert found, printed[:500]
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("name", NAMES)
def test_page_can_load_nothing_even_where_it_names_something(pages: dict[str, Path], tmp_path: Path, name: str):
    assert requests_of(tmp_path, pages[name].read_text(encoding="utf-8")) == []


def test_a_page_without_the_policy_does_load_it(pages: dict[str, Path], tmp_path: Path):
    """So the server of the test above can be reached."""
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    text = policy.sub("", pages["run"].read_text(encoding="utf-8"))
    assert requests_of(tmp_path, text) == ["/picture.png", "/script.js"]


def requests_of(folder: Path, text: str) -> list[str]:
    """What a page asks of a server after a foreign picture and script have been put into it."""
    asked: list[str] = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        foreign = f'<img src="{address}/picture.png"><script src="{address}/script.js"></script></main>'
        page = folder / "foreign.html"
        page.write_text(text.replace("</main>", foreign, 1), encoding="utf-8")
        assert "</main>" in browse(folder, page, "--dump-dom")
        server.shutdown()
    return sorted(asked)


@pytest.mark.parametrize("name", ["run", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])])
def test_page_is_drawn_light_and_dark(pages: dict[str, Path], tmp_path: Path, name: str):
    brightness = {}
    for scheme, options in (("light", ()), ("dark", ("--force-dark-mode",))):
        target = tmp_path / f"{scheme}.png"
        browse(tmp_path, pages[name], f"--screenshot={target}", "--window-size=1280,2400", *options)
        pixels = np.asarray(Image.open(target).convert("L"), dtype=float)
        assert pixels.shape == (2400, 1280)
        # Text and rules all the way down the left two thirds, so not blank.
        assert all(part.std() > 3 for part in np.array_split(pixels[:1600], 4))
        brightness[scheme] = np.median(pixels)
    assert brightness["light"] > 200
    assert brightness["dark"] < 60


def test_banner_of_an_unfinished_run_stands_above_the_scores(tmp_path: Path):
    page = report(
        ReportConfig([str(write_loso_run(tmp_path / "part", sets={"samm": SETS["samm"]}, done=1))], device="cpu")
    )
    printed = browse(tmp_path, page, "--dump-dom")
    assert printed.index("Not reportable") < printed.index("Scores")
