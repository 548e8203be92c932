"""One HTML page with every table and figure, the deviations and a browser of labels, that needs no other file and no network.

The same runs give the same bytes: no clock, no path of this machine and no random id goes into the page. What comes from run folders
and specs is text, never HTML, and the page's own policy lets no script run but the one that is written here.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files as package_files
from pathlib import Path
from string import Template
from urllib.parse import quote

from analysis.reading.cells import Collected, collect
from analysis.report.labels import RULE, TrainingSetOf, browse
from analysis.report.markdown import render_markdown
from analysis.tables.page import Files, commit, one_line, total_cost, unique_runs
from repro.errors import UserError

#: Of cells with numbers.
_NUMBER = ' class="number"'

_PAPER = "Nidhi Vyas, Shreyas Saxena, Thomas Voice: Learning Soft Labels via Meta Learning. 2020."
_PAPER_URL = "https://arxiv.org/abs/2009.09496"


def make_report(
    pages: Sequence[Files], runs: Path, *, deviations: str, command: str, training_set_of: TrainingSetOf, runs_link: str
) -> bytes:
    """Return the page as HTML in UTF-8. Of a table or figure none of whose runs has been started only the name is shown.

    Args:
        pages: the tables and figures, in the order in which they are shown.
        runs: where the run folders and their plans lie.
        deviations: the Markdown of docs/deviations.md.
        command: how this page is made again, as its footer says.
        training_set_of: :meth:`analysis.reading.images.TrainingSets.of`.
        runs_link: how the page reaches ``runs`` from where it will lie, relative.

    Raises:
        UserError: there is nothing to show, or no plan of a spec in ``runs``.
    """
    if not pages:
        raise UserError("there is no table and no figure to report: name at least one spec.")
    cells = {files.spec.name: collect(files.spec, runs) for files in pages}
    states = {name: {run.state for _, run in unique_runs(filled)} for name, filled in cells.items()}
    begun = [files for files in pages if states[files.spec.name] != {"missing"}]
    contents, overview, sections = [], [], []
    for number, files in enumerate(begun, start=1):
        anchor, name, filled = f"page-{number}", f"{files.spec.name}: {files.spec.title}", cells[files.spec.name]
        link = f'<a href="#{anchor}">{escape(name)}</a>'
        contents.append(f"<li>{link}</li>")
        overview.append(_line(link, files.spec.kind, filled))
        # The notes below a page are folded, so what it lacks stands above it.
        gaps = "" if states[files.spec.name] <= {"done"} else f'<p class="gaps">{_summary(filled)}</p>\n'
        sections.append(
            f'<section id="{anchor}" aria-labelledby="{anchor}-title"><h2 id="{anchor}-title">{escape(name)}</h2>\n{gaps}'
            f"{render_markdown(files.page, name=name, images=files.contents)}{_provenance(filled, runs_link)}</section>\n"
        )
    waiting = [f"<li>{escape(f'{files.spec.name}: {files.spec.title}')}</li>" for files in pages if files not in begun]
    everything = [cell for filled in cells.values() for cell in filled]
    data, problems = browse(cells, runs, training_set_of, runs_link)
    stamps = dict.fromkeys(files.spec.scale.stamp for files in pages if files.spec.scale.stamp)
    script = _asset("report.js")
    parts = {
        "title": "Learning Soft Labels via Meta Learning: reproduction report",
        "paper": escape(_PAPER),
        "paper_url": escape(_PAPER_URL),
        "stamp": "".join(f'<p class="stamp"><strong>Not the paper\'s scale.</strong> {escape(stamp)}</p>' for stamp in stamps),
        "contents": "".join(contents),
        "summary": _summary(everything),
        "overview": "".join(overview),
        "waiting": f"<details open><summary>Planned, no run started yet ({len(waiting)})</summary><ul>{''.join(waiting)}</ul></details>"
        if waiting
        else "",
        "together": _line("All, each run once", "", everything),
        "sections": "".join(sections),
        "deviations": render_markdown(deviations, name="deviations", images={}),
        "rule": f"<p>{escape(_rule(len(data['runs'])))}</p>",
        "problems": f"<p>Not shown:</p><ul>{''.join(f'<li>{escape(text)}</li>' for text in problems)}</ul>" if problems else "",
        "command": escape(command),
        "css": _asset("report.css"),
        "script": script,
        "script_sha256": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        # In JSON these signs stand in strings only; as they are, they could end the script element, or begin a comment.
        "data": json.dumps(data, sort_keys=True, separators=(",", ":")).translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "&<>"}),
    }
    return Template(_asset("report.html")).substitute(parts).encode()


def _asset(name: str) -> str:
    return (package_files("analysis") / "assets" / name).read_text(encoding="utf-8")


def _rule(count: int) -> str:
    if not count:
        return "No finished run of these tables and figures has recorded labels."
    return (
        f"{count} runs: of each cell the first finished repeat with recorded labels, or the first of the runs whose labels it reads. {RULE}"
    )


def _summary(cells: Iterable[Collected]) -> str:
    states = Counter(run.state for _, run in unique_runs(cells))
    total, done = states.total(), states.pop("done", 0)
    return ", ".join([f"{done} of {total} runs done", *(f"{count} {state}" for state, count in sorted(states.items()))]) + "."


def _line(head: str, kind: str, cells: Iterable[Collected]) -> str:
    """Return a line of the overview as HTML: how far ``cells`` are filled, a run that several of them share counted once."""
    cells = list(cells)
    runs = [run for _, run in unique_runs(cells)]
    done = [run for run in runs if run.done]
    states = Counter(run.state for run in runs if not run.done)
    left_out = sum(cell.skip is not None for cell in cells)
    share = f'<progress max="{len(runs)}" value="{len(done)}" aria-hidden="true"></progress>' if runs else ""
    texts = (
        f"{share}{len(done)}/{len(runs)}" if runs else "no runs",
        ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "—",
        f"{total_cost(done, 'wall_s') / 3600:.2f}",
        f"{total_cost(done, 'gpu_hours'):.2f}",
        str(left_out) if left_out else "—",
    )
    return f'<tr><th scope="row">{head}</th><td>{escape(kind)}</td>' + "".join(f"<td{_NUMBER}>{text}</td>" for text in texts) + "</tr>"


def _provenance(cells: Sequence[Collected], link: str) -> str:
    """Return the runs of each cell with their states and the code that made them, folded; ``link`` leads to the run folders."""
    count = len(unique_runs(cells))
    if not count:
        return ""
    items = "".join(f"<li>{escape(cell.label)}<ul>{_runs(cell, link)}</ul></li>" for cell in cells if cell.repeats)
    return f'<details class="runs"><summary>Runs of each cell ({count})</summary><ul>{items}</ul></details>'


def _runs(cell: Collected, link: str) -> str:
    return "".join(
        f'<li>{escape(repeat.label)}: <a href="{escape(link)}/{quote(repeat.run.run_id)}/"><code>{escape(repeat.run.run_id)}</code></a>, '
        f"{escape(repeat.run.state)}"
        + (f", {escape(commit(repeat.run))}" if repeat.run.done else f": {escape(one_line(repeat.run.problem))}")
        + "</li>"
        for repeat in cell.repeats
    )
