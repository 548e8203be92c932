"""How far every table and figure is filled, and which run stands where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from analysis.collect import Collected, collect
from analysis.page import Files, commit, unique_runs
from sweeps.spec import FigureSpec, RecipeSpec, Spec


@dataclass(frozen=True)
class Section:
    """One table or figure of the page: its files, its anchor, and its cells with their runs."""

    files: Files
    anchor: str
    cells: tuple[Collected, ...]

    @property
    def title(self) -> str:
        """Its name and title: ``table1: Accuracy on clean data``."""
        return f"{self.files.spec.name}: {self.files.spec.title}"


def make_sections(pages: Sequence[Files], runs: Path) -> list[Section]:
    """Return the sections of ``pages`` with the runs that their plans in ``runs`` name; a table of settings has none.

    Raises:
        UserError: there is no plan of a spec in ``runs``.
    """
    anchors: Counter[str] = Counter()
    sections = []
    for files in pages:
        name = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "-_") else "-" for sign in files.spec.name)
        anchors[name] += 1
        anchor = f"page-{name}" if anchors[name] == 1 else f"page-{name}-{anchors[name]}"
        sections.append(Section(files, anchor, collect(files.spec, runs)))
    return sections


def overview(sections: Sequence[Section]) -> str:
    """Return the table of how far each section is filled, as HTML; its last line counts a run that several sections share once."""
    lines = [_line(f'<a href="#{item.anchor}">{escape(item.title)}</a>', _kind(item.files.spec), item.cells) for item in sections]
    total = _line("Together, each run once", "", [cell for item in sections for cell in item.cells])
    heads = ("Table or figure", "Kind", "Runs done", "Not done", "Wall hours", "GPU-hours", "Cells not built", "Cells left out")
    head = "".join(f'<th scope="col"{_right(index > 1)}>{text}</th>' for index, text in enumerate(heads))
    return (
        '<div class="scroll" role="region" tabindex="0" aria-label="Table: overview"><table class="overview">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody><tfoot>{total}</tfoot></table></div>"
    )


def _kind(spec: Spec) -> str:
    if isinstance(spec, RecipeSpec):
        return "settings"
    return "figure" if isinstance(spec, FigureSpec) else "table"


def _line(head: str, kind: str, cells: Iterable[Collected]) -> str:
    cells = list(cells)
    runs = [run for _, run in unique_runs(cells)]
    done = [run for run in runs if run.done]
    states = Counter(run.state for run in runs if not run.done)
    skipped = Counter(cell.skip.startswith("not built:") for cell in cells if cell.skip is not None)
    share = f'<progress max="{len(runs)}" value="{len(done)}" aria-hidden="true"></progress>' if runs else ""
    texts = (
        f"{share}{len(done)}/{len(runs)}" if runs else "no runs",
        ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "—",
        f"{sum(float(run.cost.get('wall_s', 0.0)) for run in done) / 3600:.2f}",
        f"{sum(float(run.cost.get('gpu_hours', 0.0)) for run in done):.2f}",
        str(skipped[True]) if skipped[True] else "—",
        str(skipped[False]) if skipped[False] else "—",
    )
    return f'<tr><th scope="row">{head}</th><td>{escape(kind)}</td>' + "".join(f"<td{_right(True)}>{text}</td>" for text in texts) + "</tr>"


def _right(right: bool) -> str:
    return ' class="number"' if right else ""


def provenance(section: Section, link: str) -> str:
    """Return the runs of each cell with their states and the code that made them, folded; ``link`` leads to the run folders."""
    count = len(unique_runs(section.cells))
    if not count:
        return ""
    cells = "".join(f"<li>{escape(cell.label)}<ul>{_runs(cell, link)}</ul></li>" for cell in section.cells if cell.repeats)
    return f'<details class="runs"><summary>Runs of each cell ({count})</summary><ul>{cells}</ul></details>'


def _runs(cell: Collected, link: str) -> str:
    return "".join(
        f'<li>{escape(repeat.label)}: <a href="{escape(link)}/{quote(repeat.run.run_id)}/"><code>{escape(repeat.run.run_id)}</code></a>, '
        f"{escape(repeat.run.state)}"
        + (f", {escape(commit(repeat.run))}" if repeat.run.done else f": {escape(' '.join(repeat.run.problem.split()))}")
        + "</li>"
        for repeat in cell.repeats
    )
