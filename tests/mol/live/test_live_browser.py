"""The page in a real browser with a camera made of a film: what it shows, how it fails, two pages at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import BROWSER, WHY_NOT, Browser, Page
from films import write_film
from live_view import CLASSES, face_frames, live_view, write_camera_file
from PIL import Image

from mol.live.run import Live

pytestmark = pytest.mark.skipif(BROWSER is None, reason=WHY_NOT)

WINDOWS = "Number(document.body.dataset.windows || 0)"
CAMERA_OFF = "document.getElementById('stop').hidden"
FAKE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser whose camera sees a face."""
    folder = tmp_path_factory.mktemp("browser")
    frames = np.stack([cv2.resize(frame, (320, 240), interpolation=cv2.INTER_CUBIC) for frame in face_frames()])
    film = write_camera_file(folder / "camera.y4m", frames)
    browser = Browser(folder, [*FAKE, f"--use-file-for-fake-video-capture={film}"])
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_view(record=str(tmp_path_factory.mktemp("live") / "recorded")) as live:
        yield live


@pytest.fixture
def page(browser: Browser, live: Live) -> Iterator[Page]:
    """The page, opened; in the end it has complained of nothing and asked for nothing but its own files."""
    page = opened(browser, live)
    yield page
    assert page.complaints() == []
    assert all(address.startswith((live.server.address, "data:,", "blob:")) for address in page.requests())
    page.close()


def opened(browser: Browser, live: Live) -> Page:
    page = browser.open(live.server.address)
    page.wait("document.getElementById('notes').children.length")
    return page


def start_camera(page: Page, windows: int = 1) -> None:
    """Start the camera as soon as it is free, and wait for some more windows."""
    page.wait("!document.getElementById('start').hidden")
    before = page.run(WINDOWS)
    page.press("c")
    page.wait(f"{WINDOWS} > {before + windows}")


def text(page: Page, name: str) -> str:
    return page.run(f"document.getElementById('{name}').textContent")


def test_the_camera_is_shown_with_what_was_read_in_it(page: Page, tmp_path: Path):
    assert "no evidence of what a person feels" in text(page, "notes")
    assert page.run(CAMERA_OFF)
    page.wait("!document.getElementById('start').hidden")
    page.click("#go")
    page.wait(f"{WINDOWS} > 3")
    assert not page.run(CAMERA_OFF)
    values = page.run("[...document.querySelectorAll('#classes dd')].map((one) => Number(one.textContent))")
    assert len(values) == len(CLASSES)
    assert sum(values) == pytest.approx(1, abs=0.03)
    assert page.run("[...document.querySelectorAll('#classes b')].every((mark) => !mark.hidden)")
    assert float(page.run("document.body.dataset.latency")) > 0
    assert float(page.run("document.body.dataset.rate")) > 0
    # The picture is the face, with orange landmarks on it as long as they are switched on.
    page.press(" ")
    page.run("new Promise((done) => setTimeout(done, 200))")
    assert orange(page, tmp_path) > 20
    for key in "lfs":
        page.press(key)
    assert orange(page, tmp_path) == 0
    assert page.run("document.getElementById('landmarks').getAttribute('aria-pressed')") == "false"
    page.press(" ")
    before = page.run(WINDOWS)
    page.wait(f"{WINDOWS} > {before}")
    page.press("c")
    page.wait(CAMERA_OFF)
    page.wait("!document.getElementById('start').hidden")


def orange(page: Page, folder: Path) -> int:
    """Pixels of the picture in the colour of landmarks."""
    picture = np.asarray(Image.open(page.screenshot(folder / "shot.png")).convert("RGB")).astype(int)
    box = page.box("#picture")
    left, top = int(box["x"]), int(box["y"])
    part = picture[top : top + int(box["height"]), left : left + int(box["width"])]
    return int((np.abs(part - [255, 157, 60]).max(axis=-1) < 12).sum())


def test_recording_is_seen(page: Page, live: Live):
    assert not page.run("document.getElementById('recording').hidden")
    assert "Recording" in text(page, "recording")
    red = page.run("getComputedStyle(document.getElementById('recording')).backgroundColor")
    assert red == "rgb(198, 40, 40)"


def test_a_second_page_shows_the_first_ones_camera(page: Page, browser: Browser, live: Live):
    start_camera(page)
    second = opened(browser, live)
    second.wait(f"{WINDOWS} > 1")
    assert second.run("live.whose") == "elsewhere"
    assert second.run("document.getElementById('start').hidden")
    page.press("c")
    second.wait("!document.getElementById('start').hidden")
    assert second.complaints() == []
    second.close()


def test_a_camera_that_is_unplugged_is_missed(page: Page, live: Live):
    start_camera(page)
    page.run("live.camera.stream.getVideoTracks()[0].dispatchEvent(new Event('ended'))")
    page.wait("!document.getElementById('problem').hidden")
    assert "unplugged" in text(page, "problem")
    assert page.run(CAMERA_OFF)
    start_camera(page)  # and when it is back, it goes on
    assert page.run("document.getElementById('problem').hidden")


@pytest.mark.parametrize(
    ("options", "words"),
    [((), "No camera was found"), (("--use-fake-device-for-media-stream", "--deny-permission-prompts"), "may not use")],
)
def test_a_camera_that_is_not_there_or_not_allowed_is_named(
    live: Live, tmp_path: Path, options: tuple[str, ...], words: str
):
    browser = Browser(tmp_path, options)
    page = opened(browser, live)
    page.click("#go")
    page.wait("!document.getElementById('problem').hidden")
    assert words in text(page, "problem")
    assert not page.run("document.getElementById('start').hidden")
    browser.close()


def test_a_film_is_shown_to_its_end_and_the_end_of_the_program_is_seen(browser: Browser, tmp_path: Path):
    film = write_film(tmp_path / "face.mp4", np.concatenate([face_frames()] * 2)[:20])
    with live_view(video=str(film), as_live=True) as live:
        page = opened(browser, live)
        page.wait("!document.getElementById('again').hidden")
        assert "ended" in text(page, "state")
        page.click("#again")
        page.wait(f"{WINDOWS} > 0")
    page.wait("!document.getElementById('problem').hidden")
    assert "Start mol live again" in text(page, "problem")
    page.close()
