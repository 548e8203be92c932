"""What to do with a rented GPU: check its numbers, measure, train until the time is over, and leave evidence that can be mailed.

``python benchmarks/rent.py --minutes 10 --spec table1``; docs/gpu.md says what to bring and what comes out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, and not installed

from benchmarks.rent_evidence import ARCHIVE, check_data, models, pack, progress, project
from benchmarks.rent_journal import Journal
from benchmarks.rent_options import execution, parser, sweep_command
from benchmarks.rent_steps import POLL_S, ROOT, Ended, Shares, ask_twice, describe_machine, divide, run_for, start
from repro.errors import EXIT_USER_ERROR, UserError
from repro.files import read_json, write_json
from repro.lock import HeldError, hold
from repro.rundir import now
from sweeps.cost import ASSUMED_TFLOPS, estimate
from sweeps.local import EXIT_OUT_OF_TIME, STOP_SIGNALS
from sweeps.plan import Plan, make_plan, write_plans
from sweeps.scale import load_scale
from sweeps.selection import check_execution, in_turn, select
from sweeps.spec import load_spec

#: Seconds after its end and its patience at which a sweep that is still there, such as one that began slowly, is stopped.
OVERDUE_S = 15.0

#: Seconds between two notes of how far the runs are.
NOTE_S = 10.0


class Rent(Journal):
    """One call: its time, its plan and its steps."""

    def __init__(self, chosen: argparse.Namespace, plan: Plan, began: float) -> None:
        super().__init__(Path(chosen.out).resolve(), began, {"schema": 1, "state": "running", "started": now(), "minutes": chosen.minutes})
        self.shares: Shares = divide(chosen.minutes, chosen.skip)
        self._chosen = chosen
        self._plan = plan
        self._received: list[int] = []
        self._packed: tuple[float, int] = (-math.inf, -1)
        self._wrong = False

    def _left(self) -> float:
        """Return the seconds until runs are asked to stop."""
        return self.shares.total - self.shares.reserve - self.now()

    def _stopped(self) -> bool:
        return bool(self._received)

    # -- the call --------------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Do it all and return the exit code: 0; 1 when something was wrong; 128 + N after signal N."""
        earlier = self._begin()
        before = {number: signal.signal(number, self._note_signal) for number in STOP_SIGNALS}
        try:
            return self._work(earlier)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _work(self, earlier: dict[str, Any]) -> int:
        trusted = self._numerics(earlier)
        self._measure(earlier)
        if trusted or self._chosen.train_anyway:
            self._train()
        else:
            self.say("NO TRAINING, since the golden tests fail here: see numerics.log. --train-anyway trains all the same.")
            self.note(training={"state": "left out: numerics"})
        self.note(progress=progress(self._plan), projection=project(self._plan, self._chosen.jobs))
        for item in self.summary["projection"]:
            self.say(
                f"{item['kind']}: {item['epoch_s']} s an epoch (median of {item['epochs_measured']}), {item['minutes_per_run']} min a run, "
                f"{item['runs_left']} left: {item['minutes_left']} min with {self._chosen.jobs} side by side"
            )
        self.note(state="stopped" if self._received else "ended", wrong=self._wrong)
        size = self._pack()
        if size:
            self.say(f"evidence: {self.out / ARCHIVE} ({size / 1e6:.2f} MB), no weights and no trajectories; the same command goes on")
        return 128 + self._received[0] if self._received else int(self._wrong)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)

    def _begin(self) -> dict[str, Any]:
        """Say what will be done, and return the summary of the call before if it was on this machine with this code."""
        path = self.out / "summary.json"
        before: dict[str, Any] = {}
        if path.exists():
            before = dict(read_json(path))
            (self.out / "earlier").mkdir(exist_ok=True)
            os.replace(path, self.out / "earlier" / f"summary-{before['started'].replace(':', '')}.json")
        # Before anything else is noted: a machine that cannot be described is noted as that.
        self.note(command=[str(word) for word in sys.argv[1:]])
        try:
            machine = describe_machine(self._chosen.device)
        except RuntimeError as error:
            raise UserError(f"PyTorch does not work here: {error}.") from error
        self.note(machine=machine, progress=progress(self._plan), device=self._chosen.device)
        if self._chosen.device == "cuda" and not machine["gpu"]:
            raise UserError("PyTorch finds no CUDA GPU here. Check the driver with nvidia-smi; --device cpu rehearses without a GPU.")
        there = machine["gpu"] if self._chosen.device == "cuda" else f"no GPU, {machine['cores']} processors: a rehearsal"
        self.say(f"{there}; torch {machine['torch']}, CUDA {machine['cuda']}; code {machine['git']['sha'] or 'without git'}")
        self._say_plan()
        same = before.get("machine") == machine and before.get("device") == self._chosen.device
        return before if same and not self._chosen.again else {}

    def _say_plan(self) -> None:
        shares, chosen = self.shares, self._chosen
        counts = self.summary["progress"]
        left = [run for run in self._plan.runs.values() if run.run_id not in counts["done"]]
        costs = estimate(self._plan, tflops=ASSUMED_TFLOPS)
        hours = sum(costs[run.run_id].gpu_hours or 0.0 for run in left)
        self.say(f"runs: {counts['runs']} planned, {len(counts['done'])} done, {len(counts['begun'])} begun, {counts['missing']} not begun")
        self.say(f"those not done: {hours:.2f} GPU-hours by the plan's estimate (at {ASSUMED_TFLOPS:g} TFLOP/s where nothing is measured)")
        self.say(f"numerics: at most {shares.numerics:.0f} s; measurements: at most {shares.measure:.0f} s")
        train = shares.total - shares.reserve - shares.numerics - shares.measure - self.now()
        self.say(
            f"training: at least {train:.0f} s, {chosen.jobs} at a time; runs stop {shares.reserve:.0f} s before the end; then packing"
        )
        for run in left[:5]:
            self.say(f"  next: {run.place} ({run.run_id}, {run.state})")

    # -- numerics and measurements ---------------------------------------------------------------------------------------------

    def _numerics(self, earlier: dict[str, Any]) -> bool:
        """Run the golden tests on the device, and say whether to train: they did not fail."""
        if "numerics" in self._chosen.skip:
            self.note(numerics={"state": "skipped"})
            return True
        if earlier.get("numerics", {}).get("state") == "ok":
            self.say("numerics: ok in an earlier call with this machine and code; --again repeats them")
            self.note(numerics=earlier["numerics"])
            return True
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/golden"]
        device = {"REPRO_TEST_DEVICE": self._chosen.device}
        log = self.out / "numerics.log"
        ended = self._call("numerics", command, min(self.shares.numerics, self._left()), log, more=device, folder=ROOT)
        self.note(numerics={"state": ended.state, "code": ended.code, "seconds": round(ended.seconds, 1), "device": self._chosen.device})
        return ended.state != "failed"

    def _measure(self, earlier: dict[str, Any]) -> None:
        """Run the measurements that there are, each with its share of the time; a failure is noted and stops nothing."""
        if "measure" in self._chosen.skip:
            self.note(measurements={})
            return
        folder = Path(self._chosen.scripts)
        networks, device = self._models(), ["--device", self._chosen.device]
        named = {f"step-{name}": ["step.py", "--model", name, *device] for name in networks}
        if networks:
            named["throughput"] = ["throughput.py", "--model", networks[0], *device]
        ends = min(self.now() + self.shares.measure, self.shares.total - self.shares.reserve)
        results: dict[str, Any] = {}
        for index, (name, words) in enumerate(named.items()):
            share = (ends - self.now()) / (len(named) - index)
            results[name] = self._measurement(name, folder / words[0], words[1:], share, earlier)
            self.note(measurements=results)

    def _models(self) -> list[str]:
        return models(self._plan, self.summary["progress"]["done"])

    def _measurement(self, name: str, script: Path, words: list[str], seconds: float, earlier: dict[str, Any]) -> dict[str, Any]:
        path = self.out / "measure" / f"{name}.json"
        before = earlier.get("measurements", {}).get(name, {})
        if before.get("state") == "ok" and path.exists():
            self.say(f"{name}: measured in an earlier call with this machine and code; --again repeats it")
            return dict(before)
        if not script.exists() or self._stopped():
            self.say(f"{name}: there is no {script}" if not self._stopped() else f"{name}: left out")
            return {"state": "not there" if not self._stopped() else "stopped"}
        path.unlink(missing_ok=True)
        printed = path.with_suffix(".printed.log")
        printed.unlink(missing_ok=True)
        ended = self._call(name, [sys.executable, str(script), *words, "--json"], seconds, path.with_suffix(".log"), out=printed)
        state = ended.state
        if state == "ok":
            try:
                write_json(path, json.loads(printed.read_text()))
            except ValueError:
                state, self._wrong = "failed: what it printed is no JSON", True
                self.say(f"{name}: FAILED, what it printed is no JSON: {printed}")
        return {"state": state, "code": ended.code, "seconds": round(ended.seconds, 1)}

    def _call(
        self,
        name: str,
        command: list[str],
        seconds: float,
        log: Path,
        *,
        out: Path | None = None,
        more: dict[str, str] | None = None,
        folder: Path | None = None,
    ) -> Ended:
        self.say(f"{name}: begins, at most {max(0.0, seconds):.0f} s")
        ended = run_for(command, seconds, out=out or log, errors=log, stopped=self._stopped, more=more, folder=folder)
        wrong = ended.state in ("failed", "out of time")
        self._wrong |= wrong
        self.say(
            f"{name}: {ended.state.upper() if wrong else ended.state} after {ended.seconds:.1f} s" + (f" (see {log})" if wrong else "")
        )
        return ended

    # -- training --------------------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        """Train what is missing until the time is over; the runs save their state and stop."""
        seconds = self._left()
        if seconds <= 0 or self._stopped():
            self.note(training={"state": "stopped" if self._received else "left out: no time"})
            self.say("training: left out, " + ("stopped" if self._received else "no time is left"))
            return
        log = self.out / "train.log"
        self.say(f"training: begins, for {seconds:.0f} s (see {log})")
        began = self.now()
        process = start(sweep_command(self._chosen, self._plan.folder, seconds, self.shares.patience), out=log, errors=log)
        try:
            self._watch(process, began + seconds + self.shares.patience + OVERDUE_S)
        finally:
            # Whatever goes wrong here, no run stays on the GPU.
            if process.poll() is None:
                ask_twice(process)
        code = process.returncode
        # Overdue, it was stopped by this call.
        stopped = "stopped" if self._received else "time over"
        good = {0: "all done", EXIT_OUT_OF_TIME: "time over", 128 + signal.SIGTERM: stopped, -signal.SIGTERM: stopped}
        state = good.get(code, "some runs failed" if code == 1 else f"failed with exit code {code}")
        self._wrong |= code not in good
        self.note(training={"state": state, "code": code, "seconds": round(self.now() - began, 1)}, progress=progress(self._plan))
        done = len(self.summary["progress"]["done"])
        self.say(f"training: {state} after {self.now() - began:.1f} s, {done} of {len(self._plan.runs)} runs done")
        for run in self.summary["progress"]["begun"]:
            why = f": {run['error']}" if run["error"] else ""
            self.say(f"  {run['state']} after {run['epoch']} of {run['epochs']} epochs: {run['place']} ({run['run_id']}){why}")

    def _watch(self, process: subprocess.Popen[bytes], last: float) -> None:
        """Note how far the runs are until the sweep has ended; pass on that this call was asked to stop."""
        asked, noted = 0, -math.inf
        self.note(training={"state": "running"})
        while process.poll() is None:
            while asked < len(self._received):
                process.send_signal(signal.SIGTERM)
                asked += 1
            # It ends by itself; if it does not, its runs are killed.
            if self.now() > last:
                ask_twice(process)
            if self.now() - noted > NOTE_S:
                noted = self.now()
                self._note_progress()
            time.sleep(POLL_S)

    def _note_progress(self) -> None:
        """Note how far the runs are, and pack again when more are done, so that a machine that is taken away has left its evidence."""
        self.note(progress=progress(self._plan))
        done = len(self.summary["progress"]["done"])
        if done != self._packed[1] and self.now() - self._packed[0] > 6 * NOTE_S:
            self._pack()

    def _pack(self) -> int:
        try:
            size = pack(self._plan, self.out)
        except (UserError, OSError) as error:
            self._wrong = True
            self.say(f"PACKING FAILED: {error}")
            return 0
        self._packed = (self.now(), len(self.summary["progress"]["done"]))
        # Not in the archive: it holds the summary.
        self.note(evidence={"file": ARCHIVE, "bytes": size, "packed_after_s": round(self.now(), 1)})
        return size


def make_rent(chosen: argparse.Namespace, began: float) -> Rent:
    """Return the call, after its plan, its settings and its data have been checked.

    Raises:
        UserError: a mistake in the command line or a spec, data that are missing or damaged, a folder that cannot be written.
    """
    scale = load_scale(chosen.scale)
    plan = make_plan([load_spec(name, scale) for name in dict.fromkeys(chosen.spec)], Path(chosen.runs).resolve())
    if "numerics" not in chosen.skip and importlib.util.find_spec("pytest") is None:
        raise UserError("pytest, which the golden tests need, is not installed. Install it, or leave them out: --skip numerics.")
    if not plan.runs:
        raise UserError(f"{', '.join(chosen.spec)}: nothing to train, these specs need no runs.")
    write_plans(plan)
    plan = in_turn(select(plan, only=chosen.only, seeds=chosen.seeds), first=chosen.runs_first)
    check_execution(plan, execution(chosen))
    data = next((text.partition("=")[2] for text in reversed(chosen.overrides) if text.startswith("paths.data=")), None)
    names = {str(run.fields["dataset.name"]) for run in plan.runs.values() if run.state != "done"}
    check_data(names, Path(data or os.environ.get("REPRO_DATA", "data")))
    return Rent(chosen, plan, began)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    began = time.monotonic()
    chosen = parser().parse_args(arguments)
    out = Path(chosen.out)
    try:
        try:
            out.mkdir(parents=True, exist_ok=True)
            with hold(out / ".lock"):
                return make_rent(chosen, began).run()
        except HeldError as error:
            raise UserError(f"{out}: another call writes there. Wait for it, stop it, or give this one another --out.") from error
        except OSError as error:
            raise UserError(
                f"{error.filename or out}: {error.strerror or error}. The runs are intact; make room and call again."
            ) from error
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
