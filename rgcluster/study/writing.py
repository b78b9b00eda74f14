"""Tables as CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from rgcluster.evaluate.report.tables import Row, Table, Value

__all__ = ["as_csv", "as_latex"]


def as_csv(table: Table) -> str:
    """Return the table with four columns for each metric: value, both spreads, the paper's value."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    heads = [_plain(column) for column in table.columns]
    kinds = ("", " spread over evaluation seeds", " spread over training seeds", " in the paper")
    writer.writerow([table.corner, *(head + kind for head in heads for kind in kinds)])
    for row in table.rows:
        cells = (
            cell for value in row.values for cell in (value.text, value.spread, value.training, value.paper)
        )
        writer.writerow([row.name, *("" if cell == "–" else cell for cell in cells)])
    return buffer.getvalue()


def as_latex(table: Table) -> str:
    """Return a `tabular` in a `table`, with the paper's values in small print below ours."""
    lines = [
        r"\begin{table}",
        rf"\caption{{{_tex(table.caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\hline",
        " & ".join(_tex(text) for text in (table.corner, *table.columns)) + r" \\",
        r"\hline",
    ]
    for row in table.rows:
        lines += _latex_row(row)
    lines += [r"\hline", r"\end{tabular}", *(rf"% {_tex(note)}" for note in table.notes), r"\end{table}"]
    return "\n".join(lines) + "\n"


def _latex_row(row: Row) -> Iterable[str]:
    yield " & ".join([_tex(row.name), *(_latex_value(value) for value in row.values)]) + r" \\"
    if any(value.paper for value in row.values):
        papers = [rf"{{\small {_tex(value.paper)}}}" if value.paper else "" for value in row.values]
        yield " & ".join([r"{\small \quad paper}", *papers]) + r" \\"


def _latex_value(value: Value) -> str:
    if value.text == "–":
        return "--"
    spread = rf" \pm {value.spread}" if value.spread else ""
    training = rf" \ddagger {value.training}" if value.training else ""
    return f"${value.text}{spread}{training}$"


_TEX = {
    "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$", "×": r"$\times$", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$", "‡": r"$\ddagger$", "−": r"$-$", "–": "--", "\N{NO-BREAK SPACE}": "~",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)


def _plain(heading: str) -> str:
    """Return a heading without its arrow."""
    return heading.replace("\N{NO-BREAK SPACE}", " ").rstrip("↑↓ ")
