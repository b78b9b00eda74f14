"""Pieces of the report's HTML: the page around it, tables and figures. Nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from rgcluster.evaluate.report.tables import Row, Table, Value

__all__ = ["details", "figure", "page", "paragraphs", "section", "simple_table", "table"]


def page(title: str, body: Iterable[str]) -> str:
    """Return a whole HTML document."""
    return _PAGE.format(title=escape(title), css=_CSS, body="\n".join(body))


def section(name: str, heading: str, *parts: str) -> str:
    """Return a section with an anchor and a heading."""
    head = f'<h2 id="{name}-heading">{escape(heading)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-heading">\n{head}\n{"".join(parts)}\n</section>'


def paragraphs(texts: Iterable[str], kind: str = "") -> str:
    """Return plain texts as paragraphs."""
    attribute = f' class="{kind}"' if kind else ""
    return "".join(f"<p{attribute}>{escape(text)}</p>\n" for text in texts)


def details(summary: str, text: str) -> str:
    """Return text in a collapsed section."""
    return f"<details>\n<summary>{escape(summary)}</summary>\n<pre>{escape(text)}</pre>\n</details>\n"


def figure(name: str, title: str, caption: str, picture: bytes) -> str:
    """Return a PNG or GIF, embedded, with its caption; on a narrow screen it scrolls rather than shrinks."""
    data = base64.b64encode(picture).decode()
    kind = "gif" if picture[:3] == b"GIF" else "png"
    image = f'<img src="data:image/{kind};base64,{data}" alt="{escape(f"{title}. {caption}")}">'
    return (
        f'<figure id="figure-{name}">\n{_scrolling(title, image)}\n'
        f"<figcaption><strong>{escape(title)}.</strong> {escape(caption)}</figcaption>\n</figure>\n"
    )


def table(content: Table) -> str:
    """Return a table of results: our value, its spread, and below it the paper's."""
    if not content.rows:
        return paragraphs([f"{content.caption}: nothing was measured."], "missing")
    rows = "\n".join(_result_row(row) for row in content.rows)
    return _table(content.caption, (content.corner, *content.columns), rows, "results") + paragraphs(
        content.notes, "note"
    )


def simple_table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of plain texts; the first column names the rows."""
    lines = [
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    ]
    return _table(caption, columns, "\n".join(lines), "plain")


def _table(caption: str, columns: Sequence[str], rows: str, kind: str) -> str:
    heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    return _scrolling(
        caption,
        f'<table class="{kind}">\n<caption>{escape(caption)}</caption>\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table>\n",
    )


def _scrolling(label: str, content: str) -> str:
    """Return what scrolls sideways, by keyboard too, where the screen is narrow."""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">\n{content}\n</div>\n'
    )


def _result_row(row: Row) -> str:
    cells = "".join(f"<td>{_cell(value)}</td>" for value in row.values)
    return f'<tr><th scope="row">{escape(row.name)}</th>{cells}</tr>'


def _cell(value: Value) -> str:
    spread = f' <span class="spread">± {escape(value.spread)}</span>' if value.spread else ""
    if value.training:
        spread += f' <span class="spread">‡ {escape(value.training)}</span>'
    paper = f'<span class="paper">paper {escape(value.paper)}</span>' if value.paper else ""
    return f'<span class="ours">{escape(value.text)}{spread}</span>{paper}'


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_CSS = """
:root { color-scheme: light dark;
  --back: #fff; --ink: #1c1e22; --pale: #5f646d; --line: #d9dce1; --panel: #f5f6f8;
  --a: #0b62b8; --b: #b4530a; --c: #0d7a5f; --d: #8a3ab0; }
@media (prefers-color-scheme: dark) {
  :root { --back: #15171a; --ink: #e6e8eb; --pale: #a3a9b3; --line: #363a41; --panel: #1e2125;
    --a: #6db3f8; --b: #f0a060; --c: #5fd0ac; --d: #cf9bea; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: .5rem 0 .75rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
p, li, figcaption { max-width: 46rem; }
p { margin: .5rem 0; }
.reading { padding: .25rem 1.25rem .5rem 2.25rem; border-left: 4px solid var(--a); background: var(--panel); }
.reading li { margin: .5rem 0; }
.limits, .note, figcaption { color: var(--pale); font-size: .9rem; }
.missing { color: var(--pale); font-style: italic; }
.scroll { overflow-x: auto; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--a); outline-offset: 2px; }
figure { margin: 1.5rem 0; }
figure img { display: block; max-width: 100%; min-width: min(40rem, 150vw); height: auto;
  background: #fff; border: 1px solid var(--line); border-radius: 6px; }
figcaption { margin-top: .5rem; }
table { border-collapse: collapse; margin: 1rem 0 .5rem;
  font-variant-numeric: tabular-nums; font-size: .9rem; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { padding: .4rem .5rem; text-align: right; vertical-align: top; }
thead, tbody tr { border-bottom: 1px solid var(--line); }
thead th { color: var(--pale); font-weight: 600; vertical-align: bottom; }
th:first-child { text-align: left; padding-left: 0; font-weight: 500; }
table.results tbody th { white-space: nowrap; }
.ours { white-space: nowrap; display: block; }
.spread { color: var(--pale); font-size: .85em; }
.paper { display: block; color: var(--pale); font-size: .78em; white-space: nowrap; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .75rem; }
.panels svg { width: 100%; height: auto; background: var(--panel); border-radius: 6px; }
.panels text { fill: var(--pale); font: 11px system-ui, sans-serif; }
.panels text.title { fill: var(--ink); font-weight: 600; font-size: 12px; }
.axis { stroke: var(--line); fill: none; }
.curve { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.s0 { stroke: var(--a); } .s1 { stroke: var(--b); stroke-dasharray: 6 3; }
.s2 { stroke: var(--c); stroke-dasharray: 2 2; } .s3 { stroke: var(--d); stroke-dasharray: 8 3 2 3; }
.panels.wide { grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); }
.bar { stroke-width: 1; stroke-dasharray: none; }
.d0 { fill: var(--a); } .d1 { fill: var(--b); } .d2 { fill: var(--c); } .d3 { fill: var(--d); }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; margin: .5rem 0;
  list-style: none; }
.legend svg { width: 28px; height: 8px; margin-right: .4rem; vertical-align: middle; }
details { margin: .75rem 0; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; background: var(--panel); padding: .75rem 1rem; border-radius: 6px;
  font-size: .82rem; }
@media print { details:not([open]) { display: none; } }
"""
