"""The page of one leave-one-subject-out run: its header, and the sections in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mol.common.terminal import duration
from mol.loso.measures import MEASURES
from mol.loso.saved_run import LosoRun, Spread
from mol.networks.registry import DEFAULT, title_of
from mol.pictures.markup import Markup, banner, element, facts
from mol.report.context import Report
from mol.report.html import Section, page
from mol.report.numbers import readable
from mol.report.sections.action_units import action_units
from mol.report.sections.confidence import confidence
from mol.report.sections.confusion import confusion
from mol.report.sections.failures import failures
from mol.report.sections.people import people
from mol.report.sections.reproduce import reproduce
from mol.report.sections.scores import scores
from mol.report.sections.settings import settings
from mol.report.sections.spotting import spotting
from mol.report.sections.training import training

SECTIONS: tuple[Callable[[Report], Section | None], ...] = (
    scores,
    spotting,
    confusion,
    confidence,
    action_units,
    people,
    training,
    failures,
    settings,
    reproduce,
)
"""Each writes its tables and pictures and returns its part of the page, or None if the run has nothing for it yet."""

SELECTIONS = {
    "last": "the last step of every fold; nothing was chosen",
    "inner-val": "the step that was best on people set aside from the training people",
    "test-peek": "the step that was best on the test person: not reportable",
}


def run_page(report: Report) -> str:
    """The whole HTML document of one run; its tables and pictures are written beside it."""
    sections = [section for make in SECTIONS if (section := make(report)) is not None]
    footer = "The files beside this page hold the same numbers: tables as CSV and LaTeX, pictures as PNG and SVG."
    return page(f"{report.run.name}: {report.run.plan.protocol}", _header(report.run), sections, footer)


def _header(run: LosoRun) -> Markup:
    return element(
        "header",
        element("p", "MOL · leave-one-subject-out", class_="eyebrow"),
        element("h1", run.plan.protocol),
        element("p", _lead(run), class_="lead"),
        banner("Not reportable", reasons) if (reasons := run.reasons) else None,
        _headline(run) if run.results else None,
        facts(
            [
                ("Run", run.name),
                ("Data", ", ".join(run.plan.datasets)),
                ("Network", _network(run)),
                ("Folds", f"{len(run.results)} of {len(run.plan.folds)} done"),
                ("Seeds", ", ".join(map(str, run.seeds))),
                ("Time", _time(run)),
                ("Checkpoint", f"{run.plan.selection}: {SELECTIONS.get(run.plan.selection, 'as named')}"),
                *(("Note", note) for note in run.plan.notes),
            ]
        ),
    )


def _lead(run: LosoRun) -> str:
    if not run.results:
        return "No fold is done yet; scores will be shown here when the first one is."
    people = {result.fold.person for result in run.results}
    videos = {video.key for video in run.videos}
    return (
        f"{len(videos)} videos of {len(people)} people, every person tested by a network that has never seen them. "
        f"Classes: {', '.join(readable(name) for name in run.plan.classes)}."
    )


def _headline(run: LosoRun) -> Markup:
    """The headline numbers."""
    names = run.measured(("uf1", "uar", "accuracy", "epe_px", "nme"))
    return facts([(MEASURES[name].title, _large(run.score(run.groups[0], name), name)) for name in names], "headline")


def _large(spread: Spread, name: str) -> Markup:
    measure = MEASURES[name]
    deviation = f"± {measure.number(spread.deviation)}" if spread.deviation is not None else ""
    small = f"{measure.unit} {deviation}".strip()
    return Markup(measure.number(spread.mean) + (element("small", small) if small else ""))


def _network(run: LosoRun) -> str:
    model = run.settings.get("model") if run.network == DEFAULT else None
    variant = model.get("variant") if isinstance(model, Mapping) else None
    parts = [title_of(run.network), f"variant {variant}" if variant else None, run.plan.ablation]
    return ", ".join(str(part) for part in parts if part)


def _time(run: LosoRun) -> str:
    seconds = sum(float(result.facts.get("seconds", 0)) for result in run.results)
    return duration(seconds) if seconds else "–"
