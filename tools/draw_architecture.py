"""The wings of `mol` on `molkernels`, as a drawing made from their imports.

    python -m tools.draw_architecture       # writes docs/images/architecture.svg

An arrow goes from a part to one that it imports. Those that follow from others are left out: where `report` imports
`loso` and `loso` imports `common`, an arrow from `report` to `common` would say nothing more about the order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from itertools import pairwise
from typing import NamedTuple

from tools.architecture import FACES, ORDER, ROOT, Import, part_of, read_imports

PICTURE = ROOT / "docs" / "images" / "architecture.svg"
FACE, KERNELS = "mol", "molkernels"

# What is in a wing, and the column that it is drawn in.
WINGS = {
    "common": ("errors, files, workers", 1),
    "vision": ("video, landmarks, flow", 1),
    "network": ("MOL, losses, weights", 2),
    "data": ("manifests, cache, clips", 1),
    "networks": ("MOL, baselines", 2),
    "pictures": ("faces, flow, scores", 1),
    "synth": ("clips of known motion", 0),
    "scoring": ("metrics, evaluation", 1),
    "export": ("ONNX, torch.export, C++", 0),
    "viewer": ("a page for a film", 2),
    "prediction": ("windows, overlay", 0),
    "live": ("a page with a camera", 0),
    "spotting": ("long videos", 2),
    "training": ("settings, loop, log", 1),
    "loso": ("folds, results, tables", 1),
    "report": ("pages, comparisons", 1),
}
# The path of a call through the kernels, and where it may end: module and name in the drawing.
CALL = ("modules", "functional", "ops", "dispatch")
BACKENDS = {"extension": "cpu, cuda", "triton": "triton", "reference": "reference"}

WIDTH, MARGIN, PITCH, HEIGHT = 560, 16, 84, 50
COLUMNS, WING_WIDTH = (98, 280, 462), 156
KERNELS_HEIGHT = 152

STYLE = """
    text { font-family: system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif; text-anchor: middle; fill: #1b2530 }
    .name { font-size: 15px; font-weight: 600 }
    .note { font-size: 12px; fill: #55606c }
    .paper { fill: #ffffff }
    .wing { fill: #eef4fa; stroke: #7d9cb8 }
    .face { fill: #fdf3e3; stroke: #c79a4b }
    .kernels { fill: #f4f5f7; stroke: #98a2ad }
    .part { fill: #ffffff; stroke: #98a2ad }
    .arrow { fill: none; stroke: #55606c; stroke-width: 1.6 }
    .tip { fill: #55606c }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .note { fill: #a9b4c0 }
      .paper { fill: #14181d }
      .wing { fill: #1c2b3a; stroke: #57799a }
      .face { fill: #35291a; stroke: #a67f3c }
      .kernels { fill: #1d2228; stroke: #66717d }
      .part { fill: #14181d; stroke: #66717d }
      .arrow { stroke: #a9b4c0 }
      .tip { fill: #a9b4c0 }
    }
"""


class Box(NamedTuple):
    """A rectangle: its centre from left to right, its top, its size; pixels."""

    x: float
    y: float
    width: float
    height: float = HEIGHT


def arrows(imports: Iterable[Import]) -> list[tuple[str, str]]:
    """Which wing imports which, less what follows from the rest; the face as `FACE`, the kernels as `KERNELS`."""
    below: dict[str, set[str]] = {name: set() for name in (KERNELS, *ORDER["mol"], FACE)}
    for one in imports:
        if one.importer.partition(".")[0] == "mol":
            below[node_of(one.importer)].add(node_of(one.imported))
    for name, imported in below.items():
        imported.discard(name)
    # The kernels carry the network: that arrow is drawn, although `common` also asks them how they were installed.
    return [
        (name, target)
        for name, imported in below.items()
        for target in sorted(imported)
        if (name, target) == ("network", KERNELS)
        or not any(target in _reachable(other, below) for other in imported - {target})
    ]


def node_of(module: str) -> str:
    """The box of a module: a wing, `FACE` for the rest of `mol`, or another package."""
    package, part = module.partition(".")[0], part_of(module)
    return part if package == "mol" and part in ORDER["mol"] else package


def place(found: Iterable[tuple[str, str]]) -> dict[str, Box]:
    """A box for every wing, placed as low as its imports allow."""
    below: dict[str, list[str]] = {name: [] for name in (KERNELS, *ORDER["mol"], FACE)}
    for name, target in found:
        below[name].append(target)
    rows = {KERNELS: 0}
    for name in (*ORDER["mol"], FACE):
        rows[name] = 1 + max((rows[target] for target in below[name]), default=0)
    floor = MARGIN + rows[FACE] * PITCH
    boxes = {name: Box(COLUMNS[WINGS[name][1]], floor - rows[name] * PITCH, WING_WIDTH) for name in ORDER["mol"]}
    whole = WIDTH - 2 * MARGIN
    boxes[FACE] = Box(WIDTH / 2, MARGIN, whole)
    boxes[KERNELS] = Box(WIDTH / 2, floor, whole, KERNELS_HEIGHT)
    if len(set(boxes.values())) < len(boxes):
        raise ValueError("two wings have the same place in the drawing: give one of them another column in WINGS")
    return boxes


def draw(imports: Iterable[Import]) -> str:
    """The SVG."""
    imports = list(imports)
    found = arrows(imports)
    boxes = place(found)
    size = WIDTH, boxes[KERNELS].y + KERNELS_HEIGHT + MARGIN
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}">'.format(*size),
            "  <title>The wings of mol on molkernels; an arrow goes from a part to one that it imports</title>",
            f"  <style>{STYLE}  </style>",
            '  <marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto"'
            ' markerUnits="userSpaceOnUse"><path class="tip" d="M0 1 10 5 0 9z"/></marker>',
            f'  <rect class="paper" width="{WIDTH}" height="{size[1]}" rx="10"/>',
            *(_arrow(boxes[name], boxes[target]) for name, target in found),
            *_box(boxes[FACE], "face", "mol", ", ".join(name for name in FACES["mol"] if name[0] != "_")),
            *(line for name in ORDER["mol"] for line in _box(boxes[name], "wing", name, WINGS[name][0])),
            *_kernels(boxes[KERNELS], imports),
            "</svg>",
            "",
        ]
    )


def _reachable(name: str, below: Mapping[str, set[str]]) -> set[str]:
    return below[name].union(*(_reachable(target, below) for target in below[name]))


def _box(box: Box, style: str, name: str, note: str) -> Iterator[str]:
    yield _rectangle(box, style)
    yield f'  <text class="name" x="{box.x:g}" y="{box.y + 21:g}">{escape(name)}</text>'
    yield f'  <text class="note" x="{box.x:g}" y="{box.y + 39:g}">{escape(note)}</text>'


def _rectangle(box: Box, style: str) -> str:
    left = box.x - box.width / 2
    return f'  <rect class="{style}" x="{left:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="7"/>'


def _arrow(upper: Box, lower: Box) -> str:
    """Sideways in the gap below the upper box, then straight down."""
    start, end = _port(upper, lower), _port(lower, upper)
    top, gap = upper.y + upper.height, PITCH - HEIGHT
    middle = top + gap / 2
    bend = "" if start == end else f" C{start:g} {middle:g} {end:g} {middle:g} {end:g} {top + gap - 6:g}"
    return _line(f"M{start:g} {top:g}{bend} V{lower.y:g}")


def _port(box: Box, other: Box) -> float:
    """Where an arrow meets a box: straight above or below the narrower of the two, or on the side of the other."""
    if abs(other.x - box.x) < abs(other.width - box.width) / 2:
        return other.x if other.width < box.width else box.x
    return box.x + max(-0.3, min(0.3, (other.x - box.x) / WIDTH)) * WING_WIDTH


def _kernels(box: Box, imports: Iterable[Import]) -> Iterator[str]:
    """The way of a call from `modules` to a backend, each step held against the imports."""
    known = {(one.importer, one.imported) for one in imports}
    steps = [*pairwise(CALL), *((CALL[-1], name) for name in BACKENDS)]
    for upper, lower in steps:
        if (f"{KERNELS}.{upper}", f"{KERNELS}.{lower}") not in known:
            raise ValueError(f"{KERNELS}.{upper} does not import {KERNELS}.{lower}, as CALL and BACKENDS have it")
    yield _rectangle(box, "kernels")
    yield f'  <text class="name" x="{box.x:g}" y="{box.y + 24:g}">{KERNELS}</text>'
    calls = list(_row(len(CALL), box.y + 38, 106))
    backends = list(_row(len(BACKENDS), box.y + 104, 146))
    for left, right in pairwise(calls):
        across = left.y + left.height / 2
        yield _line(f"M{left.x + left.width / 2:g} {across:g} H{right.x - right.width / 2:g}")
    last = calls[-1]
    bottom = last.y + last.height
    turn = (bottom + backends[0].y) / 2
    yield f'  <path class="arrow" d="M{last.x:g} {bottom:g} V{turn:g} H{backends[0].x:g}"/>'
    for backend in backends:
        yield _line(f"M{backend.x:g} {turn:g} V{backend.y:g}")
    for one, name in zip([*calls, *backends], [*CALL, *BACKENDS.values()], strict=True):
        yield _rectangle(one, "part")
        yield f'  <text class="note" x="{one.x:g}" y="{one.y + 20:g}">{name}</text>'


def _row(count: int, y: float, width: float) -> Iterator[Box]:
    inner = WIDTH - 4 * MARGIN
    for index in range(count):
        yield Box(2 * MARGIN + width / 2 + index * (inner - width) / (count - 1), y, width, 32)


def _line(path: str) -> str:
    return f'  <path class="arrow" marker-end="url(#tip)" d="{path}"/>'


if __name__ == "__main__":
    PICTURE.write_text(draw(read_imports(ROOT)), encoding="utf-8")
    print(f"wrote {PICTURE.relative_to(ROOT)}")
