"""The page of one leave-one-subject-out run."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mol.common.extras import require
from mol.common.terminal import duration
from mol.loso.folds import COMPOSITE, SCORES
from mol.loso.results import UNITS, LosoRun, Spread
from mol.pictures.evaluation import Seen
from mol.pictures.faces import flow_colours, flow_maximum, flow_wheel
from mol.pictures.style import OURS, TRUTH
from mol.report.failures import Failure
from mol.report.html import Markup, banner, data_uri, element, facts, page, section, table
from mol.scoring.metrics import TITLES
from mol.vision.points import SKELETON

SELECTIONS = {
    "last": "the last step of every fold; nothing was chosen",
    "inner-val": "the step that was best on people set aside from the training people",
    "test-peek": "the step that was best on the test person: not reportable",
}
GLOSSARY = (
    "Videos of all folds are pooled, one vote a video: the mean probability over its sub-clips. "
    "UAR is the mean recall of the classes and UF1 the mean F1; WAR and WF1 weigh each class by its videos. "
    "The failure rate is the share of frames with an NME over 10 %."
)


@dataclass(frozen=True)
class PageParts:
    """What the page shows besides the run itself.

    Attributes:
        curves: (title, inline SVG) of the training curves.
        curves_note: what is missing from them, or nothing.
        failures: the most confident wrong answers.
        wrong: how many videos are wrong in all.
        command: how this page was made.
    """

    curves: Sequence[Markup]
    curves_note: str
    failures: Sequence[Failure]
    wrong: int
    command: str


def run_page(run: LosoRun, parts: PageParts) -> str:
    """The whole HTML document of one run."""
    sections = [("scores", "Scores", _scores_section(run))] if run.videos else []
    if run.videos:
        sections += [
            ("confusion", "Confusion", _confusion_section(run)),
            ("people", "People", _people_section(run)),
        ]
    if parts.curves or parts.curves_note:
        sections.append(("training", "Training", _training_section(parts)))
    if run.videos:
        sections.append(("failures", "Failures", _failures_section(run, parts)))
    sections.append(("settings", "Settings", _settings_section(run)))
    sections.append(("reproduce", "Reproduce", _reproduce_section(run, parts.command)))
    footer = "Files of the same numbers lie beside this page: tables as CSV and LaTeX, pictures as PNG and SVG."
    return page(f"{run.name}: {run.protocol}", _header(run), sections, footer)


# Header


def _header(run: LosoRun) -> Markup:
    sets = ", ".join(run.datasets)
    return element(
        "header",
        element("p", "MOL · leave-one-subject-out", class_="eyebrow"),
        element("h1", run.protocol),
        element("p", _lead(run), class_="lead"),
        banner("Not reportable", reasons) if (reasons := run.reasons) else None,
        _headline(run) if run.videos else None,
        facts(
            [
                ("Run", run.name),
                ("Data", sets),
                ("Network", _network(run)),
                ("Folds", f"{len(run.done)} of {len(run.folds)} done"),
                ("Seeds", ", ".join(map(str, run.seeds))),
                ("Time", _time(run)),
                ("Checkpoint", f"{run.selection}: {SELECTIONS.get(run.selection, 'as named')}"),
                *(("Note", note) for note in run.plan.get("notes", [])),
            ]
        ),
    )


def _lead(run: LosoRun) -> str:
    people = {(fold.dataset, fold.subject) for fold in run.done}
    videos = {video.key for video in run.videos}
    if not videos:
        return "No fold is done yet; scores will stand here when the first one is."
    return (
        f"{len(videos)} videos of {len(people)} people, every person tested by a network that has never seen them. "
        f"Classes: {', '.join(readable(name) for name in run.classes)}."
    )


def _headline(run: LosoRun) -> Markup:
    """The numbers that one looks for first."""
    group = run.groups[0]
    names = ("uf1", "uar", "accuracy", "epe_px", "nme")
    titles = {**TITLES, **{name: unit.title for name, unit in UNITS.items()}}
    return facts([(titles[name], _large(run.score(group, name), name)) for name in names], "headline")


def _large(spread: Spread, name: str) -> Markup:
    unit = UNITS[name].name if name in UNITS else ""
    deviation = f"± {number(spread.deviation, name)}" if spread.deviation is not None else ""
    small = f"{unit} {deviation}".strip()
    return Markup(number(spread.mean, name) + (element("small", small) if small else ""))


def _network(run: LosoRun) -> str:
    model = run.settings.get("model")
    variant = model.get("variant") if isinstance(model, Mapping) else None
    parts = ["MOL", f"variant {variant}" if variant else None, run.plan.get("ablation")]
    return ", ".join(str(part) for part in parts if part)


def _time(run: LosoRun) -> str:
    seconds = sum(float(fold.result.get("seconds", 0)) for fold in run.done if fold.result)
    return duration(seconds) if seconds else "–"


# Scores


def _scores_section(run: LosoRun) -> Markup:
    note = GLOSSARY + (" ± is the standard deviation over seeds." if len(run.seeds) > 1 else "")
    return section(
        "scores",
        "Scores",
        note,
        _table(run, run.score, SCORES, "Emotion, pooled over folds, per video"),
        _table(
            run,
            run.score,
            tuple(UNITS),
            "Flow and landmarks, means over sub-clips, beside baselines that know nothing of the clip",
        ),
        _table(run, run.fold_mean, SCORES, "Emotion, mean over folds of each fold’s own scores"),
        element(
            "p",
            "The last table is for comparison with papers that average over folds: a person with one video weighs as "
            "much there as one with thirty, and a class that a person never shows is left out of that person’s mean. "
            "The pooled scores are the ones to report.",
            class_="small muted",
        ),
    )


def _table(run: LosoRun, read: Callable[[str, str], Spread], names: Sequence[str], caption: str) -> Markup:
    """A row a data set and one for all of them, a column a score."""
    folds = read == run.fold_mean
    heads = [TITLES.get(name) or f"{UNITS[name].title}, {UNITS[name].name}" for name in names]
    rows = [
        [group_name(group), _count(run, group, folds), *(cell(read(group, name), name) for name in names)]
        for group in run.groups
    ]
    return table(["Set", "Folds" if folds else "Videos", *heads], rows, caption)


def _count(run: LosoRun, group: str, folds: bool) -> int:
    """Different videos, or people, of a group."""
    return len({video.key[:2] if folds else video.key for video in run.of(group)})


def cell(spread: Spread, name: str) -> Markup:
    """A number as tables show it: the mean, and its deviation over seeds smaller beside it."""
    deviation = f" ± {number(spread.deviation, name)}" if spread.deviation is not None else ""
    return Markup(number(spread.mean, name) + (element("small", deviation) if deviation else ""))


def number(value: float | None, name: str) -> str:
    """A score with three digits, an error in its unit."""
    if value is None or not np.isfinite(value):
        return "–"
    scale, digits = (UNITS[name].scale, UNITS[name].digits) if name in UNITS else (1, 3)
    return f"{value * scale:.{digits}f}"


def group_name(group: str) -> str:
    """What a row or a part of the page calls a group of videos."""
    return "all together" if group == COMPOSITE else group


def readable(name: str) -> str:
    """A class or group as words."""
    return name.replace("_", " ")


# Confusion


def _confusion_section(run: LosoRun) -> Markup:
    seeds = f" summed over {len(run.seeds)} seeds" if len(run.seeds) > 1 else ""
    note = f"Rows are the true class, columns the predicted one; counts of videos{seeds}, and shares of the true class."
    parts = [_confusion_table(run, group, run.confusion(group)) for group in run.groups]
    return section(
        "confusion",
        "Confusion",
        note,
        element("div", parts, class_="confusions", style=f"--classes: {len(run.classes)}"),
    )


def _confusion_table(run: LosoRun, group: str, counts: np.ndarray) -> Markup:
    names = [readable(name) for name in run.classes]
    head = element(
        "tr",
        element("th", "true ↓ predicted →", class_="corner", scope="col"),
        [element("th", name, scope="col") for name in names],
    )
    body = []
    for row, name in enumerate(names):
        total = int(counts[row].sum())
        cells = [_confusion_cell(int(count), total, row == column) for column, count in enumerate(counts[row])]
        body.append(
            element("tr", element("th", name, element("br"), element("small", f"n = {total}"), scope="row"), cells)
        )
    caption = group_name(group)
    content = element(
        "table", element("caption", caption), element("thead", head), element("tbody", body), class_="confusion"
    )
    return element("div", content, class_="scroll", role="region", aria_label=f"Confusion: {caption}", tabindex="0")


def _confusion_cell(count: int, total: int, right: bool) -> Markup:
    share = count / total if total else 0.0
    return element(
        "td",
        element("b", count),
        element("small", f"{share:.0%}" if total else "–"),
        class_="right" if right else None,
        style=f"--share: {share:.3f}",
    )


# People


def _people_section(run: LosoRun) -> Markup:
    note = "Videos that are right, of each person’s. A bar is as long as the person has videos; its dark part is right."
    if len(run.seeds) > 1:
        note += " Means over seeds."
    people = run.right_by_person()
    longest = max(videos for entries in people.values() for _, videos, _ in entries)
    content: list[Markup] = []
    for dataset, entries in people.items():
        if len(people) > 1:
            content.append(element("h3", dataset))
        content.append(element("ul", [_person(*entry, longest) for entry in entries], class_="people"))
    return section("people", "People", note, *content)


def _person(subject: str, videos: int, right: float, longest: int) -> Markup:
    inner = element("i", style=f"width: {100 * right / videos:.1f}%")
    bar = element("span", inner, class_="bar", style=f"width: {100 * videos / longest:.1f}%", aria_hidden="true")
    return element(
        "li",
        element("span", subject, class_="name", title=subject),
        element("span", bar),
        element("span", f"{_plain_count(right)} of {videos}", class_="count"),
    )


def _plain_count(value: float) -> str:
    return f"{value:.0f}" if abs(value - round(value)) < 0.005 else f"{value:.1f}"


# Training


def _training_section(parts: PageParts) -> Markup:
    note = "Losses over the steps, logarithmic where they span decades. Thin: one fold each. Thick: their mean."
    figures = [element("figure", curve) for curve in parts.curves]
    missing = element("p", parts.curves_note, class_="small muted") if parts.curves_note else None
    return section("training", "Training", note, element("div", figures, class_="panels") if figures else None, missing)


# Failures


def _failures_section(run: LosoRun, parts: PageParts) -> Markup:
    total = len(run.videos)
    each = " counting each seed" if len(run.seeds) > 1 else ""
    note = f"{parts.wrong} of {total} answers are wrong{each}; these are the ones that the network was surest of."
    if not parts.failures:
        text = "No video is wrong." if not parts.wrong else "None are shown (--failures 0)."
        return section("failures", "Failures", note if parts.wrong else None, element("p", text))
    seen = [failure.seen for failure in parts.failures if failure.seen]
    reasons = dict.fromkeys(failure.reason.rstrip(".") for failure in parts.failures if failure.reason)
    unread = f"No pictures{' of some' if seen else ''}: {'; '.join(reasons)}" if reasons else None
    maximum = flow_maximum([flow for one in seen for flow in (one.flow, one.flow_ours)])
    return section(
        "failures",
        "Failures",
        note,
        element("p", unread, class_="small muted") if unread else None,
        _legend(maximum) if seen else None,
        [_failure(run, failure, maximum) for failure in parts.failures],
    )


def _legend(maximum: float) -> Markup:
    wheel = element(
        "img", src=data_uri(png(flow_wheel(160)), "image/png"), alt="colour wheel: hue is the direction of flow"
    )
    return element(
        "div",
        element("span", wheel, f"flow: direction is hue, the rim is {maximum:.2g} px"),
        element("span", element("i", class_="key", style=f"color: {TRUTH}"), "landmarks trained towards"),
        element("span", element("i", class_="key", style=f"color: {OURS}"), "landmarks estimated"),
        class_="legend",
    )


def _failure(run: LosoRun, failure: Failure, maximum: float) -> Markup:
    video = failure.video
    said, truth = readable(run.classes[video.prediction]), readable(run.classes[video.label])
    seed = f" · seed {video.seed}" if len(run.seeds) > 1 else ""
    bars = [_probability(readable(name), float(p)) for name, p in zip(run.classes, video.probabilities, strict=True)]
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
    """Frames with landmarks, the flow trained towards and the flow estimated."""
    faces = [_face(seen, index, name) for index in range(len(seen.frames))]
    rows = [element("div", faces, class_="strip")]
    for flows, title in ((seen.flow, "trained towards"), (seen.flow_ours, "estimated")):
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
        lines += _skeleton(seen.landmarks_ours[index - 1], OURS, 1.2)
    label = f"{name}, frame {seen.numbers[index]}" + (", with both landmarks" if index else "")
    picture = element("image", href=data_uri(png(seen.frames[index]), "image/png"), width=size, height=size)
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
    return element("img", src=data_uri(png(flow_colours(flow, maximum)), "image/png"), alt=label)


def png(pixels: np.ndarray) -> bytes:
    """A uint8 picture (H, W), (H, W, 3) or (H, W, 4) as PNG."""
    content = io.BytesIO()
    require("PIL.Image", extra="report").fromarray(pixels).save(content, "PNG", optimize=True)
    return content.getvalue()


# Settings and how to do it again


def _settings_section(run: LosoRun) -> Markup:
    yaml = require("yaml", "train")
    shown = (
        yaml.safe_dump(dict(run.settings), sort_keys=False, allow_unicode=True)
        if run.settings
        else "loso.yaml is missing"
    )
    versions = [(name, str(value)) for name, value in run.environment.get("versions", {}).items()]
    hardware = [(_part(name), _plain(value)) for name, value in run.environment.get("hardware", {}).items()]
    caches = [[str(entry["path"]), str(entry.get("fingerprint", "–"))[:16]] for entry in run.plan.get("caches", [])]
    return section(
        "settings",
        "Settings",
        "All that shaped the numbers, as it was resolved when the run began.",
        table(["Cache", "Fingerprint"], caches, "Where the clips came from", "words") if caches else None,
        [element("h3", "Hardware"), facts(hardware)] if hardware else None,
        [element("h3", "Versions"), facts(versions)] if versions else None,
        element("h3", "Configuration"),
        element("details", element("summary", "loso.yaml"), element("pre", shown)),
    )


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        rest = ", ".join(f"{_part(name)} {_plain(entry)}" for name, entry in value.items() if name != "name")
        return " · ".join(str(part) for part in (value.get("name"), rest) if part)
    if isinstance(value, (list, tuple)):
        return "; ".join(map(_plain, value)) or "none"
    return "unknown" if value is None else str(value)


def _part(name: str) -> str:
    """``memory_gib`` → memory, GiB."""
    return readable(name.removesuffix("_gib")) + (", GiB" if name.endswith("_gib") else "")


def _reproduce_section(run: LosoRun, command: str) -> Markup:
    config = shlex.quote(str(run.path / "loso.yaml"))
    lines = [f"mol loso --config {config} --run {shlex.quote(str(run.path) + '-again')}", command]
    made = run.environment.get("command")
    return section(
        "reproduce",
        "Reproduce",
        "The same seeds give the same table on the CPU; on a GPU the last digits may move.",
        element("pre", "\n".join(lines)),
        element("p", "The run was started with ", element("code", made), class_="small muted") if made else None,
    )
