"""What a local sweep shows while it runs.

On a terminal that is one line for the whole and one for each running run; elsewhere, a plain line for each finished run.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from sweeps.plan import Plan, PlannedRun

#: Enough of the end of metrics.jsonl to hold a whole line: a row of a thousand names stays below it.
_TAIL_BYTES = 1 << 16

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
    for line in reversed(lines):
        if line.endswith(b"\n"):
            try:
                row = json.loads(line)
            except ValueError:
                return {}
            return row if isinstance(row, dict) else {}
    return {}


def completed_epochs(row: dict[str, Any]) -> int:
    """Return how many epochs a run had completed at the ``row`` of its metrics; 0 for an empty one."""
    epoch = row.get("epoch", 0)
    return epoch if isinstance(epoch, int) else 0


class Progress:
    """The progress of a plan, in epochs and in runs.

    Attributes of the constructor: the ``plan``, the ``folder`` its runs lie in, the ids of its runs that are ``done``, ``failed`` and
    ``skipped`` before, and the ``stream`` to write to.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        *,
        done: Container[str],
        failed: Container[str],
        skipped: Container[str],
        stream: TextIO | None = None,
    ) -> None:
        self._stream = stream or sys.stderr
        self._on_terminal = self._stream.isatty()
        self._folder = folder
        runs = list(plan.runs.values())
        self._total = len(runs)
        self._num_done, self._num_failed, self._num_skipped = (
            sum(run.run_id in ended for run in runs) for ended in (done, failed, skipped)
        )
        self._num_stages = 1 + max((run.stage for run in runs), default=0)
        left = [run for run in runs if run.run_id not in done and run.run_id not in failed and run.run_id not in skipped]
        self._left = Counter(run.stage for run in left)
        self._epochs = {run.run_id: completed_epochs(last_row(folder / run.run_id)) for run in left} if self._on_terminal else {}
        # What earlier attempts have trained is no work of this call, so it is initial and does not count for the speed.
        self._whole = tqdm(
            desc=self._counts(0, 0),
            total=sum(run.epochs for run in left),
            initial=sum(self._epochs.values()),
            unit="epoch",
            file=self._stream,
            disable=not self._on_terminal,
            dynamic_ncols=True,
            position=0,
        )
        self._lines: dict[str, tqdm[Any]] = {}

    def refresh(self, running: Sequence[PlannedRun], elsewhere: Sequence[PlannedRun]) -> None:
        """Show how far the runs are that are running here and elsewhere, and how many are done, failed and skipped."""
        if not self._on_terminal:
            return
        self._drop_lines({run.run_id for run in running})
        for run in running:
            self._show(run, last_row(self._folder / run.run_id))
        for run in elsewhere:
            self._epochs[run.run_id] = completed_epochs(last_row(self._folder / run.run_id))
        self._show_whole(len(running), len(elsewhere))

    def _show_whole(self, num_running: int, num_elsewhere: int) -> None:
        self._whole.set_description_str(self._counts(num_running, num_elsewhere), refresh=False)
        self._whole.n = sum(self._epochs.values())
        self._whole.refresh()

    def _show(self, run: PlannedRun, row: dict[str, Any]) -> None:
        """Show the line of a running run, in the first place that is free; where nothing has changed, nothing is written."""
        epoch = self._epochs[run.run_id] = completed_epochs(row)
        value = f"{_SHOWN} {row[_SHOWN]:.4f}" if isinstance(row.get(_SHOWN), float) else ""
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

    def _counts(self, num_running: int, num_elsewhere: int) -> str:
        parts = [f"{self._num_done}/{self._total} runs done"]
        if self._num_stages > 1 and self._left:
            parts.append(f"stage {1 + min(self._left)}/{self._num_stages}")
        counted = {"running": num_running, "elsewhere": num_elsewhere, "failed": self._num_failed, "skipped": self._num_skipped}
        parts += [f"{count} {state}" for state, count in counted.items() if count or state in ("running", "failed")]
        return ", ".join(parts)

    def finished(self, run: PlannedRun, how: str) -> None:
        """Note that ``run`` is done; ``how`` says in what time, or by whom."""
        self._num_done += 1
        self._leave(run)
        if self._on_terminal:
            self._epochs[run.run_id] = run.epochs
        else:
            self.say(f"[{self._num_done}/{self._total}] done {how}: {run.place} ({run.run_id})")

    def failed(self, run: PlannedRun, error: str) -> None:
        """Note that ``run`` ended without a result."""
        self._num_failed += 1
        self._leave(run)
        self._take_out(run)
        self.say(f"[{self._num_done}/{self._total}] FAILED: {run.place} ({run.run_id}): {error}")

    def skipped(self, run: PlannedRun, reason: str) -> None:
        """Note that ``run`` is not trained, and why."""
        self._num_skipped += 1
        self._leave(run)
        self._take_out(run)
        self.say(f"[{self._num_done}/{self._total}] skipped: {run.place} ({run.run_id}): {reason}")

    def _leave(self, run: PlannedRun) -> None:
        self._left[run.stage] -= 1
        self._left += Counter()

    def _take_out(self, run: PlannedRun) -> None:
        """Expect no more epochs of ``run``; those that it trained count."""
        if self._on_terminal:
            self._whole.total = (self._whole.total or 0) - run.epochs + self._epochs[run.run_id]

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
