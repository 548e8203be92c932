"""Executes the runs of a plan on this machine, some at a time, each in a process of its own.

A run begins when its inputs are done; the runs that depend on one that failed are skipped, and no others. The workers are forked
from a server process that has imported what a run needs (:mod:`sweeps.local.warm`) and nothing of the planner's, so a run starts at
once and its death, by whatever signal, is its own. Which runs are done is read from the run folders alone: calling this again
goes on with what is left, two planners may share a folder, and a planner that was killed leaves nothing to clean up.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from repro.command import stop_signals
from repro.errors import EXIT_USER_ERROR, UserError, first_of
from repro.runs.lease import EXIT_SUPERSEDED
from repro.runs.state import damage, requeue
from sweeps.local.progress import Outcome, Progress
from sweeps.local.worker import PRELOAD, Worker, how_it_ended, last_error, last_line, start, start_server, threads_before, train
from sweeps.plan.plan import Plan, PlannedRun, planned_state
from sweeps.spec.settings import override_value

#: Signals that end a sweep: Ctrl-C, a scheduler's or a shutdown's request, and the end of the terminal.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: What a run says when another process holds its lock.
LOCKED = "another process is training this run"

#: The exit code of workers whose server process, which would know the real one, was killed.
SERVER_GONE = 255

#: Seconds between two looks at the workers and the run folders.
POLL_S = 0.2

#: Seconds that runs have to save their state when the time is over, before they are killed.
PATIENCE_S = 60.0

#: Seconds before a run that another process held, but that shows no sign of life, is tried again.
TRY_AGAIN_S = 15.0


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
    time_over: Callable[[], bool] = lambda: False,
    changed_code: str = "refuse",
    worker: Worker = train,
    preload: Sequence[str] = PRELOAD,
) -> Outcome:
    """Train every run of ``plan`` that is not done, ``jobs`` at a time, inputs before their readers, and return how it went.

    Lost and preempted runs go on from their checkpoints. A run that failed before is left alone unless ``retry``; a run that fails
    stops those that depend on it, directly or through others, and nothing else. A run that another process is training is waited
    for. On SIGINT, SIGTERM or SIGHUP the workers are asked to save their state and stop, and are waited for; a second signal kills
    them. Once ``time_over`` returns true nothing more begins, and the workers have :data:`PATIENCE_S` seconds to save and stop.
    ``settings`` are those of each run's execution, such as ``exec.device=cuda``. What other code has made is left alone (``refuse``),
    trained ``again``, or taken as ``equal``, as ``changed_code`` says.
    """
    queue = _Queue(plan, jobs, settings, time_over, changed_code, worker, start_server(preload))
    queue.sort_out(retry=retry)
    with stop_signals(STOP_SIGNALS) as received:
        try:
            queue.work(received)
        finally:
            queue.stop(received)
            queue.progress.close()
    queue.outcome.stopped_by = received[0] if received else None
    return queue.outcome


@dataclass
class _Queue:
    plan: Plan
    jobs: int
    settings: Sequence[str]
    time_over: Callable[[], bool]
    changed_code: str
    worker: Worker
    context: ForkServerContext

    def __post_init__(self) -> None:
        self.outcome = Outcome()
        self._folder = self.plan.folder.resolve()
        self._waiting: set[str] = set()
        self._running: dict[str, _Running] = {}
        self._elsewhere: dict[str, tuple[PlannedRun, float]] = {}

    def sort_out(self, *, retry: bool) -> None:
        """Note what is done already, what is left alone and what that holds up; everything else waits."""
        for name, run in self.plan.runs.items():
            if run.state == "done":
                self.outcome.done.add(name)
            elif name in self.plan.spared:
                continue
            elif run.state == "failed" and not retry:
                self.outcome.failed[name] = f"{last_error(self._folder / name)} (failed before; --retry tries it again)"
            elif run.state == "damaged" and not retry:
                self.outcome.failed[name] = f"{damage(self._folder / name)} --retry trains it again."
            elif run.changed and run.state != "running" and self.changed_code == "refuse":
                self.outcome.changed[name] = first_of(run.changed)
            else:
                if run.state == "damaged":
                    requeue(self._folder / name)
                self._waiting.add(name)
        for name in self.outcome.failed:
            self._skip_readers(name, "failed")
        for name in self.outcome.changed:
            self._skip_readers(name, "was made by other code")
        self.progress = Progress(self.plan, self.outcome)

    def _next(self) -> PlannedRun | None:
        runs = self.plan.runs.values()
        return next((run for run in runs if run.run_id in self._waiting and self.outcome.done.issuperset(run.inputs)), None)

    def _skip_readers(self, failed: str, how: str) -> list[PlannedRun]:
        """Take out and return every run that depends on the run called ``failed``; ``how`` says what became of that one."""
        skipped: list[PlannedRun] = []
        reached = [failed]
        for name in reached:
            for run in self.plan.runs.values():
                if name in run.inputs and run.run_id in self._waiting:
                    direct = f"its input {failed} {how}"
                    self.outcome.skipped[run.run_id] = direct if name == failed else f"{failed} {how}, which its input {name} needs"
                    self._waiting.remove(run.run_id)
                    skipped.append(run)
                    reached.append(run.run_id)
        return skipped

    def work(self, received: list[int]) -> None:
        """Start and watch workers until nothing is left, a signal has arrived in ``received``, or the time is over."""
        while (self._running or self._elsewhere or self._next()) and not received:
            if self.time_over():
                self.outcome.out_of_time = True
                return
            while len(self._running) < self.jobs and not received and (run := self._next()):
                self._waiting.remove(run.run_id)
                self._begin(run)
            self._wait()
            self._look_elsewhere()
        assert received or not self._waiting, "runs wait for inputs that are neither done nor failed"

    def stop(self, received: list[int]) -> None:
        """Ask the workers to save their state and stop, and wait for them; after a second signal, or in the end, kill them."""
        if not self._running:
            return
        saving = f"{len(self._running)} runs save their state"
        if self.outcome.out_of_time:
            self.progress.say(f"the time is over: {saving} and stop; {len(self.outcome.done)} of {len(self.plan.runs)} runs are done.")
        else:
            self.progress.say(f"stopping: {saving}; the same command resumes. A second Ctrl-C kills them.")
        asked = len(received)
        ends = time.monotonic() + (PATIENCE_S if self.outcome.out_of_time else math.inf)
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
        from repro.runs.recorded import run_code, settle

        try:
            settle(self._folder / run.run_id, run_code(run.fields, self._folder, inputs=run.inputs), self.changed_code)
        except UserError as error:
            if planned_state(self._folder / run.run_id) == "running":
                self._elsewhere[run.run_id] = (run, 0.0)
            else:
                self._failed(run, str(error))
            return False
        return True

    def _start(self, run: PlannedRun, folder: Path) -> None:
        overrides = [*run.overrides, f"paths.runs={override_value(str(self._folder))}", *self.settings]
        if not any(override.startswith("exec.threads=") for override in overrides):
            overrides.append(f"exec.threads={threads_before(folder) or max(1, _num_cores() // self.jobs)}")
        log = self._folder / "logs" / f"{run.run_id}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        sharing = min(self.jobs, 1 + len(self._running) + len(self._waiting))
        process = start(self.context, self.worker, overrides, log, name=run.run_id, sharing=sharing)
        self._running[run.run_id] = _Running(run, process, log, time.monotonic())

    def _wait(self, *, stopping: bool = False) -> None:
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
        for name, (run, try_again_at) in list(self._elsewhere.items()):
            state = planned_state(self._folder / name)
            if state == "running":
                continue
            if state == "done":
                self._done(run, "elsewhere")
            elif state == "failed":
                self._failed(run, last_error(self._folder / name))
            elif time.monotonic() >= try_again_at:
                self._waiting.add(name)
            else:
                continue
            del self._elsewhere[name]

    def _done(self, run: PlannedRun, how: str) -> None:
        self.outcome.done.add(run.run_id)
        self.progress.finished(run, how)

    def _failed(self, run: PlannedRun, error: str) -> None:
        self.outcome.failed[run.run_id] = error
        self.progress.failed(run)
        for reader in self._skip_readers(run.run_id, "failed"):
            self.progress.skipped(reader)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_this_process(plan: Plan, *, retry: bool) -> Outcome:
    """Train the runs of ``plan`` one after the other, for a debugger, and return how it went; the first error of a run is raised."""
    from repro.config.compose import compose
    from repro.training.run import execute

    outcome = Outcome()
    for run in plan.runs.values():
        folder = plan.folder / run.run_id
        bad = next((name for name in run.inputs if name in {*outcome.failed, *outcome.skipped, *outcome.changed}), None)
        state = planned_state(folder)
        if state == "failed" and not retry:
            outcome.failed[run.run_id] = f"{last_error(folder)} (failed before; --retry tries it again)"
        elif run.changed:
            outcome.changed[run.run_id] = first_of(run.changed)
        elif bad is not None:
            outcome.skipped[run.run_id] = f"its input {bad} {'was made by other code' if bad in outcome.changed else 'failed'}"
        else:
            if state != "done":
                # Not through the worker: an exception goes all the way up, where a debugger stops.
                print(execute(compose([*run.overrides, f"paths.runs={override_value(str(plan.folder.resolve()))}"])))
            outcome.done.add(run.run_id)
    return outcome
