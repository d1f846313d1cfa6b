"""Figures as text, and tables of them in Markdown."""

from collections.abc import Iterable, Mapping, Sequence

UNITS = ((3600, "hours"), (60, "minutes"), (1, "s"), (1e-3, "ms"))


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]], numeric: bool = False) -> str:
    """A table in Markdown; with `numeric`, all columns but the first are aligned to the right."""
    rule = ["---", *["--:" if numeric else "---"] * (len(titles) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rule, *rows))


def digits(value: float) -> str:
    """Three significant digits, or all before the point: 0.0123, 42.0, 1234."""
    return f"{value:.0f}" if value >= 999.5 else f"{value:#.3g}".rstrip(".")


def times(ratio: float) -> str:
    """A ratio with its sign: 1.09×, 18×."""
    return f"{ratio:.0f}×" if ratio >= 9.995 else f"{ratio:.2f}×"


def span(values: Sequence[float], unit: str) -> str:
    """Two figures and their unit, or one figure where they print alike: "1.20 to 3.40 GiB", "1.20 GiB"."""
    first, last = map(digits, values)
    return f"{first if first == last else f'{first} to {last}'} {unit}"


def duration(seconds: float, longest: float | None = None) -> str:
    """A time with three digits and its unit, from ms to hours; with `longest`, the range up to there.

    The larger of the two times chooses the unit.
    """
    longest = seconds if longest is None else longest
    size, unit = next((s, u) for s, u in UNITS if longest >= 0.9995 * s or u == "ms")
    return span((seconds / size, longest / size), unit)


def rates(limits: Mapping[str, Mapping[str, float]]) -> str:
    """The measured limits of a machine: "copy 34.0 GB/s, GEMM float32 197 GFLOP/s, …"."""
    gemm = limits["gemm"]
    products = ", ".join(f"GEMM {dtype} {rate / 1e9:.0f} GFLOP/s" for dtype, rate in gemm.items())
    if len(set(gemm.values())) == 1:
        products = f"GEMM {gemm['float32'] / 1e9:.0f} GFLOP/s"
    return f"copy {limits['copy']['bytes_per_second'] / 1e9:.1f} GB/s, {products}"
