"""Executes the runs of a plan on this machine, some at a time, each in a process of its own.

A run begins when its inputs are done; the runs that depend on one that failed are skipped, and no others. The workers are forked
from a server process that has imported what a run needs (:mod:`sweeps.warm`) and nothing of the planner's, so a run starts at once and
its death, by whatever signal, is its own. Which runs are done is read from the run folders alone: calling this again goes on with what
is left, two planners may share a folder, and a planner that was killed leaves nothing to clean up.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import FrameType

from repro.errors import EXIT_USER_ERROR, UserError, first_of
from repro.lease import EXIT_SUPERSEDED
from repro.rundir import damage, requeue
from sweeps.order import Order
from sweeps.plan import Plan, PlannedRun, planned_state
from sweeps.progress import Progress
from sweeps.settings import override_value
from sweeps.worker import PRELOAD, Worker, how_it_ended, last_error, last_line, start, start_server, threads_before, train

#: Signals that end a sweep: Ctrl-C, a scheduler's or a shutdown's request, and the end of the terminal.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: The exit code of a call whose time was over, as that of ``timeout``.
EXIT_OUT_OF_TIME = 124

#: What a run says when another process holds its lock.
LOCKED = "another process is training this run"

#: The exit code of workers whose server process, which would know the real one, was killed.
SERVER_GONE = 255

#: Seconds between two looks at the workers and the run folders.
POLL_S = 0.2

#: Seconds before a run that another process held, but that shows no sign of life, is tried again.
TRY_AGAIN_S = 15.0


@dataclass(frozen=True)
class TimeLimit:
    """When a call must end.

    Attributes:
        ends: the moment, on the clock of :func:`time.monotonic`, from which on no run begins and the running ones are asked to stop.
        patience_s: seconds that they have to save their state, before they are killed.
    """

    ends: float
    patience_s: float

    @property
    def over(self) -> bool:
        """Whether the moment has come."""
        return time.monotonic() >= self.ends


@dataclass
class Outcome:
    """How a call of :func:`run_missing` ended.

    Attributes:
        done: runs of the plan that are done now.
        failed: run_id -> the last error.
        skipped: run_id -> which of the runs that failed or were left alone it needs.
        changed: run_id -> the files in which its code differs from the present one; it was left alone.
        stopped_by: the signal that ended the call early, or ``None``.
        out_of_time: whether the time limit ended it, with runs left.
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


@dataclass
class _Running:
    run: PlannedRun
    process: ForkServerProcess
    log: Path
    started: float


def run_missing(
    plan: Plan,
    *,
    jobs: int,
    retry: bool = False,
    settings: Sequence[str] = (),
    limit: TimeLimit | None = None,
    changed_code: str = "refuse",
    worker: Worker = train,
    preload: Sequence[str] = PRELOAD,
) -> Outcome:
    """Train every run of ``plan`` that is not done, ``jobs`` at a time, inputs before their readers, and return how it went.

    Lost and preempted runs go on from their checkpoints. A run that failed before is left alone unless ``retry``; a run that fails
    stops those that depend on it, directly or through others, and nothing else. A run that another process is training is waited
    for. On SIGINT, SIGTERM or SIGHUP the workers are asked to save their state and stop, and are waited for; a second signal kills
    them. So they are when the time of ``limit`` is over. ``settings`` are those of each run's execution, such as ``exec.device=cuda``.
    What other code has made is left alone, trained ``again``, or taken as ``equal``, as ``changed_code`` says.
    """
    queue = _Queue(plan, jobs=jobs, retry=retry, settings=settings, limit=limit, changed_code=changed_code, worker=worker, preload=preload)
    with _stop_signals() as received:
        try:
            queue.work(received)
        finally:
            queue.stop(received)
            queue.progress.close()
    queue.outcome.stopped_by = received[0] if received else None
    return queue.outcome


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Queue:
    """The runs that wait for their turn or their inputs, run here, or run elsewhere."""

    def __init__(
        self,
        plan: Plan,
        *,
        jobs: int,
        retry: bool,
        settings: Sequence[str],
        limit: TimeLimit | None,
        changed_code: str,
        worker: Worker,
        preload: Sequence[str],
    ) -> None:
        self.outcome = Outcome()
        self._changed_code = changed_code
        self._settings = settings
        self._limit = limit
        self._folder = plan.folder.resolve()
        self._jobs = jobs
        self._worker = worker
        self._threads = max(1, _num_cores() // jobs)
        self._context = start_server(preload)
        self._running: dict[str, _Running] = {}
        self._elsewhere: dict[str, tuple[PlannedRun, float]] = {}
        self._order = Order(plan)
        for run in plan.runs.values():
            if run.state == "done":
                self.outcome.done.add(run.run_id)
            elif run.run_id in plan.spared:
                continue
            elif run.state == "failed" and not retry:
                self.outcome.failed[run.run_id] = f"{last_error(self._folder / run.run_id)} (failed before; --retry tries it again)"
            elif run.state == "damaged" and not retry:
                self.outcome.failed[run.run_id] = f"{damage(self._folder / run.run_id)} --retry trains it again."
            elif run.changed and run.state != "running" and changed_code == "refuse":
                self.outcome.changed[run.run_id] = first_of(run.changed)
            else:
                if run.state == "damaged":
                    requeue(self._folder / run.run_id)
                self._order.add(run)
        for name in self.outcome.done:
            self._order.done(name)
        for name in self.outcome.failed:
            self.outcome.skipped |= self._order.failed(name)
        for name in self.outcome.changed:
            self.outcome.skipped |= self._order.failed(name, "was made by other code")
        self._runs = plan.runs
        left = self.outcome.skipped | self.outcome.changed
        self.progress = Progress(plan, self._folder, done=self.outcome.done | plan.spared, failed=self.outcome.failed, skipped=left)

    def work(self, received: list[int]) -> None:
        """Start and watch workers until nothing is left, a signal has arrived in ``received``, or the time is over."""
        while (self._order or self._running or self._elsewhere) and not received:
            if self._limit is not None and self._limit.over:
                self.outcome.out_of_time = True
                return
            while self._order and len(self._running) < self._jobs and not received:
                self._begin(self._order.next())
            self._wait()
            self._look_elsewhere()
        assert received or not self._order.blocked, "runs wait for inputs that are neither done nor failed"

    def stop(self, received: list[int]) -> None:
        """Ask the workers to save their state and stop, and wait for them; after a second signal, or in the end, kill them."""
        if not self._running:
            return
        saving = f"{len(self._running)} runs save their state"
        if self.outcome.out_of_time:
            self.progress.say(f"the time is over: {saving} and stop; {len(self.outcome.done)} of {len(self._runs)} runs are done.")
        else:
            self.progress.say(f"stopping: {saving}; the same command goes on. A second Ctrl-C kills them.")
        asked = len(received)
        patience = self._limit.patience_s if self._limit is not None and self.outcome.out_of_time else math.inf
        ends = time.monotonic() + patience
        self._signal_workers(signal.SIGTERM)
        while self._running:
            if len(received) > asked or time.monotonic() >= ends:
                asked, ends = len(received), math.inf
                self._signal_workers(signal.SIGKILL)
            self._wait(stopping=True)

    def _signal_workers(self, number: signal.Signals) -> None:
        for item in self._running.values():
            # Not through process.terminate(): a worker whose server was killed looks ended to it.
            if item.process.pid is not None and item.process.exitcode in (None, SERVER_GONE):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(item.process.pid, number)

    def _begin(self, run: PlannedRun) -> None:
        folder = self._folder / run.run_id
        if run.changed and not self._resolved(run):
            return
        # Hours may have passed since the plan was made, and another planner may have been here.
        state = planned_state(folder)
        if state == "done":
            self._done(run, "as equal" if run.changed else "elsewhere")
        elif state == "running":
            self._elsewhere[run.run_id] = (run, 0.0)
        elif state == "failed" and run.state != "failed":
            self._failed(run, last_error(folder))
        else:
            self._start(run, folder)

    def _resolved(self, run: PlannedRun) -> bool:
        """Do what was asked for about what other code has made, and say whether it could be done."""
        from sweeps.changed import resolve

        try:
            resolve(run, self._folder, self._changed_code)
        except UserError as error:
            if planned_state(self._folder / run.run_id) == "running":
                self._elsewhere[run.run_id] = (run, 0.0)
            else:
                self._failed(run, str(error))
            return False
        return True

    def _start(self, run: PlannedRun, folder: Path) -> None:
        overrides = [*run.overrides, f"paths.runs={override_value(str(self._folder))}", *self._settings]
        if not any(override.startswith("exec.threads=") for override in overrides):
            overrides.append(f"exec.threads={threads_before(folder) or self._threads}")
        log = self._folder / "logs" / f"{run.run_id}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        process = start(self._context, self._worker, overrides, log, name=run.run_id)
        self._running[run.run_id] = _Running(run, process, log, time.monotonic())

    def _wait(self, *, stopping: bool = False) -> None:
        """Wait a moment, and note the workers that have ended."""
        self.progress.refresh([item.run for item in self._running.values()], [run for run, _ in self._elsewhere.values()])
        multiprocessing.connection.wait([item.process.sentinel for item in self._running.values()], timeout=POLL_S)
        ended = [(item, code) for item in self._running.values() if (code := self._exit_code(item)) is not None]
        if not ended:
            # Also when the server process was killed: its workers then look ended at once, and would be asked without a pause.
            time.sleep(POLL_S / 10)
        for item, code in ended:
            item.process.join()
            del self._running[item.run.run_id]
            self._ended(item, code, stopping=stopping)

    def _exit_code(self, item: _Running) -> int | None:
        """Return the exit code of a worker, or ``None`` while it lives."""
        code = item.process.exitcode
        if code == SERVER_GONE and planned_state(self._folder / item.run.run_id) == "running":
            return None
        return code

    def _ended(self, item: _Running, code: int, *, stopping: bool) -> None:
        folder = self._folder / item.run.run_id
        state = planned_state(folder)
        if state == "done":
            self._done(item.run, f"in {time.monotonic() - item.started:.0f} s")
        elif (
            (code == EXIT_USER_ERROR and (state == "running" or LOCKED in last_line(item.log)))
            or code == EXIT_SUPERSEDED
            or (code == SERVER_GONE and not stopping)
        ):
            self._elsewhere[item.run.run_id] = (item.run, time.monotonic() + TRY_AGAIN_S)
        elif not stopping or state == "failed":
            self._failed(item.run, last_error(folder) if state == "failed" else how_it_ended(code, item.log))

    def _look_elsewhere(self) -> None:
        """Note what became of the runs that other processes were training."""
        for name, (run, try_again_at) in list(self._elsewhere.items()):
            state = planned_state(self._folder / name)
            if state == "running":
                continue
            if state == "done":
                self._done(run, "elsewhere")
            elif state == "failed":
                self._failed(run, last_error(self._folder / name))
            elif time.monotonic() >= try_again_at:
                self._order.add_again(run)
            else:
                continue
            del self._elsewhere[name]

    def _done(self, run: PlannedRun, how: str) -> None:
        self.outcome.done.add(run.run_id)
        self._order.done(run.run_id)
        self.progress.finished(run, how)

    def _failed(self, run: PlannedRun, error: str) -> None:
        self.outcome.failed[run.run_id] = error
        self.progress.failed(run, error)
        for name, reason in self._order.failed(run.run_id).items():
            self.outcome.skipped[name] = reason
            self.progress.skipped(self._runs[name], reason)


def _num_cores() -> int:
    """Return the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
