"""Makes every committed page from the evidence, and checks that the committed bytes are those.

There is a page for each file ``paper_tables/evidence/<scale>/<spec>.jsonl``; ``python -m analysis evidence SPEC`` adds one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.reading.cells import Collected, collect
from analysis.reading.evidence import FOLDER, evidence_files
from analysis.tables.claims_page import claims_files
from analysis.tables.formats import grid_lines
from analysis.tables.page import Files, one_line, unique_runs, write_files
from analysis.tables.recipe import make_recipe
from analysis.tables.table import make_table
from repro.errors import UserError
from sweeps.spec.load import PAPER, FigureSpec, RecipeSpec, Spec, TableSpec, known_specs, load_scale, load_spec

#: Files under ``paper_tables`` that are written by hand, or are not made from a spec.
_BY_HAND = ("reported", FOLDER)

#: What :func:`check` calls a file that nothing makes.
LEFT_OVER = "left over"

_HEAD = """\
# Generated tables and figures

Made by `python -m analysis build` from the [evidence](evidence), the finished runs without weights and trajectories. Nothing here is
edited by hand: `python -m analysis check` fails if a byte differs from what the evidence gives. Each page ends with how to read
it, the code and software behind it, and the commands that make its runs. The published numbers, cell by cell, are in
[reported](reported/README.md).
"""


def make_files(spec: Spec, runs: Path, *, published: bool = True) -> Files:
    """Return the files of a table, figure or table of settings from the runs in ``runs``; figures with what ``published`` datasets show.

    Raises:
        UserError: there is no plan of this spec in ``runs``, or what it names cannot be shown.
    """
    if isinstance(spec, TableSpec):
        return make_table(spec, runs)
    if isinstance(spec, RecipeSpec):
        return make_recipe(spec, runs)
    assert isinstance(spec, FigureSpec)
    # matplotlib takes a second to import.
    from analysis.figures.figure import make_figure

    return make_figure(spec, runs, published=published)


def build(tables: Path) -> dict[Path, bytes]:
    """Return every generated file below ``tables``, made from ``<tables>/evidence``: path below ``tables`` -> content.

    Raises:
        UserError: the evidence does not fit the specs, or is of none that comes with the suite; the message says what to do.
    """
    evidence = tables / FOLDER
    contents: dict[Path, bytes] = {}
    made: list[tuple[Spec, Files]] = []
    # The paper's scale first.
    for path in sorted(evidence_files(evidence), key=lambda path: (path.parent.name != PAPER.title, path)):
        if path.stem not in known_specs():
            raise UserError(
                f"{path}: no spec of that name comes with the suite. Remove it, or give its spec to `python -m analysis tables`."
            )
        spec = load_spec(path.stem, load_scale(path.parent.name))
        # The same bytes on every machine, whichever datasets it has.
        files = make_files(spec, evidence, published=False)
        made.append((spec, files))
        contents |= {files.folder(Path()) / name: content for name, content in files.contents.items()}
    contents |= {Path(name): content for name, content in claims_files(evidence).items()}
    contents[Path("README.md")] = _index([(spec, files, collect(spec, evidence)) for spec, files in made]).encode()
    return contents


def write(tables: Path) -> list[Path]:
    """Write what :func:`build` makes, and return the files that were not the same before; raises what that raises."""
    contents = build(tables)
    changed = {str(path): contents[path] for path, what in _differences(contents, tables).items() if what != LEFT_OVER}
    return write_files(tables, changed)


def check(tables: Path) -> dict[Path, str]:
    """Return what differs between the files below ``tables`` and what the evidence makes; nothing when all is as it should be.

    Path below ``tables`` -> ``changed``, ``missing`` (not committed) or ``left over`` (nothing makes it).
    """
    return _differences(build(tables), tables)


def _differences(contents: Mapping[Path, bytes], tables: Path) -> dict[Path, str]:
    there = {path.relative_to(tables) for path in tables.rglob("*") if path.is_file() and path.relative_to(tables).parts[0] not in _BY_HAND}
    found = dict.fromkeys(sorted(there - contents.keys()), LEFT_OVER)
    for path, content in sorted(contents.items()):
        if path not in there:
            found[path] = "missing"
        elif (tables / path).read_bytes() != content:
            found[path] = "changed"
    return found


def _index(made: Sequence[tuple[Spec, Files, tuple[Collected, ...]]]) -> str:
    """Return the index as Markdown; ``made`` holds each spec with its files and cells."""
    lines = [_HEAD]
    scales = dict.fromkeys(spec.scale.title for spec, _, _ in made)
    for title in scales:
        here = [(spec, files, cells) for spec, files, cells in made if spec.scale.title == title]
        stamp = here[0][0].scale.stamp
        lines += [f"## Scale: {title}" if here[0][0].scale != PAPER else "## At full scale", ""]
        lines += [one_line(stamp), ""] if stamp is not None else []
        body = [
            [f"[{spec.name}]({(files.folder(Path()) / spec.name).as_posix()}.md)", spec.title, *_state(files, cells)]
            for spec, files, cells in here
        ]
        lines += [*grid_lines(["page", "what it shows", "runs done", "cells", "compared with the paper"], body, left=5), ""]
    lines.append(
        "Cells: filled, partly filled, empty. Compared with the paper: within or outside the published spread, by the rule on the page."
    )
    return "\n".join(lines) + "\n"


def _state(files: Files, cells: Sequence[Collected]) -> list[str]:
    runs = unique_runs(cells)
    if not runs:
        return ["no runs needed", "", ""]
    shares = [(len(cell.done), len(cell.repeats)) for cell in cells if cell.skip is None]
    states = Counter("filled" if done == planned else "partly" if done else "empty" for done, planned in shares)
    provenance = json.loads(files.contents[f"{files.spec.name}.provenance.json"])
    verdicts = Counter(cell.get("verdict") for cell in provenance.get("cells", ()))
    filled = f"{sum(run.done for _, run in runs)} of {len(runs)}"
    return [filled, _counts(states, "filled", "partly", "empty"), _counts(verdicts, "within", "outside")]


def _counts(counts: Mapping[str, int], *names: str) -> str:
    return ", ".join(f"{counts[name]} {name}" for name in names if counts[name])
