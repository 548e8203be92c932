"""``python -m analysis collect|claims|build|check``, ``tables|figures|report|evidence SPEC...``, ``audit RUN...``: runs in, pages out."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from analysis.build import check, make_files, other_versions, write
from analysis.reading.evidence import FOLDER, open_evidence, open_source
from analysis.reading.keep import add
from analysis.reading.runs import curves_frame, runs_frame
from analysis.tables.claims_page import PAGE, claims_files, short_block
from analysis.tables.page import Files, grid_lines, write_files
from repro.command import exit_code_of
from repro.errors import UserError
from repro.files import read_json
from sweeps.scales import PAPER, known_scales, load_scale
from sweeps.spec import Spec, known_specs, load_spec

# What a command alone needs is imported by it: matplotlib takes a second.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 1 when ``check`` finds a difference, 2 for a user's mistake.

    A table with gaps is no mistake; it says so itself.
    """
    chosen = _parser().parse_args(arguments)
    # A terminal that cannot show ± or — shows something else rather than stopping the command.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    return exit_code_of(lambda: _command(chosen))


def _command(chosen: argparse.Namespace) -> int | None:
    source = chosen.out / FOLDER if chosen.command in ("build", "check") else chosen.runs
    if chosen.command != "audit" and not source.is_dir():
        raise UserError(
            f"{source}: there is no such folder. --runs or $REPRO_RUNS names that of run folders; paper_tables comes with a checkout."
        )
    return _COMMANDS[chosen.command][0](chosen)


def _specs(chosen: argparse.Namespace) -> list[Spec]:
    return [load_spec(name) for name in dict.fromkeys(chosen.spec)]


def _print_files(paths: Sequence[Path]) -> None:
    print("files:", *(f"  {path}" for path in paths), sep="\n", flush=True)


def _collect(chosen: argparse.Namespace) -> None:
    source, target = open_source(chosen.runs, load_scale(chosen.scale)), chosen.out or chosen.runs / "collected"
    runs = runs_frame(map(source.record, source.run_ids))
    done, others = runs[runs["state"] == "done"], runs[runs["state"] != "done"]
    target.mkdir(parents=True, exist_ok=True)
    done.to_csv(target / "runs.csv", index=False)
    curves_frame({run_id: source.columns(run_id) for run_id in done.index}).to_csv(target / "curves.csv.gz", index=False)
    print(f"{len(done)} runs", *(f"left out: {run.run_id}: {run.state} {run.problem}" for run in others.itertuples()), sep="\n")
    _print_files([target / "runs.csv", target / "curves.csv.gz"])


def _pages(chosen: argparse.Namespace) -> None:
    for files in _made_pages(chosen):
        if chosen.command == "tables":
            print(files.page)
        _print_files(write_files((chosen.out or chosen.runs / "pages") / files.folder, files.contents))


def _report(chosen: argparse.Namespace) -> None:
    from analysis.report.page import make_report

    out = chosen.out or chosen.runs / "pages" / "report.html"
    out = out if out.suffix and not out.is_dir() else out / "report.html"
    deviations = Path(__file__).resolve().parent.parent / "docs" / "deviations.md"
    page = make_report(
        _made_pages(chosen),
        deviations=deviations.read_text(encoding="utf-8") if deviations.exists() else "They are in docs/deviations.md of a checkout.",
        command=shlex.join(["python", "-m", "analysis", "report", *chosen.spec, "--scale", chosen.scale]),
        runs_link=Path(os.path.relpath(chosen.runs, out.parent)).as_posix(),
    )
    write_files(out.parent, {out.name: page})
    print(f"{out} ({len(page) / 1e6:.1f} MB)")


def _made_pages(chosen: argparse.Namespace) -> list[Files]:
    """Return the pages of the specs named, else of every plan."""
    scale = load_scale(chosen.scale)
    source = open_source(chosen.runs, scale)
    # A spec that does not come with the suite is found by the file that its plan names.
    planned = [load_spec(read_json(path).get("spec_file", path.stem)) for path in sorted(source.plans.glob("*.json"))]
    return [make_files(spec, scale, source) for spec in _specs(chosen) or planned]


def _evidence(chosen: argparse.Namespace) -> None:
    scale = load_scale(chosen.scale)
    path = chosen.out / FOLDER / scale.name
    for name, problem in add(_specs(chosen), scale, open_source(chosen.runs, scale), path).items():
        print(f"left out: {name}: {problem}", file=sys.stderr)
    print(f"{len(open_evidence(path).run_ids)} runs in {path}")


def _audit(chosen: argparse.Namespace) -> None:
    from analysis.audit.doubts import corrected_table, doubted_table, find_doubts
    from analysis.audit.page import make_page

    doubts = find_doubts(chosen.run)
    print(doubts.in_words())
    if found := doubts.found():
        print(", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in found.items()))
        body = [[str(count), f"{precision:.1%}", f"{recall:.1%}"] for count, precision, recall in doubts.by_rank()]
        print(*grid_lines(["first", "precision", "recall"], body, left=0), sep="\n")
    tables = {"doubted_labels.csv": doubted_table(doubts), "corrected_labels.csv": corrected_table(doubts)}
    contents = {name: table.to_csv(index=False, lineterminator="\n").encode() for name, table in tables.items()}
    out = chosen.out or chosen.run[0].absolute().parent / "pages" / chosen.run[0].absolute().name
    _print_files(write_files(out, contents | {"audit.html": make_page(doubts)}))


def _claims(chosen: argparse.Namespace) -> None:
    if chosen.short is not None:
        print("\n".join(short_block(load_scale(chosen.short), chosen.runs, table=chosen.table)))
        return
    files = claims_files(chosen.runs)
    print(files[PAGE].decode())
    _print_files(write_files(chosen.out, files))


def _build(chosen: argparse.Namespace) -> None:
    changed = write(chosen.out)
    print(f"{len(changed)} files changed", *(f"  {path}" for path in changed), sep="\n")


def _check(chosen: argparse.Namespace) -> int:
    differences = check(chosen.out)
    if other := other_versions(chosen.out):
        print(f"pictures are not compared: they were drawn with other versions than {', '.join(other)} (requirements.lock)")
    for path, what in differences.items():
        print(f"{what}: {chosen.out / path}", file=sys.stderr)
    if differences:
        remedy = "Call: python -m analysis build; delete what is left over."
        print(f"error: {len(differences)} files are not what {chosen.out}/evidence makes. {remedy}", file=sys.stderr)
        return 1
    print(f"{chosen.out}: every file is what the evidence makes")
    return 0


_PAGES = Path("paper_tables")
_OF_PAGES = ("spec", "--scale", "--runs", "--out")
_OF_CLAIMS = ("--runs", "--out", "--short", "--table")

#: What each command does, and its options.
_COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int | None], str, Sequence[str]]] = {
    "collect": (_collect, "write finished runs and their curves as tables, runs.csv and curves.csv.gz", _OF_PAGES[1:]),
    "tables": (_pages, "write tables as Markdown, CSV and LaTeX, and print them", _OF_PAGES),
    "figures": (_pages, "write figures as PNG, SVG and PDF, with what is plotted as CSV", _OF_PAGES),
    "report": (_report, "write one HTML page of tables, figures and labels that opens without a network", _OF_PAGES),
    "evidence": (_evidence, "add what pages need of finished runs to what is committed", _OF_PAGES),
    "audit": (_audit, "list the labels that finished runs on the same images doubt, and make a page to review them", ("run", "--out")),
    "claims": (_claims, "test the claims of the paper, write the page and the table, and print them", _OF_CLAIMS),
    "build": (_build, "make every page of paper_tables from the evidence", ("--out",)),
    "check": (_check, "fail if a file of paper_tables is not what the evidence makes", ("--out",)),
}

_OPTIONS: dict[str, dict[str, Any]] = {
    "spec": {"nargs": "*", "metavar": "SPEC", "help": "a name such as demo, or the path of a .yaml file (default: all that have a plan)"},
    "run": {"nargs": "+", "type": Path, "metavar": "RUN", "help": "the folder of a run; of several on the same images and annotations"},
    "--scale": {"default": PAPER, "metavar": "NAME", "help": "how large: a name or the path of a .yaml file (default: %(default)s)"},
    "--runs": {"type": Path, "metavar": "DIR", "help": "run folders, or evidence (default: $REPRO_RUNS or runs; of claims: the evidence)"},
    "--out": {"type": Path, "metavar": "PATH", "help": "where files go (default: beside the runs; of what is committed: paper_tables)"},
    "--short": {"metavar": "SCALE", "help": "print the claims at one scale in short, as the README has them; write nothing"},
    "--table": {"action": "store_true", "help": "with --short: the table of docs/report.md"},
}


def _parser() -> argparse.ArgumentParser:
    known = f"Specs that come with the suite: {', '.join(known_specs())}. Scales: {', '.join(known_scales())}."
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Makes tables and figures from finished runs.", epilog=known)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text, options) in _COMMANDS.items():
        command = subparsers.add_parser(name, help=text, description=f"{text}.")
        for option in options:
            command.add_argument(option, **_OPTIONS[option])
        command.set_defaults(runs=_PAGES / FOLDER if name == "claims" else Path(os.environ.get("REPRO_RUNS", "runs")))
        if name in ("evidence", "claims", "build", "check"):
            command.set_defaults(out=_PAGES)
    return parser


if __name__ == "__main__":
    sys.exit(main())
