"""What every generated page ends with: how to read it, what it is made of, and how to make it again.

Nothing here looks at a clock, a path or a locale: the same runs give the same bytes, wherever and whenever the page is made.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.reading.cells import Collected, command_name
from analysis.reading.runs import Run
from repro.errors import UserError
from repro.files import write_bytes
from sweeps.spec.expansion import same_runs
from sweeps.spec.load import PAPER, Epoch, Scale, Spec

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
        return write_files(self.folder(out), self.contents)


def write_files(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files, path below ``folder`` -> content, and return their paths.

    Raises:
        UserError: one cannot be written.
    """
    try:
        for name, content in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / name, content)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}. Set --out to a place you can write to.") from error
    return [folder / name for name in contents]


def heading(spec: Spec) -> list[str]:
    """Return the lines of the title, the stamp of the scale and the caption."""
    return [f"# {spec.title}", "", *stamp_lines(spec.scale), *([one_line(spec.caption), ""] if spec.caption else [])]


def stamp_lines(scale: Scale) -> list[str]:
    """Return the lines that say that a page is not at the paper's scale; none where it is."""
    return [f"> **{one_line(scale.stamp)}**", ""] if scale.stamp is not None else []


def one_line(text: str) -> str:
    """Return ``text`` with each run of spaces and line breaks as one space."""
    return " ".join(text.split())


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
        f"± is the sample standard deviation over {over} (n - 1 in the denominator), not a confidence interval; {count}; no ± where n = 1."
    )


def _labels(names: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Return each name that a cell has, given by the label of the cell, with the labels of all cells that have it."""
    return [
        (name, "; ".join(label for label, of_cell in names.items() if name in of_cell))
        for name in dict.fromkeys(name for of_cell in names.values() for name in of_cell)
    ]


def footer(spec: Spec, cells: Sequence[Collected], *, notes: Sequence[str], command: str) -> list[str]:
    """Return the last lines of a page: ``notes`` on how to read it, then fill state, code, software, dates, cost and the command."""
    runs = unique_runs(cells)
    done = [run for _, run in runs if run.done]
    lines = ["---", "", *(f"- {note}" for note in notes)]
    lines += [f"- Left out: {cell.label}: {cell.skip}" for cell in cells if cell.skip is not None]
    for name, labels in _labels({cell.label: cell.untuned for cell in cells}):
        lines.append(f"- **Not tuned yet**: {name}. These cells have the values that the spec declares until it is: {labels}.")
    for name, labels in _labels({cell.label: cell.at_end for cell in cells}):
        lines.append(f"- At the end of its grid, so that a better value may lie beyond: {name}: {labels}.")
    places = [(cell.row, cell.column, [repeat.run.run_id for repeat in cell.repeats]) for cell in cells]
    lines += [f"- **The same runs**, so that nothing is compared between them: {same}." for same in same_runs(spec, places)]
    counts = Counter(run.state for _, run in runs)
    others = [f"{counts[state]} {state}" for state in ("failed", "unfinished", "unreadable", "missing") if counts[state]]
    lines.append(f"- Runs: {len(done)} of {len(runs)} are done" + (f"; {', '.join(others)}:" if others else "."))
    lines += [f"  - {run.state}: {place} (`{run.run_id}`): {one_line(run.problem)}" for place, run in runs if not run.done]
    if done:
        lines += _commits(done)
        software = _counted(f"PyTorch {run.torch}, {run.provenance.get('device', 'unknown device')}{_execution(run)}" for run in done)
        lines += [f"- {text}: {_runs(count)}." for text, count in software]
        lines += _machines(done)
        lines.append(f"- Newest run: {max(run.ended for run in done)}.")
        hours, gpu_hours = total_cost(done, "wall_s") / 3600, total_cost(done, "gpu_hours")
        lines.append(f"- Cost: {hours:.2f} hours of wall time, {gpu_hours:.2f} GPU-hours, over all runs and attempts.")
    name = command_name(spec)
    lines.append(f"- To rebuild this page: `python -m sweeps run {name}`, then `python -m analysis {command} {name}`.")
    return lines


def _execution(run: Run) -> str:
    """Return what of ``exec`` moved the numbers of a run: it is no part of the run's id, so one page may mix what differs in it."""
    settings = run.provenance.get("execution", {})
    words = [str(settings["precision"])] if settings.get("precision", "float32") != "float32" else []
    words += ["label gradient in float32"] if settings.get("label_gradient", "precision") != "precision" else []
    words += [name.replace("_", " ") for name, on in settings.items() if on is True]
    return "".join(f", {word}" for word in words)


def execution_note(cell: Collected) -> str | None:
    """Return the note on a cell whose finished runs were executed in different ways or on different GPUs; ``None`` where they were not."""
    ways = _counted(_execution(run).removeprefix(", ") or "float32, one operation after another" for run in cell.done)
    gpus = _counted(", then ".join(_gpus(run)) or "unknown" for run in cell.done)
    said = ["executed in different ways, which changes numbers: " + _listed(ways)] if len(ways) > 1 else []
    if len({gpu for run in cell.done for gpu in _gpus(run)}) > 1:
        said.append("computed on different GPUs, which changes the last digits: " + _listed(gpus))
    return f"‡ {cell.label}: its runs were {'; and '.join(said)}." if said else None


def _listed(counted: Iterable[tuple[str, int]]) -> str:
    return "; ".join(f"{name}: {_runs(count)}" for name, count in counted)


def _gpus(run: Run) -> list[str]:
    """Return the kinds of GPU that a run was computed on, attempt after attempt."""
    facts = [item["facts"] for item in run.provenance.get("attempts", [])]
    return list(dict.fromkeys(str(item.get("gpu") or "no GPU") for item in facts))


#: What of an attempt's facts a page tells apart: on a processor, and on a GPU.
_DECISIVE = {"cpu": ("processor", "cpu_capability", "threads"), "cuda": ("gpu", "driver", "cuda", "cudnn")}


def _machines(done: Sequence[Run]) -> list[str]:
    """Return what to know about the machines, where the runs that say it come from several, or went on on another one."""
    machines = [[_machine(item["facts"]) for item in run.provenance["attempts"]] for run in done if run.provenance.get("attempts")]
    counted = _counted(names[-1] for names in machines)
    lines = []
    if len(counted) > 1:
        lines = [
            "- **Mixed machines**: the runs come from different machines or thread counts, so the last digits may differ:",
            *(f"  - {name}: {_runs(count)}" for name, count in counted),
        ]
    moved = sum(len(set(names)) > 1 for names in machines)
    if moved:
        lines.append(f"- **Mixed machines**: {_runs(moved)} began on another machine; the last one is counted.")
    return lines


def _machine(facts: Mapping[str, Any]) -> str:
    words = {"threads": "{} threads", "driver": "driver {}", "cuda": "CUDA {}", "cudnn": "cuDNN {}"}
    keys = _DECISIVE["cuda" if facts.get("device") == "cuda" else "cpu"]
    return ", ".join(words.get(key, "{}").format(facts[key]) for key in keys if facts.get(key) is not None).replace(
        " 1 threads", " 1 thread"
    )


def _commits(done: Sequence[Run]) -> list[str]:
    counted = _counted(commit(run) for run in done)
    if len(counted) == 1:
        lines = [f"- Code: {counted[0][0]}."]
    else:
        lines = [
            f"- **Mixed code**: the runs come from {len(counted)} versions of the code, so differences between them may be the code's:",
            *(f"  - {name}: {_runs(count)}" for name, count in counted),
        ]
    resumed = [run for run in done if run.provenance.get("earlier_git")]
    if resumed:
        earlier = _counted(_code(git) for run in resumed for git in run.provenance["earlier_git"])
        names = ", ".join(name for name, _ in earlier)
        lines.append(f"- **Mixed code**: {_runs(len(resumed))} began with another version of the code ({names}) and resumed with this one.")
    return lines


def commit(run: Run) -> str:
    """Return the version of the code that made a run, in words."""
    return _code(run.provenance.get("git") or {})


def _code(git: Mapping[str, Any]) -> str:
    sha, dirty = git.get("sha"), git.get("dirty_sha256")
    return f"commit {sha[:12] if sha else 'unknown'}" + (f" with uncommitted changes (sha256 {dirty[:12]})" if dirty else "")


def total_cost(runs: Sequence[Run], key: str) -> float:
    """Return the sum of what ``runs`` cost: ``wall_s`` or ``gpu_hours``."""
    return sum(float(run.cost.get(key, 0.0)) for run in runs)


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _counted(items: Iterable[str]) -> list[tuple[str, int]]:
    return sorted(Counter(items).items(), key=lambda pair: (-pair[1], pair[0]))
