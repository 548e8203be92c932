"""``python -m analysis collect|claims|build|check``, ``tables|figures|report|evidence SPEC...``: run folders in, tables and figures out."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.collect import plans
from analysis.make import make_files
from analysis.page import Files
from repro.errors import EXIT_USER_ERROR, UserError
from repro.files import write_bytes
from sweeps.spec import PAPER, FigureSpec, Scale, known_scales, known_specs, load_scale, load_spec

_COMMANDS = {
    "collect": "write every finished run and its curves as runs.parquet and curves.parquet into the runs folder",
    "tables": "write tables as Markdown, CSV and LaTeX with their provenance, and print them",
    "figures": "write figures as PNG, SVG and PDF, with what is plotted as CSV",
    "report": "write one HTML page with tables, figures and a browser of labels, that opens without a network",
    "evidence": "copy what the pages of specs need of their runs to paper_tables/evidence, small enough to be committed",
    "claims": "test the claims of the paper, write the page and the table, and print them",
    "build": "make every page of paper_tables from the evidence",
    "check": "fail if a file of paper_tables is not what the evidence makes",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 1 when ``check`` finds a difference, 2 for a user's mistake.

    A table with gaps is no mistake; it says so itself.
    """
    chosen = _parser().parse_args(arguments)
    # A terminal that cannot show ± or — shows something else rather than stopping the command.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    try:
        code = _command(chosen)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except BrokenPipeError:
        # Whoever reads the output has seen enough (`... | head`). What Python would still write at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _command(chosen: argparse.Namespace) -> int:
    if chosen.command == "collect":
        _collect(Path(chosen.runs))
        return 0
    if chosen.command == "claims":
        _claims(Path(chosen.runs), Path(chosen.out), chosen.short)
        return 0
    if chosen.command == "build":
        _build(Path(chosen.out))
        return 0
    if chosen.command == "check":
        return _check(Path(chosen.out))
    scale = load_scale(chosen.scale)
    if chosen.command == "report":
        out = Path(chosen.runs) / "pages" / "report.html" if chosen.out is None else Path(chosen.out)
        words = ["python", "-m", "analysis", "report", *chosen.spec, *(["--scale", chosen.scale] if scale != PAPER else [])]
        _report(chosen.spec, scale, Path(chosen.runs), out, shlex.join(words))
        return 0
    if chosen.command == "evidence":
        _keep(chosen.spec, scale, Path(chosen.runs), Path(chosen.out))
        return 0
    out = Path(chosen.runs) / "pages" if chosen.out is None else Path(chosen.out)
    for name in dict.fromkeys(chosen.spec):
        files = _make(name, scale, Path(chosen.runs), kind=chosen.command)
        paths = files.write(out)
        if chosen.command == "tables":
            print(files.page)
        print("files:", *(f"  {path}" for path in paths), sep="\n", flush=True)
    return 0


def _collect(runs: Path) -> None:
    # pyarrow takes a second to import.
    from analysis.store import refresh

    store = refresh(runs)
    print(f"{store.done} runs, {store.read} of them read now")
    for name, reason in sorted(store.left_out.items()):
        print(f"left out: {name}: {' '.join(reason.split())}")
    print("files:", f"  {store.runs}", f"  {store.curves}", sep="\n")


def _make(name: str, scale: Scale, runs: Path, *, kind: str) -> Files:
    spec = load_spec(name, scale)
    if isinstance(spec, FigureSpec) != (kind == "figures"):
        other = "figures" if kind == "tables" else "tables"
        raise UserError(f"{name} is not one of the {kind}. Call: python -m analysis {other} {name}")
    return make_files(spec, runs)


def _keep(names: Sequence[str], scale: Scale, runs: Path, out: Path) -> None:
    from analysis.evidence import FOLDER, keep

    kept = keep([load_spec(name, scale) for name in dict.fromkeys(names)], runs, out / FOLDER)
    print(f"{len(kept)} runs kept in {out / FOLDER}")


def _report(names: Sequence[str], scale: Scale, runs: Path, out: Path, command: str) -> None:
    from analysis.images import TrainingSets
    from analysis.report import make_report

    pages = [make_files(load_spec(name, scale), runs) for name in dict.fromkeys(names)] if names else _planned_pages(runs, scale)
    deviations = Path(__file__).resolve().parent.parent / "docs" / "deviations.md"
    page = make_report(
        pages,
        runs,
        deviations=deviations.read_text(encoding="utf-8") if deviations.exists() else "",
        command=command,
        training_set_of=TrainingSets().of,
        runs_link=Path(os.path.relpath(runs, out.parent)).as_posix(),
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out, page)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}. Set --out to a file you can write.") from error
    print(f"{out} ({len(page) / 1e6:.1f} MB)")


def _planned_pages(runs: Path, scale: Scale) -> list[Files]:
    """Return the page of every plan of that scale; one that cannot be made is named, and keeps no other from being made."""
    pages = []
    for path, spec in plans(runs, scale):
        try:
            if isinstance(spec, UserError):
                raise spec
            pages.append(make_files(spec, runs))
        except UserError as error:
            print(f"left out: {path.stem}: {error}", file=sys.stderr)
    return pages


def _claims(runs: Path, out: Path, short: str | None) -> None:
    from analysis.claims_page import PAGE, claims_files, short_table

    if short is not None:
        print("\n".join(short_table(load_scale(short), runs)))
        return
    files = claims_files(runs)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_bytes(out / name, content)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}. Set --out to a folder you can write.") from error
    print(files[PAGE].decode())
    print("files:", *(f"  {out / name}" for name in files), sep="\n")


def _build(out: Path) -> None:
    from analysis.build import write

    changed = write(out)
    print(f"{len(changed)} files changed", *(f"  {path}" for path in changed), sep="\n")


def _check(out: Path) -> int:
    from analysis.build import check

    found = check(out)
    for item in found:
        print(f"{item.what}: {out / item.path}", file=sys.stderr)
    if found:
        print(f"error: {len(found)} files are not what {out}/evidence makes. Call: python -m analysis build", file=sys.stderr)
        return 1
    print(f"{out}: every file is what the evidence makes")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description="Makes tables and figures from finished runs.",
        epilog=f"Specs that come with the suite: {', '.join(known_specs())}. Scales: {', '.join(known_scales())}.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == "report":
            command.add_argument("spec", nargs="*", metavar="SPEC", help="names of specs (default: all that have a plan among the runs)")
            command.add_argument("--out", metavar="FILE", help="where it goes (default: pages/report.html beside the run folders)")
        elif name in ("tables", "figures", "evidence"):
            command.add_argument("spec", nargs="+", metavar="SPEC", help="a name such as demo, or the path of a .yaml file")
        if name in ("tables", "figures", "evidence", "report"):
            command.add_argument(
                "--scale", default=PAPER.title, metavar="NAME", help="how large: a name or the path of a .yaml file (default: %(default)s)"
            )
        if name in ("tables", "figures"):
            command.add_argument("--out", metavar="DIR", help="where the files go (default: the folder pages beside the run folders)")
        elif name in ("evidence", "claims", "build", "check"):
            command.add_argument("--out", default="paper_tables", metavar="DIR", help="where the pages are (default: paper_tables)")
        if name == "claims":
            command.add_argument(
                "--short", metavar="SCALE", help="print the claims at one scale in short, as the README has them; write nothing"
            )
            command.add_argument("--runs", default="paper_tables/evidence", metavar="DIR", help="run folders (default: %(default)s)")
        elif name not in ("build", "check"):
            command.add_argument(
                "--runs", default=os.environ.get("REPRO_RUNS", "runs"), metavar="DIR", help="run folders (default: $REPRO_RUNS or runs)"
            )
    return parser


if __name__ == "__main__":
    sys.exit(main())
