"""The styles of report pages, for narrow and wide screens and for paper."""

from mol.pictures.page_style import PAGE_STYLE

STYLE = (
    PAGE_STYLE
    + """
.main > .facts { margin-top: 0.6rem; }
.main > h3:first-child, .main > figure:first-child, .main > p:first-child { margin-top: 0; }
.headline {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(42%, 10.5rem), 1fr)); gap: 1.4rem 1.6rem;
  margin: 2.4rem 0 0;
}
.headline dt { color: var(--muted); font-size: 0.75rem; font-weight: 600; letter-spacing: 0.05em; }
.headline dd { margin: 0; font: 400 clamp(1.9rem, 3.4vw, 2.5rem)/1.15 var(--serif); letter-spacing: -0.02em; }
.headline dd small { color: var(--muted); font: 0.8125rem var(--sans); letter-spacing: 0; margin-left: 0.3rem; }

nav {
  display: flex; flex-wrap: wrap; gap: 0.3rem 1.4rem; border-bottom: 1px solid var(--rule); padding: 2.2rem 0 0.8rem;
}
nav a { color: var(--muted); font-size: 0.8125rem; text-decoration: none; }
nav a:hover, nav a:focus { color: var(--accent); text-decoration: underline; }
section { display: grid; gap: 1rem 3rem; padding: 2.6rem 0; border-bottom: 1px solid var(--rule); }
section > * { min-width: 0; }
.side p { color: var(--muted); font-size: 0.8125rem; line-height: 1.5; margin: 0 0 0.6rem; }
@media (min-width: 62rem) {
  section { grid-template-columns: 13rem minmax(0, 1fr); }
  .side { align-self: start; position: sticky; top: 1.5rem; }
}
.words td { overflow-wrap: anywhere; }
.words td:last-child { padding-right: 0; }
td small, th small { color: var(--muted); font-weight: 400; font-size: 0.78em; }
tr.total > * { font-weight: 650; }
.up { color: var(--good); } .down { color: var(--bad); }

.confusions {
  display: grid; gap: 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, calc(7rem + var(--classes) * 4.5rem)), 1fr));
}
.confusions .scroll { margin: 0; }
.confusion { table-layout: fixed; border-collapse: separate; border-spacing: 3px; width: auto; max-width: 100%; }
.confusion th, .confusion td { border: 0 !important; text-align: center; padding: 0.3rem; font-size: 0.8125rem; }
.confusion thead th { color: var(--ink); font-weight: 500; white-space: normal; }
.confusion tbody th { text-align: right; padding-right: 0.5rem; }
.confusion .corner { color: var(--muted); font-size: 0.6875rem; text-align: right; white-space: nowrap; }
.confusion td {
  width: 5.2rem; height: 3.7rem; vertical-align: middle; border-radius: 3px; line-height: 1.2;
  background: color-mix(in srgb, var(--deep) calc(var(--share) * 62%), var(--track));
}
.confusion td b { display: block; font-size: 1.0625rem; font-weight: 500; }
.confusion td.right b { font-weight: 700; }
.confusion td small { color: inherit; opacity: 0.85; }

.people { list-style: none; margin: 0 0 1.6rem; padding: 0; display: grid; gap: 0.2rem 2.2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 15.5rem), 1fr)); font-size: 0.8125rem; }
.people li { display: grid; grid-template-columns: 4.6rem 1fr 3.9rem; gap: 0.6rem; align-items: center; }
.people .name { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.people .count { text-align: right; color: var(--muted); white-space: nowrap; }
.bar {
  display: block; height: 0.55rem; border-radius: 2px; background: var(--track); overflow: hidden; min-width: 2px;
}
.bar i { display: block; height: 100%; background: var(--deep); }

.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1.4rem 1.6rem; }
figure { margin: 0; }
figcaption { font-size: 0.8125rem; margin-bottom: 0.4rem; }
figure svg { display: block; width: 100%; height: auto; }
.reliability { max-width: 30rem; break-inside: avoid; }
.chart text { font-family: var(--sans) !important; }

.failure { border-top: 1px solid var(--ink); padding: 0.8rem 0 0; margin: 0 0 2.2rem; break-inside: avoid; }
.failure h3 { margin: 0; display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0.2rem 1.5rem; }
.failure h3 span { font-weight: 400; color: var(--muted); }
.failure .muted { margin: 0.1rem 0 0.7rem; font-size: 0.8125rem; max-width: none; }
.probabilities { display: grid; grid-template-columns: max-content minmax(3rem, 14rem) max-content;
  gap: 0.15rem 0.7rem;
  align-items: center; font-size: 0.8125rem; margin: 0.6rem 0 0.9rem; }
.strip { display: grid; grid-template-columns: repeat(8, minmax(0, 1fr)); gap: 4px; margin-bottom: 4px; }
.strip > * { min-width: 0; }
.strip .cell { font-size: 0.6875rem; color: var(--muted); line-height: 1.5; }
.strip svg, .strip img { display: block; width: 100%; height: auto; border-radius: 2px; background: var(--track); }
.flow img { box-shadow: 0 0 0 1px var(--rule); }
.legend {
  display: flex; flex-wrap: wrap; gap: 0.4rem 1.4rem; align-items: center; font-size: 0.8125rem; margin: 0 0 1.4rem;
}
.legend img { width: 3.4rem; height: 3.4rem; display: block; }
.legend span { display: inline-flex; align-items: center; gap: 0.5rem; }
.key { width: 1.4rem; height: 0; border-top: 2.5px solid; display: inline-block; }
@media (max-width: 40rem) { .strip { grid-template-columns: repeat(4, minmax(0, 1fr)); } }

details { border-top: 1px solid var(--rule); }
details:last-of-type { border-bottom: 1px solid var(--rule); }
summary { cursor: pointer; padding: 0.55rem 0; font-weight: 500; }
pre {
  background: var(--track); border-radius: 4px; padding: 0.9rem 1rem; margin: 0 0 1rem; overflow-x: auto;
  white-space: pre-wrap;
}

.race { display: grid; grid-template-columns: minmax(4rem, max-content) minmax(4rem, 1fr) max-content;
  gap: 0.35rem 1rem;
  align-items: center; font-size: 0.875rem; margin: 0 0 1.4rem; }
.race .head { grid-column: 1 / -1; color: var(--muted); font-size: 0.75rem; font-weight: 600; }
.race .track { position: relative; }
.race .bar { height: 0.9rem; }
.race u { position: absolute; top: -0.2rem; bottom: -0.2rem; border-left: 1.5px solid var(--ink); }
.race small { color: var(--muted); }

@media print {
  :root { --paper: #fff; --card: #fff; --ink: #000; --muted: #444; --rule: #bbb; --track: #eee; --accent: #000;
    --deep: #0072b2; --bad: #a33a12; --bad-paper: #fff; --good: #00664c; }
  body { max-width: none; padding: 0; font-size: 9.5pt; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  nav { display: none; }
  section { display: block; padding: 1.2rem 0; }
  .side { position: static; }
  .scroll, pre { overflow: visible; }
  tr, figure, .banner, .scroll, .race { break-inside: avoid; }
  .headline { grid-template-columns: repeat(5, 1fr); gap: 1rem; }
  .headline dd { font-size: 1.6rem; }
  details::details-content { content-visibility: visible; block-size: auto; }
  h2, h3 { break-after: avoid; }
}
"""
)
