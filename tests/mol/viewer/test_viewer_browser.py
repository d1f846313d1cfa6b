"""The page in a real browser, where there is one: its picture, switches, keys, loop, files, looks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import BROWSER, WHY_NOT, Browser, Page
from hostile import NAMES
from PIL import Image
from viewer_films import EXPRESSIONS, READ_NUMBER, numbered_frames, viewer_data

from mol.common.storage import csv_text, read_csv
from mol.scoring.expression import Expression
from mol.viewer.expressions import expressions_csv
from mol.viewer.page import write_page

pytestmark = pytest.mark.skipif(BROWSER is None, reason=WHY_NOT)

FRAMES = 64
FRAME = "Number(document.body.dataset.frame)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a film of two people."""
    return write_page(tmp_path_factory.mktemp("page") / "page.html", viewer_data(FRAMES, people=2), numbered_frames)


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Page]:
    """The page, opened; in the end it has complained of nothing and asked for nothing but itself."""
    page = opened(browser, file)
    yield page
    assert page.complaints() == []
    assert [address for address in page.requests() if not address.startswith("blob:")] == [file.as_uri()]
    page.close()


def opened(browser: Browser, file: Path, **window: object) -> Page:
    page = browser.open(file, **window)
    page.wait("document.body.dataset.ready")
    return page


def wait_for(page: Page, number: int) -> None:
    page.wait(f"{FRAME} === {number}")


def rightness(page: Page, number: int) -> None:
    """Wait for a frame; its number must be that in the picture."""
    wait_for(page, number)
    assert page.run(READ_NUMBER) == number


def pressed(page: Page, name: str) -> str:
    return page.run(f"document.getElementById('{name}').getAttribute('aria-pressed')")


def choose(page: Page, name: str, value: str) -> None:
    """Choose an entry of a list."""
    page.run(
        f"""(() => {{
          const list = document.getElementById("{name}");
          list.value = "{value}";
          list.dispatchEvent(new Event("change", {{bubbles: true}}));
        }})()"""
    )


def test_every_frame_shows_its_own_picture(page: Page):
    rightness(page, 0)
    for number in (*range(1, 6), *range(4, 1, -1)):
        page.press("ArrowRight" if page.run(FRAME) < number else "ArrowLeft")
        rightness(page, number)
    for key, number in (("End", 63), ("Home", 0)):
        page.press(key)
        rightness(page, number)
    page.press("ArrowRight", shift=True)
    rightness(page, 25)
    page.press("ArrowLeft", shift=True)
    rightness(page, 0)


def test_frames_of_a_variable_rate_and_of_a_high_speed_film_are_found(browser: Browser, tmp_path: Path):
    rng = np.random.default_rng(2)
    for seconds in (np.cumsum(rng.uniform(0.002, 0.3, 40)), np.arange(40) / 1000):
        data = viewer_data(40, fps=1 / np.diff(seconds).mean(), expressions=None, seconds=seconds - seconds[0])
        page = opened(browser, write_page(tmp_path / "page.html", data, numbered_frames))
        for key, numbers in (("ArrowRight", (1, 2, 3, 4)), ("End", (39,)), ("ArrowLeft", (38, 37))):
            for number in numbers:
                page.press(key)
                rightness(page, number)
        page.close()


def test_playing_moves_on_and_space_stops_it(page: Page):
    page.press(" ")
    page.wait(f"{FRAME} > 5")
    assert page.run("document.getElementById('play').getAttribute('aria-label')") == "Pause"
    page.press(" ")
    time.sleep(0.2)
    number = page.run(FRAME)
    time.sleep(0.2)
    assert page.run(FRAME) == number < FRAMES - 1
    assert page.run(READ_NUMBER) == number


def test_switches_change_the_picture_and_off_is_the_bare_film(page: Page):
    page.press("End")
    wait_for(page, 63)
    seen = [drawn(page)]
    for key, name in (("l", "landmarks"), ("f", "flow"), ("s", "square")):
        assert pressed(page, name) == "true"
        page.press(key)
        assert pressed(page, name) == "false"
        seen.append(drawn(page))
    assert len({picture.tobytes() for picture in seen}) == 4
    # Grey all over, also where the square was; but for the names of two people.
    bare = seen[-1][int(0.7 * len(seen[-1])) :].astype(int)
    assert np.ptp(bare, axis=-1).max() < 6
    page.click("#flow")
    assert pressed(page, "flow") == "true"
    page.press("a")
    assert np.ptp(drawn(page).astype(int), axis=-1).max() > 50


def drawn(page: Page) -> np.ndarray:
    """(H, W, 3) of the canvas."""
    width, height, values = page.run(
        """(() => {
          const canvas = document.querySelector("#picture");
          const {width, height} = canvas;
          const small = Object.assign(document.createElement("canvas"), {width: 160, height: 120});
          small.getContext("2d").drawImage(canvas, 0, 0, 160, 120);
          return [160, 120, [...small.getContext("2d").getImageData(0, 0, 160, 120).data]];
        })()"""
    )
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


def test_pressing_and_dragging_on_the_time_lanes_seeks(page: Page):
    width = page.box("#time")["width"]

    def place(number: int) -> float:
        return 92 + (width - 92) * (number + 0.3) / FRAMES

    page.click("#time", place(17), 10)
    rightness(page, 17)
    page.drag("#time", [(place(20), 110), (place(30), 110), (place(41), 110)])
    rightness(page, 41)
    page.hover("#time", place(33), 130)
    assert "happiness" in page.run("document.getElementById('tip').textContent")
    page.hover("#time", place(33), 250)
    assert "right brow" in page.run("document.getElementById('tip').textContent")


def test_zoom_in_time_keeps_what_is_under_the_pointer(page: Page):
    width = page.box("#time")["width"]
    middle = 92 + (width - 92) / 2
    page.wheel("#time", middle, 130, -300, ctrl=True)
    page.wait("!document.getElementById('overview').hidden")
    page.click("#time", middle, 10)
    rightness(page, FRAMES // 2)
    page.click("#time", width - 2, 10)
    page.wait(f"{FRAME} !== {FRAMES // 2}")
    assert page.run(FRAME) < FRAMES - 8
    page.press("0")
    assert page.run("document.getElementById('overview').hidden")


def test_an_expression_is_looped_slowly_until_escape(page: Page):
    choose(page, "margin", "0")
    page.click("tbody tr:nth-child(1) td:nth-child(3)")
    assert page.run("document.getElementById('speed').value") == "0.25"
    assert "happiness" in page.run("document.getElementById('looped').textContent")
    first = EXPRESSIONS[0]
    page.wait(f"{FRAME} >= {first.onset} && {FRAME} <= {first.apex}")
    choose(page, "speed", "1")
    seen = page.run(
        """new Promise((done) => {
          const seen = [];
          const note = () => seen.push(Number(document.body.dataset.frame));
          const watch = new MutationObserver(note);
          watch.observe(document.body, {attributeFilter: ["data-frame"]});
          setTimeout(() => { watch.disconnect(); done(seen); }, 1500);
        })"""
    )
    assert first.onset <= min(seen) <= max(seen) <= first.offset + 1
    back = np.flatnonzero(np.diff(seen) < 0)
    assert len(back) >= 2, seen  # it has come round: a loop of 0.36 s
    page.press("Escape")
    assert page.run("document.getElementById('looping').hidden")
    assert page.run("document.getElementById('speed').value") == "1"


def test_expressions_are_reached_by_keys_and_in_their_lane(page: Page):
    for one in EXPRESSIONS:
        page.press("n")
        rightness(page, one.apex)
    page.press("p")
    rightness(page, EXPRESSIONS[1].apex)
    page.press("Enter")
    page.wait("!document.getElementById('looping').hidden")
    assert page.run("document.querySelector('tr.active td').textContent") == "blink"
    page.press("n")
    assert "surprise" in page.run("document.getElementById('looped').textContent")
    page.press("Escape")
    width = page.box("#time")["width"]
    page.click("#time", 92 + (width - 92) * 10.5 / FRAMES, 22 + 17 + 10)
    assert "happiness" in page.run("document.getElementById('looped').textContent")
    page.press("Escape")
    page.click("#chips button:nth-child(3)")
    assert page.run("document.querySelectorAll('tbody tr').length") == 2
    page.press("Home")
    wait_for(page, 0)
    for one in (EXPRESSIONS[0], EXPRESSIONS[2]):
        page.press("n")
        wait_for(page, one.apex)


def test_speed_and_help_by_keys(page: Page):
    for key, speed in (("-", "0.5"), ("-", "0.25"), ("-", "0.1"), ("-", "0.1"), ("+", "0.25")):
        page.press(key)
        assert page.run("document.getElementById('speed').value") == speed
    page.press("?", shift=True)
    assert page.run("document.getElementById('keys').open")
    page.press("l")
    assert pressed(page, "landmarks") == "true"
    page.press("Escape")
    assert not page.run("document.getElementById('keys').open")
    page.press("Tab")
    assert page.run("document.activeElement.id") == "theme"
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_another_person_has_its_own_values(page: Page):
    before = page.run("document.getElementById('classes').textContent")
    page.press("End")
    wait_for(page, 63)
    # The second square of the picture.
    box = page.box("#picture")
    page.click("#picture", box["width"] * 100 / 128, box["height"] * 70 / 96)
    assert page.run("document.getElementById('person').value") == "1"
    assert page.run("document.getElementById('classes').textContent") != before
    assert page.run("document.querySelectorAll('tbody tr').length") == 0
    assert "No expression was found" in page.run("document.getElementById('none').textContent")


def test_files_hold_the_same_as_those_of_the_commands(page: Page, tmp_path: Path):
    page.downloads_to(tmp_path)
    page.click("#save-expressions")
    page.click("#save-series")
    expressions, series = tmp_path / "film-expressions.csv", tmp_path / "film-values.csv"
    until = time.monotonic() + 10
    while not (expressions.exists() and series.exists()) and time.monotonic() < until:
        time.sleep(0.05)
    data = viewer_data(FRAMES, people=2)
    people = [(person.name, person.expressions or ()) for person in data.people]
    assert expressions.read_text() == expressions_csv(people, data.seconds, data.duration)
    rows = [row for _, row in read_csv(series, ("person", "seconds"), "")]
    assert len(rows) == sum(len(person.series.times) for person in data.people)
    last = data.people[1].series
    assert float(rows[-1]["probability_surprise"]) == pytest.approx(last.probabilities[-1, 1], abs=1e-4)
    assert float(rows[-1]["flow_mouth"]) == pytest.approx(last.flow[-1, 2], abs=1e-4)


@pytest.mark.parametrize(("width", "scale"), [(1400, 1), (360, 2)])
def test_page_fits_its_window_light_and_dark_and_is_sharp(browser: Browser, file: Path, tmp_path: Path, width, scale):
    page = opened(browser, file, width=width, height=900, scale=scale)
    assert page.run("document.documentElement.scrollWidth") <= width
    sizes = page.run(
        "['picture', 'time'].map((id) => { const c = document.getElementById(id); return c.width / c.clientWidth; })"
    )
    assert sizes == pytest.approx([scale, scale], rel=0.01)
    brightness = [median(page, tmp_path)]
    page.prefer(dark=True, reduced_motion=True)
    brightness.append(median(page, tmp_path))
    assert page.run("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    page.click("#theme")
    brightness.append(median(page, tmp_path))
    page.click("#theme")
    page.prefer(dark=False)
    brightness.append(median(page, tmp_path))
    page.click("#theme")
    assert [value > 200 for value in brightness] == [True, False, True, False]
    assert [value < 60 for value in brightness] == [False, True, False, True]
    page.close()


def median(page: Page, folder: Path) -> float:
    page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return float(np.median(np.asarray(Image.open(page.screenshot(folder / "page.png")).convert("L"), float)))


def test_names_are_text_whatever_they_hold(browser: Browser, tmp_path: Path):
    names = tuple(NAMES)
    shown = [Expression(3 * place, 3 * place + 1, 3 * place + 2, emotion=name) for place, name in enumerate(names)]
    title = "</script><script>document.title = 'run'</script>\u2028<!--.mp4"
    data = viewer_data(FRAMES, classes=names, expressions=shown, title=title)
    page = opened(browser, write_page(tmp_path / "page.html", data, numbered_frames))
    page.downloads_to(tmp_path)
    page.click("#save-expressions")
    page.hover("#time", 300, 130)
    assert page.run("document.querySelectorAll('img').length") == 0
    assert page.run("document.querySelector('h1').textContent") == title
    assert page.run("[...document.querySelectorAll('tbody button')].map((button) => button.textContent)") == [
        name.replace("_", " ") for name in names
    ]
    (saved,) = wait_for_file(tmp_path)
    rows = [row for _, row in read_csv(saved, ("emotion",), "")]
    assert [row["emotion"] for row in rows] == list(names)
    assert csv_text("'=1") == "=1"
    assert "\n'=HYPERLINK" not in saved.read_text().replace(",\"'=HYPERLINK", "")
    assert page.complaints() == []
    page.close()


def wait_for_file(folder: Path) -> list[Path]:
    until = time.monotonic() + 10
    while not (found := list(folder.glob("*-expressions.csv"))) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def test_a_page_without_expressions_looks_and_flow(browser: Browser, tmp_path: Path):
    data = viewer_data(12, expressions=None, with_looks=False)
    page = opened(browser, write_page(tmp_path / "page.html", data, numbered_frames))
    assert page.run("document.getElementById('save-expressions').hidden")
    assert "mol spot" in page.run("document.getElementById('none').textContent")
    assert page.run("['flow', 'landmarks', 'next'].map((id) => document.getElementById(id).disabled)") == [True] * 3
    for key in "nplfsa":
        page.press(key)
    page.press("Enter")
    page.press("ArrowRight")
    rightness(page, 1)
    assert page.complaints() == []
    page.close()
