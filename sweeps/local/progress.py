"""What a local sweep shows while it runs.

On a terminal that is one line for the whole and one for each running run; elsewhere, a plain line for each finished run.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from sweeps.plan.plan import Plan, PlannedRun

#: Enough of the end of metrics.jsonl to hold a whole line: a row of a thousand names stays below it.
_TAIL_BYTES = 1 << 16

#: The exit code of a call whose time was over, as that of ``timeout``.
EXIT_OUT_OF_TIME = 124

#: The value shown beside a running run.
_SHOWN = "test/accuracy"

#: The line of one run: its name comes last, where a narrow terminal cuts it off.
_RUN_LINE = "  epoch {n_fmt}/{total_fmt}{postfix}  {desc}"


def last_row(folder: Path) -> dict[str, Any]:
    """Return the last whole line of the metrics.jsonl of the run in ``folder``; nothing without any."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            lines = file.read().splitlines(keepends=True)
    except OSError:
        return {}
    whole = [line for line in lines if line.endswith(b"\n")]
    with contextlib.suppress(ValueError, IndexError):
        row = json.loads(whole[-1])
        return row if isinstance(row, dict) else {}
    return {}


def completed_epochs(row: dict[str, Any]) -> int:
    """Return how many epochs a run had completed at the ``row`` of its metrics; 0 for an empty one."""
    epoch = row.get("epoch", 0)
    return epoch if isinstance(epoch, int) else 0


@dataclass
class Outcome:
    """How far a call of :func:`sweeps.local.queue.run_missing` is, and in the end how it ended.

    Attributes:
        done: runs of the plan that are done now.
        failed: run_id -> the last error.
        skipped: run_id -> which of the runs that failed or were left alone it needs.
        changed: run_id -> the files in which its code differs from the present one; it was left alone.
        stopped_by: the signal that ended the call early, or ``None``.
        out_of_time: whether its time was over with runs left.
    """

    done: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    stopped_by: int | None = None
    out_of_time: bool = False

    @property
    def exit_code(self) -> int:
        """0: everything is done; 1: a run failed, was skipped or left alone; 124: the time was over before; 128 + N: signal N."""
        if self.stopped_by is not None:
            return 128 + self.stopped_by
        if self.out_of_time:
            return EXIT_OUT_OF_TIME
        return 1 if self.failed or self.skipped or self.changed else 0


class Progress:
    """Shows how far a plan is, in epochs and in runs; ``outcome`` is kept by the caller and read at every call."""

    def __init__(self, plan: Plan, outcome: Outcome, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._on_terminal = self._stream.isatty()
        self._plan = plan
        self._outcome = outcome
        done = {name: plan.runs[name].epochs for name in outcome.done}
        self._epochs = done | {run.run_id: self._row(run)[0] for run in self._left} if self._on_terminal else {}
        # What earlier calls have trained is no work of this one, so it is initial: part of the share, but not of the speed.
        self._whole = tqdm(
            desc=self._counts(0, 0),
            total=self._total_epochs,
            initial=sum(self._epochs.values()),
            unit="epoch",
            file=self._stream,
            disable=not self._on_terminal,
            dynamic_ncols=True,
            position=0,
        )
        self._lines: dict[str, tqdm[Any]] = {}

    @property
    def _left(self) -> list[PlannedRun]:
        over = self._outcome
        ended = over.done | self._plan.spared | over.failed.keys() | over.skipped.keys() | over.changed.keys()
        return [run for name, run in self._plan.runs.items() if name not in ended]

    @property
    def _total_epochs(self) -> int:
        """What is trained and what this call still expects: of runs that failed or are skipped, only what they trained."""
        without_result = self._outcome.failed.keys() | self._outcome.skipped.keys()
        return sum(epochs if name in without_result else self._plan.runs[name].epochs for name, epochs in self._epochs.items())

    def refresh(self, running: Sequence[PlannedRun], elsewhere: Sequence[PlannedRun]) -> None:
        """Show how far the runs are that are running here and elsewhere, and how many are done, failed and skipped."""
        if not self._on_terminal:
            return
        self._drop_lines({run.run_id for run in running})
        for run in running:
            self._show(run)
        for run in elsewhere:
            self._epochs[run.run_id] = self._row(run)[0]
        self._show_whole(len(running), len(elsewhere))

    def _show_whole(self, num_running: int, num_elsewhere: int) -> None:
        self._whole.set_description_str(self._counts(num_running, num_elsewhere), refresh=False)
        self._whole.n, self._whole.total = sum(self._epochs.values()), self._total_epochs
        self._whole.refresh()

    def _row(self, run: PlannedRun) -> tuple[int, str]:
        row = last_row(self._plan.folder / run.run_id)
        return completed_epochs(row), f"{_SHOWN} {row[_SHOWN]:.4f}" if isinstance(row.get(_SHOWN), float) else ""

    def _show(self, run: PlannedRun) -> None:
        """Show the line of a running run, in the first place that is free; where nothing has changed, nothing is written."""
        epoch, value = self._row(run)
        self._epochs[run.run_id] = epoch
        line = self._lines.get(run.run_id)
        if line is None:
            taken = {abs(other.pos) for other in self._lines.values()}
            line = self._lines[run.run_id] = tqdm(
                desc=run.place,
                total=run.epochs,
                initial=epoch,
                bar_format=_RUN_LINE,
                file=self._stream,
                dynamic_ncols=True,
                position=next(place for place in range(1, len(taken) + 2) if place not in taken),
                leave=False,
            )
        if (line.n, line.postfix or "") != (epoch, value):
            line.n = epoch
            line.set_postfix_str(value)

    def _drop_lines(self, keep: Container[str]) -> None:
        for name in [name for name in self._lines if name not in keep]:
            self._lines.pop(name).close()

    @property
    def _done(self) -> str:
        return f"{len(self._outcome.done | self._plan.spared)}/{len(self._plan.runs)}"

    def _counts(self, num_running: int, num_elsewhere: int) -> str:
        parts = [f"{self._done} runs done"]
        num_stages = 1 + max((run.stage for run in self._plan.runs.values()), default=0)
        if num_stages > 1 and self._left:
            parts.append(f"stage {1 + min(run.stage for run in self._left)}/{num_stages}")
        counted = {"running": num_running, "elsewhere": num_elsewhere, "failed": len(self._outcome.failed)}
        counted["skipped"] = len(self._outcome.skipped) + len(self._outcome.changed)
        parts += [f"{count} {state}" for state, count in counted.items() if count or state in ("running", "failed")]
        return ", ".join(parts)

    def finished(self, run: PlannedRun, how: str) -> None:
        """Say that ``run`` is done; ``how`` says in what time, or by whom."""
        if self._on_terminal:
            self._epochs[run.run_id] = run.epochs
        else:
            self.say(f"[{self._done}] done {how}: {run.place} ({run.run_id})")

    def failed(self, run: PlannedRun) -> None:
        """Say that ``run`` ended without a result."""
        self.say(f"[{self._done}] FAILED: {run.place} ({run.run_id}): {self._outcome.failed[run.run_id]}")

    def skipped(self, run: PlannedRun) -> None:
        """Say that ``run`` is not trained, and why."""
        self.say(f"[{self._done}] skipped: {run.place} ({run.run_id}): {self._outcome.skipped[run.run_id]}")

    def say(self, line: str) -> None:
        """Write a line of its own, above the progress lines if there are any."""
        tqdm.write(line, file=self._stream)
        self._stream.flush()

    def close(self) -> None:
        """Take the lines of the runs away and leave the line for the whole."""
        self._drop_lines(())
        if self._on_terminal:
            self._show_whole(0, 0)
        self._whole.close()
