"""Write the page: styles, scripts, numbers and the film in one HTML file, streamed into it piece by piece."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from mol.common.names import path_part
from mol.common.storage import write_atomic
from mol.pictures.markup import Markup, element, facts, join
from mol.pictures.page_style import PAGE_STYLE, themed
from mol.pictures.style import CLASS_COLOURS
from mol.viewer.data import Person, Series, ViewerData
from mol.viewer.expressions import COLUMNS, expression_rows
from mol.viewer.film import Clock, encode_film, media_clock
from mol.viewer.looks import ABSENT, GRID, LOOK, UNIT, WITHOUT_FLOW
from mol.viewer.thinning import MOST_LOOKS, PAGE_MINUTES, Kept, kept_frames
from mol.vision.points import SKELETON

_SCRIPTS = ("data.js", "film.js", "stage.js", "timeline.js", "table.js", "viewer.js")
_OPEN_NOTES = 3
Walk = Callable[[Sequence[int]], Iterable[np.ndarray]]

# Bytes per piece of base64, a multiple of three so that the pieces can be joined.
_PIECE = 3 << 16


def write_page(path: Path, data: ViewerData, walk: Walk, minutes: float = PAGE_MINUTES) -> Path:
    """Write one HTML file that needs nothing else.

    Args:
        path: the file to create or replace, whole or not at all.
        data: what is shown.
        walk: gives the frames (H, W) uint8 of some numbers, ascending, such as `Footage.walk`; called once, and each
            picture is let go before the next is taken.
        minutes: of film, of which the page may hold every frame; see `kept_frames`.
    Returns:
        `path`.
    Raises:
        StorageError: the page could not be written; nothing was overwritten and nothing is left.
        MediaError: a frame cannot be read.
    """
    shown = [one for person in data.people for one in person.expressions or ()]
    kept = kept_frames(data.seconds, data.duration, shown, minutes, _most_frames(data))
    clock = media_clock(data.seconds[kept.numbers], data.duration)
    path = Path(path)

    def write(temporary: Path) -> None:
        film = temporary.with_name(temporary.name + ".film")
        try:
            kind = encode_film(film, walk(kept.numbers.tolist()), clock)
            with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as page:
                _write(page, data, kept, clock, kind, film)
        finally:
            film.unlink(missing_ok=True)

    write_atomic(path, write)
    return path


def _most_frames(data: ViewerData) -> int:
    return max(1000, MOST_LOOKS // max(1, len(data.people)))


def _write(page: TextIO, data: ViewerData, kept: Kept, clock: Clock, kind: str, film: Path) -> None:
    script = _script()
    parts = {
        "title": element("title", data.title),
        "policy": _policy(script),
        "style": element("style", Markup(PAGE_STYLE + class_colours(len(data.classes)) + _asset("viewer.css"))),
        "header": _header(data, kept),
        "script": Markup(f"<script>{script}</script>"),
    }
    for piece in _asset("viewer.html").split("<!-- "):
        name, closed, rest = piece.partition(" -->")
        if not closed:
            page.write(piece)
        elif name == "data":
            _write_data(page, data, kept, clock, kind, film)
            page.write(rest)
        else:
            page.write(parts[name] + rest)


def _asset(name: str) -> str:
    return resources.files("mol.viewer").joinpath("assets", name).read_text(encoding="utf-8")


def _script() -> str:
    """All scripts as one, which leaves nothing in the global scope."""
    return "\n(() => {\n'use strict';\n" + "\n".join(_asset(name) for name in _SCRIPTS) + "})();\n"


def _policy(script: str) -> Markup:
    """The page runs its own script only and loads nothing, even if a name in the data were taken for markup."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return element(
        "meta",
        http_equiv="Content-Security-Policy",
        content=f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "media-src blob:; base-uri 'none'; form-action 'none'",
    )


def class_colours(classes: int) -> str:
    """The hues of classes, raised on dark ground."""
    named = [(f"--class-{place}", CLASS_COLOURS[place % len(CLASS_COLOURS)]) for place in range(classes)]
    light = "".join(f"{name}: {hue}; " for name, hue in named)
    dark = "".join(f"{name}: color-mix(in srgb, {hue} 66%, white); " for name, hue in named)
    return themed(light, dark)


def _header(data: ViewerData, kept: Kept) -> Markup:
    notes = [*data.notes, *([kept.note] if kept.note else [])]
    several = len(data.people) > 1
    verdicts = [f"{person.name}: {person.verdict}" if several else person.verdict for person in data.people]
    notes += [f"{person.name}: {note}" if several else note for person in data.people for note in person.notes]
    pairs = [
        ("Length", f"{_spoken(data.duration)}, {len(data.seconds)} frames"),
        ("Rate", f"{data.fps:.4g} frames per second"),
        *data.facts.items(),
    ]
    return join(
        [
            element("h1", data.title),
            [element("p", verdict.replace("_", " "), class_="lead") for verdict in verdicts],
            facts(pairs),
            _notes(notes),
        ]
    )


def _notes(notes: Sequence[str]) -> Markup | None:
    if not notes:
        return None
    heading = "1 note" if len(notes) == 1 else f"{len(notes)} notes"
    items = element("ul", [element("li", note[:1].upper() + note[1:]) for note in notes])
    return element("details", element("summary", heading), items, class_="notes", open=len(notes) <= _OPEN_NOTES)


def _spoken(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 60 else f"{int(seconds // 60)} min {seconds % 60:.1f} s"


def _write_data(page: TextIO, data: ViewerData, kept: Kept, clock: Clock, kind: str, film: Path) -> None:
    page.write(
        f'<script type="application/json" id="data">{embedded_json(_describe(data, kept, clock, kind))}</script>\n'
    )
    _write_bytes(page, "numbers", [kept.numbers.astype("<u4").tobytes()])
    _write_bytes(page, "seconds", [data.seconds[kept.numbers].astype("<f8").tobytes()])
    _write_bytes(page, "media", [clock.starts.astype("<u4").tobytes()])
    for place, person in enumerate(data.people):
        for name, values in _series(person.series):
            _write_bytes(page, f"{name}-{place}", [values.tobytes()])
        if person.looks is not None:
            _write_bytes(page, f"looks-{place}", _records(person, kept.numbers))
    with open(film, "rb") as file:
        _write_bytes(page, "film", iter(lambda: file.read(_PIECE), b""))


def _series(series: Series) -> Iterator[tuple[str, np.ndarray]]:
    yield "times", np.asarray(series.times, "<f8")
    yield "probabilities", np.asarray(series.probabilities, "<f4")
    if series.flow is not None:
        yield "flow", np.asarray(series.flow, "<f4")


def _records(person: Person, numbers: np.ndarray) -> Iterator[bytes]:
    """Landmarks, square and flow of the kept frames, as `LOOK` records; without flow if there is none."""
    assert person.looks is not None
    for number in numbers.tolist():
        yield person.looks.read(number).tobytes()[: _record_size(person)]


def _record_size(person: Person) -> int:
    return LOOK.itemsize if person.looks is not None and person.looks.has_flow else WITHOUT_FLOW


def _write_bytes(page: TextIO, name: str, pieces: Iterable[bytes]) -> None:
    """Bytes as base64 in elements that the script puts together; none is long enough to be slow."""
    for piece in _pieces(pieces):
        page.write(
            f'<script type="text/plain" data-bytes="{name}">{base64.b64encode(piece).decode("ascii")}</script>\n'
        )


def _pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of `_PIECE`, the last one shorter."""
    waiting = bytearray()
    for part in parts:
        waiting += part
        while len(waiting) >= _PIECE:
            yield bytes(waiting[:_PIECE])
            del waiting[:_PIECE]
    if waiting:
        yield bytes(waiting)


def _describe(data: ViewerData, kept: Kept, clock: Clock, kind: str) -> dict[str, Any]:
    people = [(person.name, person.expressions or ()) for person in data.people]
    return {
        "title": data.title,
        "file": path_part(Path(data.title).stem),
        "classes": list(data.classes),
        "regions": list(data.regions),
        "probability": data.probability,
        "fps": data.fps,
        "frames": len(data.seconds),
        "duration": data.duration,
        "size": list(data.size),
        "thinned": [list(stretch) for stretch in kept.thinned],
        "kind": kind,
        "end": clock.end,
        "stretch": clock.stretch,
        "look": {"unit": UNIT, "absent": ABSENT, "grid": GRID, "skeleton": [list(chain) for chain in SKELETON]},
        "columns": list(COLUMNS),
        "people": [
            {
                "name": person.name,
                "verdict": person.verdict,
                "record": _record_size(person),
                "flow": person.looks is not None and person.looks.has_flow,
                "spotted": person.expressions is not None,
                "expressions": expression_rows([people[place]], data.seconds, data.duration),
            }
            for place, person in enumerate(data.people)
        ],
    }


def embedded_json(value: Any) -> str:
    """JSON that ends no script element, whatever its texts hold, and that is a literal of JavaScript."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
