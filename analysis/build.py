"""Makes every committed page from the evidence, and checks that the committed bytes are those.

There is a page for each plan ``paper_tables/evidence/<scale>/plans/<spec>.json``; ``python -m analysis evidence SPEC`` adds one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from analysis.reading.evidence import FOLDER, Source, open_evidence
from analysis.reading.results import read_results
from analysis.tables.claims_page import claims_files
from analysis.tables.page import Files, disclaimer_lines, grid_lines, write_files
from analysis.tables.table import make_recipe, make_table
from sweeps.scales import PAPER, Scale, load_scale
from sweeps.spec import Spec, load_spec

#: Files under ``paper_tables`` that are written by hand, or are not made from a spec.
_BY_HAND = ("reported", FOLDER)

#: What :func:`check` calls a file that nothing makes.
LEFT_OVER = "left over"

#: Of a picture no byte is the same in two versions of the packages that draw it.
_PICTURES = (".png", ".svg", ".pdf")
_DRAWN_WITH = ("matplotlib", "contourpy", "fonttools", "kiwisolver", "numpy", "pandas", "pillow")

_HEAD = """\
# Generated tables and figures

Made by `python -m analysis build` from the [evidence](evidence), the finished runs without weights and trajectories. Nothing here is
edited by hand: `python -m analysis check` fails if a byte differs from what the evidence gives. Each page ends with how to read
it, what to doubt, and the commands that make its runs. The published numbers, cell by cell, are in [reported](reported/README.md).
"""


def make_files(spec: Spec, scale: Scale, source: Source) -> Files:
    """Return the files of a table, figure or table of settings from the runs in ``source``.

    Raises:
        UserError: there is no plan of this spec in ``source``, or what it names cannot be shown.
    """
    results = read_results(spec, scale, source)
    if spec.kind == "table":
        return make_table(results)
    if spec.kind == "recipe":
        return make_recipe(results)
    # matplotlib takes a second to import.
    from analysis.figures.draw import make_figure

    return make_figure(results)


def build(tables: Path) -> dict[Path, bytes]:
    """Return every generated file below ``tables``, made from ``<tables>/evidence``: path below ``tables`` -> content.

    Raises:
        UserError: the evidence is not there, does not fit the specs, or is of none that comes with the suite; the message says what to do.
    """
    contents: dict[Path, bytes] = {}
    index = [_HEAD]
    # The paper's scale first.
    for path in sorted((tables / FOLDER).glob("*/plans"), key=lambda path: (path.parent.name != PAPER, path)):
        scale, source = load_scale(path.parent.name), open_evidence(path.parent)
        pages = [make_files(load_spec(plan.stem), scale, source) for plan in sorted(path.iterdir())]
        contents |= {files.folder / name: content for files in pages for name, content in files.contents.items()}
        index += _index(scale, pages)
    contents |= {Path(name): content for name, content in claims_files(tables / FOLDER).items()}
    return contents | {Path("README.md"): "\n".join(index).encode()}


def write(tables: Path) -> list[Path]:
    """Write what :func:`build` makes, and return the files that were not the same before; raises what that raises."""
    contents = build(tables)
    changed = {str(path): contents[path] for path, what in _differences(contents, tables).items() if what != LEFT_OVER}
    return write_files(tables, changed)


def check(tables: Path) -> dict[Path, str]:
    """Return what differs between the files below ``tables`` and what the evidence makes; nothing when all is as it should be.

    Path below ``tables`` -> ``changed``, ``missing`` (not committed) or ``left over`` (nothing makes it). Pictures are only compared where
    there are no :func:`other_versions`.
    """
    found = _differences(build(tables), tables)
    ignored = _PICTURES if other_versions(tables) else ()
    return {path: what for path, what in found.items() if what != "changed" or path.suffix not in ignored}


def other_versions(tables: Path) -> list[str]:
    """Return what draws pictures here in another version than ``requirements.lock``, beside ``tables``, has; nothing without that file."""
    lock = tables.absolute().parent / "requirements.lock"
    lines = lock.read_text(encoding="utf-8").split() if lock.exists() else []
    pinned = {name.lower(): number for name, _, number in (line.partition("==") for line in lines)}
    return [f"{name} {version(name)}" for name in _DRAWN_WITH if pinned.get(name, version(name)) != version(name)]


def _differences(contents: Mapping[Path, bytes], tables: Path) -> dict[Path, str]:
    existing = {path.relative_to(tables) for path in tables.rglob("*") if path.is_file()}
    generated = {path for path in existing if path.parts[0] not in _BY_HAND}
    differences = dict.fromkeys(sorted(generated - contents.keys()), LEFT_OVER)
    for path, content in sorted(contents.items()):
        if path not in generated or (tables / path).read_bytes() != content:
            differences[path] = "changed" if path in generated else "missing"
    return differences


def _index(scale: Scale, pages: Sequence[Files]) -> list[str]:
    """Return the lines of the index on one scale."""
    body = []
    for files in pages:
        results = files.results
        done = f"{list(results.states.values()).count('done')} of {len(results.runs)}"
        body.append([f"[{files.name}]({(files.folder / files.name).as_posix()}.md)", results.spec.title, done])
    title = "At full scale" if scale.name == PAPER else f"Scale: {scale.name}"
    grid = grid_lines(["page", "what it shows", "runs done"], body, left=2)
    return [f"## {title}", "", *disclaimer_lines(scale), *grid, ""]
