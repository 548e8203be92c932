"""The index of the committed pages: what each shows and how much of it has been run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from analysis.collect import Collected
from analysis.page import Files, grid_lines, unique_runs
from sweeps.spec import PAPER, Spec

_HEAD = """\
# Generated tables and figures

What `python -m analysis build` makes from [evidence](evidence), which holds the finished runs without weights and trajectories. Nothing
here is edited by hand: `python -m analysis check` fails on any byte that the evidence does not make. Each page ends with how to read
it, the code and software behind it, and the commands that make its runs. The published numbers, cell by cell, are in
[reported](reported/README.md).
"""


def index_page(made: Sequence[tuple[Spec, Files, tuple[Collected, ...]]]) -> str:
    """Return the index as Markdown; ``made`` holds each spec with its files and cells."""
    lines = [_HEAD]
    scales = dict.fromkeys(spec.scale.title for spec, _, _ in made)
    for title in scales:
        here = [(spec, files, cells) for spec, files, cells in made if spec.scale.title == title]
        stamp = here[0][0].scale.stamp
        lines += [f"## Scale: {title}" if here[0][0].scale != PAPER else "## At full scale", ""]
        lines += [" ".join(stamp.split()), ""] if stamp is not None else []
        body = [[_link(spec, files), spec.title, *_state(files, cells)] for spec, files, cells in here]
        lines += [*grid_lines(["page", "what it shows", "runs done", "cells", "beside the paper"], body, left=5), ""]
    lines.append("Cells: filled, partly filled, empty. Beside the paper: within or outside the published spread, by the rule on the page.")
    return "\n".join(lines) + "\n"


def _link(spec: Spec, files: Files) -> str:
    return f"[{spec.name}]({(files.folder(Path()) / spec.name).as_posix()}.md)"


def _state(files: Files, cells: Sequence[Collected]) -> list[str]:
    runs = unique_runs(cells)
    if not runs:
        return ["no runs needed", "", ""]
    done = sum(run.done for _, run in runs)
    states = Counter(_filled(cell) for cell in cells if cell.skip is None)
    not_built = sum(cell.skip is not None and cell.skip.startswith("not built") for cell in cells)
    words = [f"{states[word]} {word}" for word in ("filled", "partly", "empty") if states[word]]
    return [f"{done} of {len(runs)}", ", ".join([*words, *([f"{not_built} not built"] if not_built else [])]), _verdicts(files)]


def _filled(cell: Collected) -> str:
    done = sum(repeat.run.done for repeat in cell.repeats)
    return "filled" if done == len(cell.repeats) else "partly" if done else "empty"


def _verdicts(files: Files) -> str:
    provenance = json.loads(files.contents[f"{files.spec.name}.provenance.json"])
    counts = Counter(cell.get("verdict") for cell in provenance.get("cells", ()))
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("within", "outside") if counts[verdict])
