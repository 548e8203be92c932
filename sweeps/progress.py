"""What a local sweep shows while it runs: one progress line on a terminal, a plain line for each finished run elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from sweeps.plan import PlannedRun

#: Enough of the end of metrics.jsonl to hold a whole line: a row of a thousand names stays below it.
_TAIL_BYTES = 1 << 16


def completed_epochs(folder: Path) -> int:
    """Return how many epochs the run in ``folder`` has completed, by the last whole line of its metrics.jsonl; 0 without any."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            lines = file.read().splitlines(keepends=True)
    except OSError:
        return 0
    for line in reversed(lines):
        if line.endswith(b"\n"):
            try:
                return int(json.loads(line)["epoch"])
            except (ValueError, KeyError, TypeError):
                return 0
    return 0


class Progress:
    """The progress of a set of runs, in epochs and in runs.

    Attributes of the constructor: the ``runs`` to come and the ``folder`` they lie in; how many there are in ``total``, ``finished`` and
    ``failed`` before; and the ``stream`` to write to.
    """

    def __init__(
        self, runs: list[PlannedRun], folder: Path, *, total: int, finished: int, failed: int, stream: TextIO | None = None
    ) -> None:
        self._stream = stream or sys.stderr
        self._folder = folder
        self._total = total
        self._finished = finished
        self._failed = failed
        self._epochs = {run.run_id: completed_epochs(folder / run.run_id) for run in runs}
        # What earlier attempts have trained is no work of this call, so it is initial and does not count for the speed.
        self._bar = tqdm(
            total=sum(run.epochs for run in runs),
            initial=sum(self._epochs.values()),
            unit="epoch",
            file=self._stream,
            disable=not self._stream.isatty(),
            dynamic_ncols=True,
        )

    def refresh(self, running: list[PlannedRun], elsewhere: list[PlannedRun]) -> None:
        """Show the epochs completed so far, and how many runs are done, failed, running here and running elsewhere."""
        if self._bar.disable:
            return
        for run in [*running, *elsewhere]:
            self._epochs[run.run_id] = completed_epochs(self._folder / run.run_id)
        away = f", {len(elsewhere)} elsewhere" if elsewhere else ""
        text = f"{self._finished}/{self._total} runs done, {len(running)} running{away}, {self._failed} failed"
        self._bar.set_description_str(text, refresh=False)
        self._bar.n = sum(self._epochs.values())
        self._bar.refresh()

    def finished(self, run: PlannedRun, how: str) -> None:
        """Note that ``run`` is done; ``how`` says in what time, or by whom."""
        self._finished += 1
        self._epochs[run.run_id] = run.epochs
        if self._bar.disable:
            self.say(f"[{self._finished}/{self._total}] done {how}: {run.place} ({run.run_id})")

    def failed(self, run: PlannedRun, error: str) -> None:
        """Note that ``run`` ended without a result."""
        self._failed += 1
        self.say(f"[{self._finished}/{self._total}] FAILED: {run.place} ({run.run_id}): {error}")

    def say(self, line: str) -> None:
        """Write a line of its own, above the progress line if there is one."""
        tqdm.write(line, file=self._stream)
        self._stream.flush()

    def close(self) -> None:
        """Leave the progress line."""
        self._bar.close()
