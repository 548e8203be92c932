"""Executes the runs of a plan on this machine, some at a time, each in a process of its own.

A run begins when its inputs are done; the runs that depend on one that failed are skipped, and no others. The workers are forked from a
server process that has imported what a run needs, so a run starts at once and its death, by whatever signal, is its own. Which runs are
done is read from the run folders alone: calling this again resumes, and two planners may share a folder.
"""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from tqdm import tqdm

from repro.command import exit_code_of, stop_signals
from repro.files import try_read
from repro.runs.folder import GPU_SHARE
from repro.runs.state import corruption, requeue
from sweeps.plan import Plan, override, planned_state

#: What a worker process does: it takes the overrides of a run and returns the process's exit code.
Worker = Callable[[Sequence[str]], int]

#: Signals that end a sweep: Ctrl-C, a scheduler's or a shutdown's request, and the end of the terminal.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: The exit code of a call whose time was over, as that of ``timeout``.
EXIT_OUT_OF_TIME = 124

#: Seconds between two looks at the workers and the run folders.
POLL_S = 0.2

#: Seconds that runs have to save their state when the time is over, before they are killed.
PATIENCE_S = 60.0

#: Imported once, before the first worker is forked. The server ignores those that are not installed.
PRELOAD = (
    "sweeps.launch",
    "sweeps.preload",
    "repro.training.run",
    "repro.tracker.mirror",
    "wandb.sdk.launch.inputs.internal",
    "requests",
    "PIL.Image",
    "pandas",
    "torch.fx.experimental.symbolic_shapes",
    "torch.nested._internal.nested_tensor",
    "safetensors.torch",
)


@dataclass
class Outcome:
    """How a call of :func:`launch` ended: run_id -> why, of the runs that are done, failed and so on.

    Attributes:
        skipped: they need a run that is not done.
        changed: a different version of the code made them, and they were left alone.
        spared: nothing needs them that is not done.
        stopped_by: the signal that ended the call early, or ``None``.
        out_of_time: whether its time was over with runs left.
    """

    done: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    spared: dict[str, str] = field(default_factory=dict)
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


def start_server() -> ForkServerContext:
    """Start the process that workers are forked from, unless it runs already, and return how to fork them.

    It needs some seconds for its imports, while this process continues; it ends with this process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    # Ctrl-C at a terminal reaches it too, and must not end its imports in a traceback. Whoever ignores a signal has children that do.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    multiprocessing.forkserver.ensure_running()
    signal.signal(signal.SIGINT, before)
    return context


def train(overrides: Sequence[str]) -> int:
    """Train the run as ``python -m repro`` does, and return its exit code."""
    from repro.config.compose import compose
    from repro.training.run import execute

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    return exit_code_of(lambda: print(execute(compose(overrides))))


def _enter(worker: Worker, overrides: Sequence[str], log: Path, sharing: int) -> None:
    """Be a worker process, one of ``sharing`` at a time: write to ``log``, run ``worker``, and end with its exit code."""
    # Out of the terminal's foreground group: Ctrl-C reaches the planner, which asks the workers to save and stop, once.
    os.setpgid(0, 0)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(file, stream)
    # If they train on a GPU, it is the same one.
    os.environ[GPU_SHARE] = str(sharing)
    sys.exit(worker(overrides))


def launch(
    plan: Plan,
    *,
    jobs: int,
    retry: bool = False,
    settings: Sequence[str] = (),
    deadline: float = math.inf,
    changed_code: str = "refuse",
    worker: Worker = train,
) -> Outcome:
    """Train every run of ``plan`` that is not done, ``jobs`` at a time, inputs before their readers, and return how it went.

    Lost and preempted runs resume from their checkpoints. A run that failed before is left alone unless ``retry``. A run that another
    process is training is waited for. On SIGINT, SIGTERM or SIGHUP the workers are asked to save their state and stop; a second signal
    kills them. At ``deadline`` (of :func:`time.monotonic`) nothing more begins, and the workers have :data:`PATIENCE_S` seconds to save
    and stop. ``settings`` are those of each run's execution, such as ``exec.device=cuda``; ``changed_code`` (refuse, retrain, accept)
    says what becomes of runs that a different version of the code made.
    """
    (plan.folder / "logs").mkdir(parents=True, exist_ok=True)
    queue = _Queue(plan, jobs, retry, settings, changed_code, worker)
    with stop_signals(STOP_SIGNALS) as received, queue.bar:
        queue.work(received, deadline)
    queue.outcome.stopped_by = received[0] if received else None
    return queue.outcome


@dataclass
class _Queue:
    plan: Plan
    jobs: int
    retry: bool
    settings: Sequence[str]
    changed_code: str
    worker: Worker

    def __post_init__(self) -> None:
        runs = self.plan.runs
        self.context = start_server()
        self.folder = self.plan.folder.resolve()
        self.outcome = Outcome()
        self.running: dict[str, ForkServerProcess] = {}
        self.began: dict[str, float] = {}
        self.elsewhere: set[str] = set()
        self.order = TopologicalSorter({name: run.inputs for name, run in runs.items()})
        self.order.prepare()
        self.ready = list(self.order.get_ready())
        # What is done already is counted first.
        self.turn = {name: (run.state != "done", index) for index, (name, run) in enumerate(runs.items())}
        self.epochs = {name: int(run.fields["optim.epochs"]) for name, run in runs.items()}
        self.ended_epochs = 0
        self.bar: tqdm[Any] = tqdm(total=sum(self.epochs.values()), unit="epoch", disable=None, dynamic_ncols=True)

    def work(self, received: list[int], deadline: float) -> None:
        """Start and watch workers until nothing is left; after a signal in ``received`` or the ``deadline`` until they have stopped."""
        asked = 0
        while self.ready or self.running or self.elsewhere:
            late_s = time.monotonic() - deadline
            self.outcome.out_of_time = late_s >= 0 and not received
            wanted = len(received) + (late_s >= 0) + (late_s >= PATIENCE_S)
            if wanted > asked:
                self._stop(signal.SIGKILL if asked else signal.SIGTERM)
                asked = wanted
            if asked and not self.running:
                return
            while self.ready and len(self.running) < self.jobs and not asked:
                name = min(self.ready, key=self.turn.__getitem__)
                self.ready.remove(name)
                self._begin(name)
            self._wait(stopping=asked > 0)

    def _stop(self, number: signal.Signals) -> None:
        self._say(f"stopping: {len(self.running)} runs save their state; the same command resumes. A second Ctrl-C kills them.")
        for process in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.ident or 0, number)

    def _begin(self, name: str) -> None:
        """Start the run, unless it needs no training or cannot be trained; hours may have passed since the plan was made."""
        run, state = self.plan.runs[name], planned_state(self.folder / name)
        changed = run.changed and self.changed_code != "accept"
        missing = next((other for other in run.inputs if other not in self.outcome.done), None)
        # A run of another machine may be done without a folder here (sweeps.plan.with_evidence).
        if (state == "done" or (run.state, state) == ("done", "missing")) and not changed:
            self._end(name, "done")
        elif name in self.plan.spared:
            self._end(name, "spared")
        elif missing:
            self._end(name, "skipped", f"its input {missing} is not done")
        elif state == "running":
            self.elsewhere.add(name)
        elif changed and self.changed_code == "refuse":
            self._end(name, "changed", "a different version of the code made it")
        elif state in ("failed", "corrupted") and not self.retry:
            self._end(name, "failed", f"{corruption(self.folder / name) or self._last_error(name)} --retry tries it again.")
        else:
            if state == "corrupted":
                requeue(self.folder / name)
            self._start(name)

    def _start(self, name: str) -> None:
        # A resumed run repeats its bits only with the number of threads that it began with.
        threads = try_read(self.folder / name / "provenance.json", "threads") or max(1, _num_cores() // self.jobs)
        execution = [override("paths.runs", str(self.folder)), f"exec.threads={threads}", f"exec.on_changed_code={self.changed_code}"]
        overrides = [*self.plan.runs[name].overrides, *execution, *self.settings]
        sharing = min(self.jobs, 1 + len(self.running) + len(self.ready))
        process = self.context.Process(target=_enter, args=(self.worker, overrides, self._log(name), sharing), name=name)
        try:
            process.start()
        except (OSError, EOFError):
            self._end(name, "failed", "the server that runs are forked from was killed; the same command trains it")
        else:
            self.running[name], self.began[name] = process, time.monotonic()

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def _wait(self, *, stopping: bool) -> None:
        self.bar.n = self.ended_epochs + sum(try_read(self.folder / name / "status.json", "epoch") or 0 for name in self.running)
        self.bar.refresh()
        multiprocessing.connection.wait([process.sentinel for process in self.running.values()], timeout=POLL_S)
        for name, code in [(name, process.exitcode) for name, process in self.running.items()]:
            if code is not None:
                del self.running[name]
                self._ended(name, code, stopping=stopping)
        # What has ended elsewhere is done, failed, or left to be taken over.
        free = [name for name in self.elsewhere if planned_state(self.folder / name) != "running"]
        self.elsewhere.difference_update(free)
        self.ready += free

    def _ended(self, name: str, code: int, *, stopping: bool) -> None:
        state = planned_state(self.folder / name)
        if state == "done" and (code == 0 or not self.plan.runs[name].changed):
            self._end(name, "done", f"in {time.monotonic() - self.began[name]:.0f} s")
        elif state == "failed":
            self._end(name, "failed", self._last_error(name))
        elif stopping:
            pass
        elif state == "running":
            # Whoever trains it was quicker.
            self.elsewhere.add(name)
        elif code < 0:
            self._end(name, "failed", f"killed by {signal.Signals(-code).name}; the same command resumes from its last checkpoint")
        else:
            words = self._log(name).read_text(errors="replace").split()[-30:]
            message = " ".join(words) or "it could log nothing; is the disk full?"
            self._end(name, "failed", f"exit code {code}: {message} (see {self._log(name)})")

    def _last_error(self, name: str) -> str:
        return str(try_read(self.folder / name / "status.json", "error") or "its status.json cannot be read")

    def _end(self, name: str, how: str, why: str = "") -> None:
        """Note that nothing more is done about a run, so that its readers are looked at."""
        vars(self.outcome)[how][name] = why
        self.ended_epochs += self.epochs[name]
        self.order.done(name)
        self.ready += self.order.get_ready()
        if why:
            run = self.plan.runs[name]
            self._say(f"[{len(self.outcome.done)}/{len(self.plan.runs)}] {how}: {run.place} ({name}): {why}")

    def _say(self, line: str) -> None:
        self.bar.write(line, file=sys.stderr)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
