"""Tables as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from typing import Any

from sweeps.spec.load import Spec

#: What LaTeX would read as a command, or has no letter for.
_SPECIAL = {sign: f"\\{sign}" for sign in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "]": "{]}",
    "±": r"$\pm$",
    "—": "---",
    "†": r"$^{\dagger}$",
    "‡": r"$^{\ddagger}$",
    "✓": r"yes",
    "✗": r"no",
    "→": r"$\rightarrow$",
    "×": r"$\times$",
    "β": r"$\beta$",
    "α": r"$\alpha$",
}


def grid_lines(header: Sequence[str], body: Sequence[Sequence[str]], *, left: int | Collection[int] = 1) -> list[str]:
    """Return a Markdown table, its columns padded to one width; all but the first, or those, ``left`` columns stand to the right."""
    left = range(left) if isinstance(left, int) else left
    escaped = [[text.replace("|", "\\|") for text in line] for line in (header, *body)]
    widths = [max(3, *(len(line[index]) for line in escaped)) for index in range(len(header))]
    rule = ["-" * width if index in left else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    padded = [
        [text.ljust(width) if index in left else text.rjust(width) for index, (text, width) in enumerate(zip(line, widths, strict=True))]
        for line in escaped
    ]
    return [f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:])]


def csv_bytes(rows: Sequence[dict[str, Any]], *, columns: Sequence[str] = ()) -> bytes:
    """Return ``rows`` as CSV: numbers at full precision, ``None`` as an empty field; ``columns`` is the header where there is no row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else list(columns), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "NaN" if isinstance(value, float) and value != value else value for key, value in row.items()})
    return text.getvalue().encode()


def escape(text: str) -> str:
    """Return ``text`` as LaTeX shows it."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def latex_table(spec: Spec, columns: Sequence[str], body: Sequence[tuple[str, Sequence[tuple[str, bool]]]]) -> str:
    """Return a ``table`` environment with the rules of booktabs.

    ``body`` is a row's label with its cells, each a text and whether it is bold.
    """
    caption = " ".join(" ".join([f"{spec.title}.", spec.scale.stamp or "", spec.caption]).split())
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{tab:{spec.name.replace('_', '-')}}}",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        " & ".join(["", *(escape(column) for column in columns)]) + r" \\",
        r"\midrule",
    ]
    for label, cells in body:
        texts = [rf"\textbf{{{escape(text)}}}" if bold else escape(text) for text, bold in cells]
        lines.append(" & ".join([escape(label), *texts]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"
