"""Tables as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

#: Signs that LaTeX's usual fonts have no letter for.
_LATEX = str.maketrans(
    {"±": r"$\pm$", "—": "---", "✓": "yes", "✗": "no", "†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$", "→": r"$\rightarrow$"}
    | {"×": r"$\times$", "β": r"$\beta$", "α": r"$\alpha$"}
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


def latex_table(name: str, caption: str, texts: pd.DataFrame, bold: pd.DataFrame) -> str:
    """Return a ``table`` environment with the rules of booktabs; where ``bold`` is true, ``texts`` are."""
    style = texts.style.format(escape="latex").format_index(escape="latex").format_index(escape="latex", axis=1)
    style.apply(lambda cells: bold.map({True: "textbf:--rwrap", False: ""}.get), axis=None)
    escaped = re.sub(r"([&%$#_{}])", r"\\\1", caption)
    label = f"tab:{name.replace('_', '-')}"
    columns = "l" + "r" * texts.shape[1]
    tex = style.to_latex(hrules=True, position_float="centering", column_format=columns, caption=escaped, label=label)
    return f"% needs \\usepackage{{booktabs}}\n{tex.translate(_LATEX)}"
