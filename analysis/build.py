"""Makes every committed page from the evidence, and checks that the committed bytes are those.

There is a page for each plan in ``paper_tables/evidence/plans``; ``python -m sweeps plan SPEC --runs paper_tables/evidence`` adds one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from analysis.claims_page import claims_files
from analysis.collect import collect
from analysis.evidence import FOLDER
from analysis.index import index_page
from analysis.make import make_files
from analysis.page import Files
from repro.errors import UserError
from repro.files import write_bytes
from sweeps.spec import PAPER, Spec, known_specs, load_scale, load_spec

#: Files under ``paper_tables`` that are written by hand, or are not made from a spec.
_BY_HAND = ("reported", FOLDER)


@dataclass(frozen=True)
class Difference:
    """A file that is not what the evidence makes: ``changed``, ``missing`` (not committed) or ``left over`` (nothing makes it)."""

    path: Path
    what: str


def planned_specs(runs: Path) -> Iterator[Spec]:
    """Yield the specs whose plans lie in ``runs``, the paper's scale first, by name.

    Raises:
        UserError: a plan is of no spec that comes with the suite, or of no scale.
    """
    plans = runs / "plans"
    for folder in [plans, *sorted(path for path in plans.iterdir() if path.is_dir())] if plans.is_dir() else ():
        scale = PAPER if folder == plans else load_scale(folder.name)
        for path in sorted(folder.glob("*.json")):
            if path.stem not in known_specs():
                raise UserError(
                    f"{path}: no spec of that name comes with the suite. Remove it, or give its spec to `python -m analysis tables`."
                )
            yield load_spec(path.stem, scale)


def build(tables: Path) -> dict[Path, bytes]:
    """Return every generated file below ``tables``, made from ``<tables>/evidence``: path below ``tables`` -> content.

    Raises:
        UserError: the evidence does not fit the specs; the message says which command to call.
    """
    evidence = tables / FOLDER
    contents: dict[Path, bytes] = {}
    made: list[tuple[Spec, Files]] = []
    for spec in planned_specs(evidence):
        files = make_files(spec, evidence)
        made.append((spec, files))
        contents |= {files.folder(Path()) / name: content for name, content in files.contents.items()}
    contents |= {Path(name): content for name, content in claims_files(evidence).items()}
    contents[Path("README.md")] = index_page([(spec, files, collect(spec, evidence)) for spec, files in made]).encode()
    return contents


def write(tables: Path) -> list[Path]:
    """Write what :func:`build` makes, and return the files that were not the same before.

    Raises:
        UserError: as :func:`build`, or a file cannot be written.
    """
    changed = []
    for name, content in build(tables).items():
        path = tables / name
        if not path.exists() or path.read_bytes() != content:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(path, content)
            except OSError as error:
                raise UserError(f"{path} cannot be written: {error.strerror}. Set --out to a folder you can write.") from error
            changed.append(path)
    return changed


def check(tables: Path) -> list[Difference]:
    """Return what differs between the files below ``tables`` and what the evidence makes; nothing when all is as it should be.

    Raises:
        UserError: as :func:`build`.
    """
    contents = build(tables)
    there = {path.relative_to(tables) for path in tables.rglob("*") if path.is_file() and path.relative_to(tables).parts[0] not in _BY_HAND}
    found = [Difference(path, "left over") for path in sorted(there - contents.keys())]
    for path, content in sorted(contents.items()):
        if path not in there:
            found.append(Difference(path, "missing"))
        elif (tables / path).read_bytes() != content:
            found.append(Difference(path, "changed"))
    return found
