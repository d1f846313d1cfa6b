"""Failures: the misread videos that the network was surest of, with what it saw."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from mol.common.devices import start_fabric
from mol.common.extras import require
from mol.common.names import path_part
from mol.loso.saved_run import LosoRun
from mol.pictures.evaluation import Seen, failure_picture
from mol.pictures.faces import flow_colours, flow_maximum, flow_wheel
from mol.pictures.markup import Markup, data_uri, element
from mol.pictures.style import OURS, TRUTH
from mol.report.context import Report
from mol.report.html import Section, section
from mol.report.misread import Failure, confident_failures, read_again
from mol.report.numbers import readable
from mol.vision.points import SKELETON


def failures(report: Report) -> Section | None:
    """The most confident wrong answers; writes pictures/failure-PLACE-VIDEO.png."""
    run = report.run
    if not run.results:
        return None
    chosen = confident_failures(run.videos, report.failures)
    if report.read_again and chosen:
        chosen = read_again(run, chosen, start_fabric(report.device, "32").device)
    _draw(report, chosen)
    wrong = sum(not video.right for video in run.videos)
    if not wrong:
        return section("Failures", None, element("p", "No video is wrong."))
    each = " counting each seed" if len(run.seeds) > 1 else ""
    note = f"{wrong} of {len(run.videos)} answers are wrong{each}; these are the ones that the network was surest of."
    if not chosen:
        return section("Failures", note, element("p", "None are shown (--failures 0)."))
    seen = [failure.seen for failure in chosen if failure.seen]
    reasons = dict.fromkeys(failure.reason.rstrip(".") for failure in chosen if failure.reason)
    unread = f"No pictures{' of some' if seen else ''}: {'; '.join(reasons)}" if reasons else None
    maximum = flow_maximum([flow for one in seen for flow in (one.flow, one.flow_ours) if flow is not None])
    return section(
        "Failures",
        note,
        element("p", unread, class_="small muted") if unread else None,
        _legend(maximum, any(one.landmarks_ours is not None for one in seen)) if seen else None,
        [_failure(run, failure, maximum) for failure in chosen],
    )


def _draw(report: Report, failures: Sequence[Failure]) -> None:
    classes = report.run.plan.classes
    # Those of an earlier report must not be taken for this one's.
    for stale in report.pictures.glob("failure-*.png"):
        stale.unlink()
    for place, failure in enumerate(failures, 1):
        if failure.seen is None:
            continue
        video = failure.video
        said, truth = readable(classes[video.prediction]), readable(classes[video.label])
        name = path_part(video.name)
        of_said, of_truth = (float(video.probabilities[index]) for index in (video.prediction, video.label))
        subtitle = f"{video.name}; {said} {of_said:.2f}, {truth} {of_truth:.2f}"
        failure_picture(
            report.pictures / f"failure-{place}-{name}.png", failure.seen, f"{truth}, read as {said}", subtitle
        )


def _legend(maximum: float, estimated: bool) -> Markup:
    wheel = element(
        "img", src=data_uri(_png(flow_wheel(160)), "image/png"), alt="colour wheel: hue is the direction of flow"
    )
    return element(
        "div",
        element("span", wheel, f"flow: direction is hue, the rim is {maximum:.2g} px"),
        element("span", element("i", class_="key", style=f"color: {TRUTH}"), f"landmarks {_source(estimated)}"),
        element("span", element("i", class_="key", style=f"color: {OURS}"), "landmarks estimated")
        if estimated
        else None,
        class_="legend",
    )


def _source(estimated: bool) -> str:
    """What the flow or the landmarks of the cache are to the network."""
    return "trained towards" if estimated else "of the cache; the network estimates none"


def _failure(run: LosoRun, failure: Failure, maximum: float) -> Markup:
    video = failure.video
    said, truth = readable(run.plan.classes[video.prediction]), readable(run.plan.classes[video.label])
    seed = f" · seed {video.seed}" if len(run.seeds) > 1 else ""
    bars = [
        _probability(readable(name), float(p)) for name, p in zip(run.plan.classes, video.probabilities, strict=True)
    ]
    pictures = _strips(failure.seen, maximum, video.name) if failure.seen else None
    return element(
        "article",
        element("h3", f"{truth}, read as {said}", element("span", video.name + seed)),
        element("div", bars, class_="probabilities"),
        pictures,
        class_="failure",
    )


def _probability(name: str, value: float) -> list[Markup]:
    bar = element("i", style=f"width: {100 * value:.1f}%")
    return [
        element("span", name),
        element("span", bar, class_="bar", aria_hidden="true"),
        element("span", f"{value:.2f}"),
    ]


def _strips(seen: Seen, maximum: float, name: str) -> list[Markup]:
    """Frames with landmarks, the flow of the cache and, if there is one, the flow estimated."""
    faces = [_face(seen, index, name) for index in range(len(seen.frames))]
    rows = [element("div", faces, class_="strip")]
    for flows, title in ((seen.flow, _source(seen.flow_ours is not None)), (seen.flow_ours, "estimated")):
        if flows is None:
            continue
        pictures = [
            _flow(flow, maximum, f"flow {title} into frame {seen.numbers[i + 1]}") for i, flow in enumerate(flows)
        ]
        error = "" if flows is seen.flow else f" EPE {np.hypot(*np.moveaxis(flows - seen.flow, 1, 0)).mean():.3f} px"
        head = element("div", f"flow {title}", element("br") if error else None, error or None, class_="cell")
        rows.append(element("div", head, pictures, class_="strip flow"))
    return rows


def _face(seen: Seen, index: int, name: str) -> Markup:
    size = seen.frames.shape[-1]
    lines: list[Markup] = []
    if index:
        lines += _skeleton(seen.landmarks[index - 1], TRUTH, 1.5)
        lines += _skeleton(seen.landmarks_ours[index - 1], OURS, 1.2) if seen.landmarks_ours is not None else []
    with_landmarks = ", with landmarks" if seen.landmarks_ours is None else ", with both landmarks"
    label = f"{name}, frame {seen.numbers[index]}" + (with_landmarks if index else "")
    picture = element("image", href=data_uri(_png(seen.frames[index]), "image/png"), width=size, height=size)
    svg = element("svg", picture, lines, viewBox=f"0 0 {size} {size}", role="img", aria_label=label)
    return element("div", svg, f"frame {seen.numbers[index]}", class_="cell")


def _skeleton(points: np.ndarray, colour: str, width: float) -> list[Markup]:
    return [
        element(
            "polyline",
            # Pixel centres are integers in the data and halves in SVG.
            points=" ".join(f"{x + 0.5:.1f},{y + 0.5:.1f}" for x, y in points[list(chain)]),
            fill="none",
            stroke_width=width,
            stroke_linecap="round",
            stroke=colour,
        )
        for chain in SKELETON
    ]


def _flow(flow: np.ndarray, maximum: float, label: str) -> Markup:
    return element("img", src=data_uri(_png(flow_colours(flow, maximum)), "image/png"), alt=label)


def _png(pixels: np.ndarray) -> bytes:
    """A uint8 picture (H, W), (H, W, 3) or (H, W, 4) as PNG."""
    content = io.BytesIO()
    require("PIL.Image", extra="report").fromarray(pixels).save(content, "PNG", optimize=True)
    return content.getvalue()
