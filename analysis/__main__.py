"""``python -m analysis collect|claims|build|check``, ``tables|figures|report|evidence SPEC...``: run folders in, tables and figures out."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from analysis.build import LEFT_OVER, check, make_files, write
from analysis.reading.cells import plans
from analysis.reading.evidence import FOLDER
from analysis.reading.keep import keep, restore
from analysis.tables.claims_page import PAGE, claims_files, short_table
from analysis.tables.page import Files, write_files
from repro.command import exit_code_of
from repro.errors import UserError
from sweeps.spec.load import PAPER, FigureSpec, known_scales, known_specs, load_scale, load_spec

# What a command alone needs is imported by it: pandas, pyarrow and matplotlib take a second each.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 1 when ``check`` finds a difference, 2 for a user's mistake.

    A table with gaps is no mistake; it says so itself.
    """
    chosen = _parser().parse_args(arguments)
    # A terminal that cannot show ± or — shows something else rather than stopping the command.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    return exit_code_of(lambda: _COMMANDS[chosen.command][0](chosen))


def _print_files(paths: Sequence[Path]) -> None:
    print("files:", *(f"  {path}" for path in paths), sep="\n", flush=True)


def _collect(chosen: argparse.Namespace) -> None:
    from analysis.reading.store import write_store

    store = write_store(chosen.runs)
    print(f"{store.done} runs")
    for name, reason in sorted(store.left_out.items()):
        print(f"left out: {name}: {' '.join(reason.split())}")
    _print_files([store.runs, store.curves])


def _tables_or_figures(chosen: argparse.Namespace) -> None:
    for name in dict.fromkeys(chosen.spec):
        spec = load_spec(name, load_scale(chosen.scale))
        if isinstance(spec, FigureSpec) != (chosen.command == "figures"):
            other = "figures" if chosen.command == "tables" else "tables"
            raise UserError(f"{name} is not one of the {chosen.command}. Call: python -m analysis {other} {name}")
        files = make_files(spec, chosen.runs)
        paths = files.write(chosen.out or chosen.runs / "pages")
        if chosen.command == "tables":
            print(files.page)
        _print_files(paths)


def _report(chosen: argparse.Namespace) -> None:
    from analysis.reading.images import TrainingSets
    from analysis.report.page import make_report

    scale, runs, names = load_scale(chosen.scale), chosen.runs, dict.fromkeys(chosen.spec)
    out = chosen.out or runs / "pages" / "report.html"
    deviations = Path(__file__).resolve().parent.parent / "docs" / "deviations.md"
    page = make_report(
        [make_files(load_spec(name, scale), runs) for name in names] if names else _planned_pages(chosen),
        runs,
        deviations=deviations.read_text(encoding="utf-8") if deviations.exists() else "",
        command=shlex.join(["python", "-m", "analysis", "report", *chosen.spec, *(["--scale", chosen.scale] if scale != PAPER else [])]),
        training_set_of=TrainingSets().of,
        runs_link=Path(os.path.relpath(runs, out.parent)).as_posix(),
    )
    write_files(out.parent, {out.name: page})
    print(f"{out} ({len(page) / 1e6:.1f} MB)")


def _planned_pages(chosen: argparse.Namespace) -> list[Files]:
    """Return the page of every plan of that scale; one that cannot be made is named, and keeps no other from being made."""
    pages = []
    for path, spec in plans(chosen.runs, load_scale(chosen.scale)):
        try:
            if isinstance(spec, UserError):
                raise spec
            pages.append(make_files(spec, chosen.runs))
        except UserError as error:
            print(f"left out: {path.stem}: {error}", file=sys.stderr)
    return pages


def _evidence(chosen: argparse.Namespace) -> None:
    specs, evidence = [load_spec(name, load_scale(chosen.scale)) for name in dict.fromkeys(chosen.spec)], chosen.out / FOLDER
    if chosen.restore:
        print(f"{len(restore(specs, evidence, chosen.runs))} runs restored in {chosen.runs}")
        return
    kept = keep(specs, chosen.runs, evidence)
    print(f"{len(kept.runs)} runs kept in {evidence}")
    for name in kept.dropped:
        print(f"removed: {name}: no cell names it any more")
    for name, problem in kept.left_out.items():
        print(f"left out: {name}: {problem}", file=sys.stderr)


def _claims(chosen: argparse.Namespace) -> None:
    if chosen.short is not None:
        print("\n".join(short_table(load_scale(chosen.short), chosen.runs)))
        return
    files = claims_files(chosen.runs)
    paths = write_files(chosen.out, files)
    print(files[PAGE].decode())
    _print_files(paths)


def _build(chosen: argparse.Namespace) -> None:
    changed = write(chosen.out)
    print(f"{len(changed)} files changed", *(f"  {path}" for path in changed), sep="\n")


def _check(chosen: argparse.Namespace) -> int:
    out, found = chosen.out, check(chosen.out)
    for path, what in found.items():
        print(f"{what}: {out / path}", file=sys.stderr)
    if found:
        remedy = "Call: python -m analysis build" + ("; delete what is left over." if LEFT_OVER in found.values() else "")
        print(f"error: {len(found)} files are not what {out}/evidence makes. {remedy}", file=sys.stderr)
        return 1
    print(f"{out}: every file is what the evidence makes")
    return 0


_COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int | None], str]] = {
    "collect": (_collect, "write every finished run and its curves as runs.parquet and curves.parquet into the runs folder"),
    "tables": (_tables_or_figures, "write tables as Markdown, CSV and LaTeX with their provenance, and print them"),
    "figures": (_tables_or_figures, "write figures as PNG, SVG and PDF, with what is plotted as CSV"),
    "report": (_report, "write one HTML page with tables, figures and a browser of labels, that opens without a network"),
    "evidence": (_evidence, "add what the pages of specs need of their runs to paper_tables/evidence, small enough to be committed"),
    "claims": (_claims, "test the claims of the paper, write the page and the table, and print them"),
    "build": (_build, "make every page of paper_tables from the evidence"),
    "check": (_check, "fail if a file of paper_tables is not what the evidence makes"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description="Makes tables and figures from finished runs.",
        epilog=f"Specs that come with the suite: {', '.join(known_specs())}. Scales: {', '.join(known_scales())}.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands = {
        name: subparsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.") for name, (_, text) in _COMMANDS.items()
    }

    def option(names: str, flag: str, text: str, **settings: Any) -> None:
        for name in names.split():
            commands[name].add_argument(flag, help=text, **settings)

    runs = os.environ.get("REPRO_RUNS", "runs")
    option("tables figures evidence", "spec", "a name such as demo, or the path of a .yaml file", nargs="+", metavar="SPEC")
    option("report", "spec", "names of specs (default: all that have a plan among the runs)", nargs="*", metavar="SPEC")
    text = "how large: a name or the path of a .yaml file (default: %(default)s)"
    option("tables figures evidence report", "--scale", text, default=PAPER.title, metavar="NAME")
    text = "run folders (default: $REPRO_RUNS or runs)"
    option("collect tables figures evidence report", "--runs", text, type=Path, default=runs, metavar="DIR")
    option("tables figures", "--out", "where the files go (default: the folder pages beside the run folders)", type=Path, metavar="DIR")
    option("report", "--out", "where it goes (default: pages/report.html beside the run folders)", type=Path, metavar="FILE")
    text = "write what the evidence has as run folders to --runs; runs that are there stay"
    option("evidence", "--restore", text, action="store_true")
    text = "where the pages are (default: paper_tables)"
    option("evidence claims build check", "--out", text, type=Path, default="paper_tables", metavar="DIR")
    text = "print the claims at one scale in short, as the README has them; write nothing"
    option("claims", "--short", text, metavar="SCALE")
    text = "evidence or run folders (default: %(default)s)"
    option("claims", "--runs", text, type=Path, default="paper_tables/evidence", metavar="DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
