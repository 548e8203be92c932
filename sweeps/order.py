"""In which order the runs of a plan may begin: a run waits for its inputs, and is skipped when one of them comes to nothing."""

from __future__ import annotations

import heapq
from collections import defaultdict

from sweeps.plan import Plan, PlannedRun


class Order:
    """The runs of a plan that have not begun: which may, which wait for their inputs, and which are skipped.

    Of the runs that may begin, those that stand earlier in the plan come first.
    """

    def __init__(self, plan: Plan) -> None:
        self._runs = list(plan.runs.values())
        self._index = {run.run_id: index for index, run in enumerate(self._runs)}
        self._ready: list[int] = []
        self._open_inputs: dict[str, set[str]] = {}
        self._readers: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, run: PlannedRun) -> None:
        """Let ``run`` begin once :meth:`done` has been called for each of its inputs."""
        self._open_inputs[run.run_id] = set(run.inputs)
        for name in self._open_inputs[run.run_id]:
            self._readers[name].append(run.run_id)
        if not run.inputs:
            self._make_ready(run.run_id)

    def add_again(self, run: PlannedRun) -> None:
        """Let ``run``, which had begun, begin once more."""
        self._make_ready(run.run_id)

    def __bool__(self) -> bool:
        """Say whether a run may begin now."""
        return bool(self._ready)

    @property
    def blocked(self) -> list[PlannedRun]:
        """The runs that wait for an input."""
        return [self._runs[self._index[name]] for name in self._open_inputs]

    def next(self) -> PlannedRun:
        """Take out the first run that may begin."""
        return self._runs[heapq.heappop(self._ready)]

    def done(self, name: str) -> None:
        """Note that the run called ``name`` is done, so that its readers may begin."""
        for reader in self._readers.pop(name, ()):
            if reader in self._open_inputs:
                self._open_inputs[reader].discard(name)
                if not self._open_inputs[reader]:
                    self._make_ready(reader)

    def failed(self, name: str, how: str = "failed") -> dict[str, str]:
        """Take out every run that depends on the run called ``name``, and return why, by run id, inputs before their readers.

        ``how`` says what became of it.
        """
        reasons: dict[str, str] = {}
        reached = [name]
        for unfinished in reached:
            for reader in self._readers.pop(unfinished, ()):
                if self._open_inputs.pop(reader, None) is not None:
                    direct = f"its input {name} {how}"
                    reasons[reader] = direct if unfinished == name else f"{name} {how}, which its input {unfinished} needs"
                    reached.append(reader)
        return reasons

    def _make_ready(self, name: str) -> None:
        self._open_inputs.pop(name, None)
        heapq.heappush(self._ready, self._index[name])
