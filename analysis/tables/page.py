"""What every generated page begins and ends with: what it shows, how to read it, what to doubt, and how to make it again.

Nothing here looks at a clock, a path or a locale: the same runs give the same bytes, wherever and whenever the page is made.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.reading.results import Cell, Results, command_name
from analysis.reading.runs import MADE_WITH
from repro.errors import UserError
from repro.files import json_text, write_bytes
from sweeps.scales import PAPER, Scale
from sweeps.spec import Spec


@dataclass(frozen=True)
class Files:
    """The files of one table or figure, made from ``results``: name -> content; the page itself is ``<spec>.md``."""

    results: Results
    contents: dict[str, bytes]

    @property
    def name(self) -> str:
        """The name of the spec."""
        return self.results.spec.name

    @property
    def page(self) -> str:
        """The Markdown page."""
        return self.contents[f"{self.name}.md"].decode()

    @property
    def folder(self) -> Path:
        """Where the files lie below all pages: each scale but the paper's has a folder, and so has what is not in the paper."""
        scale = "" if self.results.scale.name == PAPER else self.results.scale.name
        return Path(scale) / ("" if re.fullmatch(r"(table|figure)\d+", self.name) else self.name)


def write_files(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files, path below ``folder`` -> content, and return their paths.

    Raises:
        UserError: one cannot be written.
    """
    try:
        for name, content in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / name, content)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}. Set --out to a place you can write to.") from error
    return [folder / name for name in contents]


def heading(spec: Spec, scale: Scale) -> list[str]:
    """Return the lines of the title, the disclaimer of the scale and the caption."""
    return [f"# {spec.title}", "", *disclaimer_lines(scale), *([one_line(spec.caption), ""] if spec.caption else [])]


def disclaimer_lines(scale: Scale) -> list[str]:
    """Return the lines that say that a page is not at the paper's scale; none where it is."""
    return [f"> **{one_line(scale.disclaimer)}**", ""] if scale.disclaimer else []


def one_line(text: str) -> str:
    """Return ``text`` with each run of spaces and line breaks as one space."""
    return " ".join(text.split())


def table_files(
    results: Results, shown: Sequence[tuple[str, bool]], beside: Sequence[str], closing: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> Files:
    """Return the page of a table, as Markdown and LaTeX, and its ``rows`` as CSV.

    ``shown`` are the cells, row by row: a text and whether it is bold; ``beside`` are the lines of the comparison with what is published.
    """
    spec, scale = results.spec, results.scale
    rows_of, columns = ([line.label for line in lines] for lines in (spec.row_lines, spec.column_lines))
    texts, bold = (pd.DataFrame(np.reshape(part, (-1, len(columns))), rows_of, columns) for part in zip(*shown, strict=True))
    grid = grid_lines(["", *columns], texts.mask(bold, "**" + texts + "**").reset_index().to_numpy().tolist())
    page = [*heading(spec, scale), *grid, "", *(["## Comparison with what is published", "", *beside, ""] if beside else []), *closing]
    tex = latex_table(spec.name, one_line(f"{spec.title}. {scale.disclaimer} {spec.caption}"), texts, bold)
    contents = {"md": ("\n".join(page) + "\n").encode(), "tex": tex.encode(), "cells.csv": csv_bytes(rows)}
    return Files(results, {f"{spec.name}.{kind}": content for kind, content in contents.items()})


def provenance(results: Results) -> bytes:
    """Return the JSON of what a page was made from: the runs of each cell, and what they were made with."""
    document = {"schema": 2, "spec": results.spec.name, "scale": results.scale.name, "spec_sha256": results.spec_sha256}
    cells = [{"row": cell.row, "column": cell.column, "runs": cell.run_ids} for cell in results.cells]
    return json_text(document | {"cells": cells, "made_with": _made_with(results)}).encode()


def spread_note(results: Results) -> str:
    """Return what ± is, over what, and how many runs a cell has."""
    over = " and ".join(dict.fromkeys(key for cell in results.cells for repeat in cell.repeats for key in repeat))
    sizes = " or ".join(map(str, sorted({len(cell.run_ids) for cell in results.cells if cell.run_ids})))
    return f"± is the sample standard deviation over {over} (n - 1 in the denominator), not a confidence interval; n = {sizes} runs a cell."


def notes(results: Results, *, read: Sequence[str], doubt: Sequence[str], command: str) -> list[str]:
    """Return the last lines of a page: how to read it, what to doubt, how to rebuild it; ``read`` and ``doubt`` are notes of its own."""
    spec, cells, name = results.spec, results.cells, command_name(results.spec, results.scale)
    done = results.runs[results.runs["state"] == "done"]
    doubt = [*doubt, *_missing(results)]
    doubt += [f"**Not tuned yet**, so with the values that the spec declares until it is: {text}." for text in _noted(cells, "untuned")]
    doubt += [f"At the end of its grid, so that a better value may lie beyond: {text}." for text in _noted(cells, "at_end")]
    same: defaultdict[tuple[object, str], list[str]] = defaultdict(list)
    for cell in cells:
        same[cell.run_ids, results.rule(cell)].append(cell.label)
    # As where a scale replaces what they differ in.
    doubt += [f"These are the same runs: {'; '.join(of)}." for (run_ids, _), of in same.items() if run_ids and len(of) > 1]
    made_with = _made_with(results)
    if mixed := [f"{what} ({len(counts)})" for what, counts in made_with.items() if len(counts) > 1]:
        doubt.append(f"**Not all made alike**: the runs differ in {', '.join(mixed)}; `{spec.name}.provenance.json` counts them.")
    rebuild = [
        f"`python -m sweeps run {name}`, then `python -m analysis {command} {name}`. {len(done)} of {len(results.runs)} runs are done."
    ]
    if len(done):
        alike = "All with " + ", ".join(f"{what} {text}" for what, counts in made_with.items() if len(counts) == 1 for text in counts)
        rebuild.append(
            f"{alike}. Newest run: {max(done['ended'])}. {sum(done['wall_s']) / 3600:.2f} hours, {sum(done['gpu_hours']):.2f} on GPUs."
        )
    read = [*read, *(f"Left out: {cell.label}: {cell.skip}" for cell in cells if cell.skip)]
    groups = (("How to read it", read), ("What to doubt", doubt), ("How to rebuild it", rebuild))
    return ["---", *(line for title, texts in groups if texts for line in ("", f"**{title}**", "", *(f"- {text}" for text in texts)))]


def _made_with(results: Results) -> dict[str, Counter[str]]:
    """Return what the done runs were made with, and how many with each."""
    done = results.runs[results.runs["state"] == "done"]
    return {what: Counter(done[what]) for what in MADE_WITH}


def _noted(cells: Iterable[Cell], what: str) -> list[str]:
    """Return each note that ``cells`` have in their field ``what``, with the labels of those that have it."""
    labels: defaultdict[str, list[str]] = defaultdict(list)
    for cell in cells:
        for note in getattr(cell, what):
            labels[note].append(cell.label)
    return [f"{note}: {'; '.join(of_note)}" for note, of_note in labels.items()]


def _missing(results: Results) -> Iterator[str]:
    """Yield what is missing, a line a cell; a row of which nothing is done is one line."""
    started = {cell.row for cell in results.cells if results.done(cell)}
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for cell in results.cells:
        groups[cell.label if cell.row in started else f"{cell.row}, every column"].update(cell.run_ids)
    lines = []
    for label, run_ids in groups.items():
        states = Counter(results.states[run_id] for run_id in sorted(run_ids))
        if set(states) - {"done"}:
            lines.append(f"  - {label}: {', '.join(f'{count} {state}' for state, count in sorted(states.items()))}")
    if lines:
        yield "\n".join(["**Not all runs are done**:", *lines])


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
