"""People: how many videos of each person are right."""

from __future__ import annotations

from mol.pictures.markup import Markup, element
from mol.report.charts import people_picture
from mol.report.context import Report
from mol.report.html import Section, section


def people(report: Report) -> Section | None:
    """A bar per person; writes pictures/people.png."""
    run = report.run
    if not run.results:
        return None
    found = run.right_by_person()
    people_picture(report.pictures / "people.png", found, f"{run.plan.protocol}: right videos of each person")
    note = (
        "How many videos of each person are right. A bar’s length is the number of videos, its dark part those right."
    )
    if len(run.seeds) > 1:
        note += " Means over seeds."
    longest = max(videos for entries in found.values() for _, videos, _ in entries)
    content: list[Markup] = []
    for dataset, entries in found.items():
        if len(found) > 1:
            content.append(element("h3", dataset))
        content.append(element("ul", [_person(*entry, longest) for entry in entries], class_="people"))
    return section("People", note, *content)


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
