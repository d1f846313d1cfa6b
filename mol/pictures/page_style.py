"""What the HTML pages have in common: colours, type, headers, tables; light or dark like the reader's system.

A page may also set ``data-theme="light"`` or ``"dark"`` on its root element, whatever the system is.
"""

from __future__ import annotations

_LIGHT = """
  --paper: #fcfcfa; --card: #ffffff; --ink: #1b2530; --muted: #5c6772; --rule: #dde1e5; --track: #e9ecef;
  --accent: #00639b; --deep: #0072b2; --bad: #b3401a; --bad-paper: #fdf1ea;
  --good: #00795a;
"""
_DARK = """
  --paper: #12171d; --card: #181f27; --ink: #e4e9ee; --muted: #97a3af; --rule: #2b343e; --track: #27303a;
  --accent: #6cc0f0; --deep: #3d9bd4; --bad: #ff9a6b; --bad-paper: #2c1d15;
  --good: #4cc9a0;
"""
_FONTS = """
  --serif: Charter, "Bitstream Charter", "Iowan Old Style", "Source Serif 4", Cambria, Georgia, "DejaVu Serif", serif;
  --sans: system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif;
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
"""
_BASE = """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0 auto; max-width: 76rem; padding: 0 clamp(1rem, 4vw, 3rem);
  background: var(--paper); color: var(--ink); font: 0.9375rem/1.55 var(--sans);
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
h1, h2, h3 { line-height: 1.15; overflow-wrap: break-word; text-wrap: balance; }
h1 { font: 400 clamp(2rem, 5.4vw, 3.4rem)/1.06 var(--serif); letter-spacing: -0.018em; margin: 0.1em 0 0.35em; }
h2 { font: 400 1.5rem/1.2 var(--serif); letter-spacing: -0.01em; margin: 0 0 0.4rem; }
h3 { font-size: 0.9375rem; font-weight: 650; margin: 2.2rem 0 0.6rem; }
p { margin: 0 0 0.8rem; max-width: 44rem; }
a { color: var(--accent); text-underline-offset: 0.18em; }
small, .small { font-size: 0.8125rem; }
.muted { color: var(--muted); }
code, pre { font: 0.8125rem/1.55 var(--mono); }

header { padding-top: clamp(2rem, 6vw, 4.5rem); }
.eyebrow {
  color: var(--muted); font-size: 0.75rem; font-weight: 600; letter-spacing: 0.09em; text-transform: uppercase;
  margin: 0;
}
.lead { color: var(--muted); font: 400 1.125rem/1.5 var(--serif); margin: 0 0 1.8rem; max-width: 46rem; }
.facts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(42%, 12.5rem), 1fr)); gap: 1rem 2rem;
  margin: 1.8rem 0 0;
}
.facts div { border-top: 1px solid var(--rule); padding-top: 0.5rem; }
.facts dt { color: var(--muted); font-size: 0.75rem; }
.facts dd { margin: 0.1rem 0 0; }
.banner {
  border: 1px solid; border-left-width: 0.4rem; border-radius: 0.3rem; padding: 0.9rem 1.2rem; margin: 1.6rem 0 0;
}
.banner strong { display: block; font: 600 1.125rem/1.3 var(--sans); }
.banner ul { margin: 0.35rem 0 0; padding-left: 1.1rem; color: var(--ink); }
.warning { border-color: var(--bad); background: var(--bad-paper); color: var(--bad); }

footer { color: var(--muted); font-size: 0.8125rem; padding: 1.4rem 0 3rem; }

.scroll { overflow-x: auto; margin: 0 0 1.6rem; }
.scroll:last-child { margin-bottom: 0; }
table { border-collapse: collapse; width: 100%; font-size: 0.875rem; overflow-wrap: normal; }
caption { text-align: left; color: var(--muted); font-size: 0.8125rem; padding-bottom: 0.5rem; }
th, td { padding: 0.42rem 0.9rem 0.42rem 0; text-align: left; vertical-align: baseline; }
thead th {
  color: var(--muted); font-size: 0.75rem; font-weight: 600; border-bottom: 1px solid var(--ink);
  white-space: nowrap;
}
tbody th { font-weight: 500; }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
tbody tr:last-child > * { border-bottom: 1px solid var(--rule); }
.numbers th:not(:first-child), .numbers td {
  text-align: right; white-space: nowrap; padding: 0.42rem 0 0.42rem 1.1rem;
}
.numbers tbody th { white-space: nowrap; }
"""


def themed(light: str, dark: str, common: str = "") -> str:
    """Rules that set custom properties by the theme; paper is light.

    Args:
        light, dark: declarations under each theme.
        common: declarations under both.
    """
    # `:where` counts nothing, so that what a page sets later for `:root` holds.
    return f"""
:root {{ color-scheme: light dark; {light} {common} }}
@media screen and (prefers-color-scheme: dark) {{ :root:where(:not([data-theme=light])) {{ {dark} }} }}
@media screen {{ :root:where([data-theme=dark]) {{ color-scheme: dark; {dark} }} }}
:root:where([data-theme=light]) {{ color-scheme: light; }}
"""


PAGE_STYLE = themed(_LIGHT, _DARK, _FONTS) + _BASE
"""The first part of the style sheet of every page."""
