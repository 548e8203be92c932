"""``python -m analysis tables|figures SPEC...``: run folders in, tables and figures out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.page import Files
from repro.errors import EXIT_USER_ERROR, UserError
from sweeps.spec import FigureSpec, RecipeSpec, TableSpec, known_specs, load_spec


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, or 2 for a user's mistake. A table with gaps is no mistake; it says so itself."""
    chosen = _parser().parse_args(arguments)
    # A terminal that cannot show ± or — shows something else rather than stopping the command.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    try:
        for name in dict.fromkeys(chosen.spec):
            files = _make(name, Path(chosen.runs), kind=chosen.command)
            paths = files.write(Path(chosen.out))
            if chosen.command == "tables":
                print(files.page)
            print("files:", *(f"  {path}" for path in paths), sep="\n", flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


def _make(name: str, runs: Path, *, kind: str) -> Files:
    spec = load_spec(name)
    if kind == "tables" and isinstance(spec, TableSpec):
        from analysis.tables import make_table

        return make_table(spec, runs)
    if kind == "figures" and isinstance(spec, FigureSpec):
        # matplotlib takes a second to import.
        from analysis.figures import make_figure

        return make_figure(spec, runs)
    if isinstance(spec, RecipeSpec):
        raise UserError(f"{name} is a table of settings. Call: python -m sweeps status {name}")
    other = "figures" if kind == "tables" else "tables"
    raise UserError(f"{name} is not one of the {kind}. Call: python -m analysis {other} {name}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description="Makes tables and figures from finished runs.",
        epilog=f"Specs that come with the suite: {', '.join(known_specs())}.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("tables", "write tables as Markdown and CSV with their provenance, and print them"),
        ("figures", "write figures as PNG, SVG and PDF, with what is plotted as CSV"),
    ):
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument("spec", nargs="+", metavar="SPEC", help="a name such as demo, or the path of a .yaml file")
        command.add_argument(
            "--runs", default=os.environ.get("REPRO_RUNS", "runs"), metavar="DIR", help="run folders (default: $REPRO_RUNS or runs)"
        )
        command.add_argument("--out", default="paper_tables", metavar="DIR", help="where the files go (default: paper_tables)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
