"""Tables as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

#: What LaTeX would read as a command, or has no letter for.
_LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}", "]": "{]}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "—": "---", "✓": "yes", "✗": "no"}
    | {"†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$", "→": r"$\rightarrow$", "×": r"$\times$", "β": r"$\beta$", "α": r"$\alpha$"}
)


def grid_lines(header: Sequence[str], body: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Return a Markdown table, its columns padded to one width; all but the first ``left`` columns stand to the right."""
    lines = [[text.replace("|", "\\|") for text in line] for line in (header, *body)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width if index < left else "-" * (width - 1) + ":" for index, width in enumerate(widths)])
    padded = [
        [text.ljust(width) if index < left else text.rjust(width) for index, (text, width) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]
    return [f"| {' | '.join(line)} |" for line in padded]


def csv_bytes(rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str] = ()) -> bytes:
    """Return ``rows`` as CSV: numbers at full precision, ``None`` as an empty field; ``columns`` is the header where there is no row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def escape(text: str) -> str:
    """Return ``text`` as LaTeX shows it."""
    return text.translate(_LATEX)


def latex_table(name: str, caption: str, columns: Sequence[str], body: Sequence[tuple[str, Sequence[tuple[str, bool]]]]) -> str:
    """Return a ``table`` environment with the rules of booktabs.

    ``body`` is a row's label with its cells, each a text and whether it is bold.
    """
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{tab:{name.replace('_', '-')}}}",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        " & ".join(["", *map(escape, columns)]) + r" \\",
        r"\midrule",
    ]
    for label, cells in body:
        texts = [rf"\textbf{{{escape(text)}}}" if bold else escape(text) for text, bold in cells]
        lines.append(" & ".join([escape(label), *texts]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"
