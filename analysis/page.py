"""What every generated page ends with: how to read it, what it is made of, and how to make it again.

Nothing here looks at a clock, a path or a locale: the same runs give the same bytes, wherever and whenever the page is made.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from analysis.collect import Collected, Run, command_name
from repro.errors import UserError
from repro.files import write_bytes
from sweeps.spec import PAPER, Epoch, Spec

_Item = TypeVar("_Item", str, tuple[str, str, str])

_RULES = {
    "last": "after the last epoch (`last`)",
    "best_val": "at the epoch of the best validation accuracy (`best_val`)",
    "best_test": "at the epoch of the best test accuracy (`best_test`; this looks at the test set and flatters every method)",
}


@dataclass(frozen=True)
class Files:
    """The files of one table or figure: name -> content; the page itself is ``<spec>.md``."""

    spec: Spec
    contents: dict[str, bytes]

    @property
    def page(self) -> str:
        """The Markdown page."""
        return self.contents[f"{self.spec.name}.md"].decode()

    def folder(self, out: Path) -> Path:
        """Return where below ``out`` the files lie: each scale but the paper's has a folder, and so has what is not in the paper."""
        scaled = out if self.spec.scale == PAPER else out / self.spec.scale.title
        return scaled if re.fullmatch(r"(table|figure)\d+", self.spec.name) else scaled / self.spec.name

    def write(self, out: Path) -> list[Path]:
        """Write the files and return their paths: those of the paper's tables and figures to ``out``, others to a folder of their own.

        Raises:
            UserError: the folder cannot be written.
        """
        folder = self.folder(out)
        paths = [folder / name for name in self.contents]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path, content in zip(paths, self.contents.values(), strict=True):
                write_bytes(path, content)
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror}. Set --out to a folder you can write.") from error
        return paths


def heading(spec: Spec) -> list[str]:
    """Return the lines of the title, the stamp of the scale and the caption."""
    stamp = [f"> **{' '.join(spec.scale.stamp.split())}**", ""] if spec.scale.stamp is not None else []
    return [f"# {spec.title}", "", *stamp, *([" ".join(spec.caption.split()), ""] if spec.caption else [])]


def grid_lines(header: Sequence[str], body: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Return a Markdown table, its columns padded to one width; all but the first ``left`` columns stand to the right."""
    escaped = [[text.replace("|", "\\|") for text in line] for line in (header, *body)]
    widths = [max(3, *(len(line[index]) for line in escaped)) for index in range(len(header))]
    rule = ["-" * width if index < left else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    padded = [
        [text.ljust(width) if index < left else text.rjust(width) for index, (text, width) in enumerate(zip(line, widths, strict=True))]
        for line in escaped
    ]
    return [f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:])]


def epoch_rule(epoch: Epoch) -> str:
    """Return the epoch rule in words."""
    return f"after epoch {epoch.number}" if epoch.number is not None else _RULES[epoch.rule]


def unique_runs(cells: Iterable[Collected]) -> list[tuple[str, Run]]:
    """Return every run once, with the first place it stands at: ``One-hot, 40%, seed=0``."""
    places: dict[str, tuple[str, Run]] = {}
    for cell in cells:
        for repeat in cell.repeats:
            places.setdefault(repeat.run.run_id, (f"{cell.label}, {repeat.label}", repeat.run))
    return list(places.values())


def spread_note(spec: Spec, cells: Sequence[Collected]) -> str:
    """Return what ± is, over what, and how many runs a cell has."""
    over = " and ".join(dict.fromkeys(key for cell in cells for repeat in cell.repeats for key in repeat.repeat))
    sizes = sorted({len(cell.repeats) for cell in cells if cell.repeats})
    count = f"n = {' or '.join(map(str, sizes))} runs a cell" if sizes else "no cell has runs"
    if spec.spread == "none":
        return f"Means over {over}; {count}; no spread is given."
    return (
        f"± is the sample standard deviation over {over} (n - 1 in the denominator), not a confidence interval; {count}; nothing at n = 1."
    )


def footer(spec: Spec, cells: Sequence[Collected], *, notes: Sequence[str], command: str) -> list[str]:
    """Return the last lines of a page: ``notes`` on how to read it, then fill state, code, software, dates, cost and the command."""
    runs = unique_runs(cells)
    done = [run for _, run in runs if run.done]
    lines = ["---", "", *(f"- {note}" for note in notes)]
    lines += [f"- Left out: {cell.label}: {cell.skip}" for cell in cells if cell.skip is not None]
    lines += _fill_state(runs)
    if done:
        lines += _commits(done)
        lines += [
            f"- PyTorch {torch}, {device}{execution}: {_runs(count)}."
            for (torch, device, execution), count in _counted(
                (_version(run, "torch"), str(run.provenance.get("device", "unknown device")), _execution(run)) for run in done
            )
        ]
        lines += _machines(done)
        lines.append(f"- Newest run: {max(run.ended for run in done)}.")
        hours, gpu_hours = _sum(done, "wall_s") / 3600, _sum(done, "gpu_hours")
        lines.append(f"- Cost: {hours:.2f} hours of wall time, {gpu_hours:.2f} GPU-hours, over all runs and attempts.")
    name = command_name(spec)
    lines.append(f"- To make this page again: `python -m sweeps run {name}`, then `python -m analysis {command} {name}`.")
    return lines


def _execution(run: Run) -> str:
    """Return what of ``exec`` moved the numbers of a run: it is no part of the run's id, so one page may mix what differs in it."""
    settings = run.provenance.get("execution", {})
    words = [str(settings["precision"])] if settings.get("precision", "float32") != "float32" else []
    words += [name.replace("_", " ") for name, on in settings.items() if on is True]
    return "".join(f", {word}" for word in words)


#: What of an attempt's facts a page tells apart: on a processor, and on a GPU.
_DECISIVE = {"cpu": ("processor", "cpu_capability", "threads"), "cuda": ("gpu", "driver", "cuda", "cudnn")}


def _machines(done: Sequence[Run]) -> list[str]:
    """Return what to know about the machines, where the runs that say it come from several, or went on on another one."""
    machines = [[_machine(item["facts"]) for item in run.provenance["attempts"]] for run in done if run.provenance.get("attempts")]
    counted = _counted(names[-1] for names in machines)
    lines = []
    if len(counted) > 1:
        lines = [
            "- **Mixed machines**: the runs were computed in ways that differ in their last bits:",
            *(f"  - {name}: {_runs(count)}" for name, count in counted),
        ]
    moved = sum(len(set(names)) > 1 for names in machines)
    if moved:
        lines.append(f"- **Mixed machines**: {_runs(moved)} began on another machine than the one counted, and went on there.")
    return lines


def _machine(facts: Mapping[str, Any]) -> str:
    words = {"threads": "{} threads", "driver": "driver {}", "cuda": "CUDA {}", "cudnn": "cuDNN {}"}
    keys = _DECISIVE["cuda" if facts.get("device") == "cuda" else "cpu"]
    return ", ".join(words.get(key, "{}").format(facts[key]) for key in keys if facts.get(key) is not None).replace(
        " 1 threads", " 1 thread"
    )


def _fill_state(runs: Sequence[tuple[str, Run]]) -> list[str]:
    counts = Counter(run.state for _, run in runs)
    text = f"- Filled: {counts['done']} of {len(runs)} runs are done"
    others = [f"{counts[state]} {state}" for state in ("failed", "unfinished", "unreadable", "missing") if counts[state]]
    lines = [f"{text}; {', '.join(others)}:" if others else f"{text}."]
    return lines + [f"  - {run.state}: {place} (`{run.run_id}`): {_one_line(run.problem)}" for place, run in runs if not run.done]


def _commits(done: Sequence[Run]) -> list[str]:
    counted = _counted(commit(run) for run in done)
    if len(counted) == 1:
        lines = [f"- Code: {counted[0][0]}."]
    else:
        lines = [
            f"- **Mixed code**: the runs come from {len(counted)} states of the code, so differences between them may be the code's:",
            *(f"  - {name}: {_runs(count)}" for name, count in counted),
        ]
    resumed = [run for run in done if run.provenance.get("earlier_git")]
    if resumed:
        earlier = _counted(_code(git) for run in resumed for git in run.provenance["earlier_git"])
        names = ", ".join(name for name, _ in earlier)
        lines.append(f"- **Mixed code**: {_runs(len(resumed))} began on other states of the code and went on with this one: {names}.")
    return lines


def commit(run: Run) -> str:
    """Return the state of the code that made a run, in words."""
    return _code(run.provenance.get("git") or {})


def _code(git: Mapping[str, Any]) -> str:
    sha, dirty = git.get("sha"), git.get("dirty_sha256")
    return f"commit {sha[:12] if sha else 'unknown'}" + (f" with uncommitted changes (sha256 {dirty[:12]})" if dirty else "")


def _version(run: Run, package: str) -> str:
    return str((run.provenance.get("versions") or {}).get(package, "unknown"))


def _sum(runs: Sequence[Run], key: str) -> float:
    return sum(float(run.cost.get(key, 0.0)) for run in runs)


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _counted(items: Iterable[_Item]) -> list[tuple[_Item, int]]:
    return sorted(Counter(items).items(), key=lambda pair: (-pair[1], pair[0]))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def run_columns(run: Run) -> dict[str, Any]:
    """Return where a run comes from and what it cost, as columns of a CSV."""
    git = run.provenance.get("git") or {}
    return {
        "run_id": run.run_id,
        "state": run.state,
        "problem": _one_line(run.problem),
        "git_sha": git.get("sha"),
        "dirty_sha256": git.get("dirty_sha256"),
        "torch": _version(run, "torch") if run.done else None,
        "device": run.provenance.get("device"),
        "ended": run.ended,
        "wall_s": run.cost.get("wall_s"),
        "gpu_hours": run.cost.get("gpu_hours"),
        "peak_gib": run.cost.get("peak_gib"),
    }


def csv_bytes(rows: Sequence[dict[str, Any]], *, columns: Sequence[str] = ()) -> bytes:
    """Return ``rows`` as CSV: numbers at full precision, ``None`` as an empty field; ``columns`` is the header where there is no row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else list(columns), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "NaN" if isinstance(value, float) and value != value else value for key, value in row.items()})
    return text.getvalue().encode()
