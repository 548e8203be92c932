"""Run folders whose files are cut, flipped, emptied or swapped: whoever reads one names what is wrong, or finds what was written."""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from metric_rows import read_metrics

from analysis.reading.runs import read_curves, read_run
from repro.config.compose import compose
from repro.errors import Interrupted, UserError
from repro.files import peek
from repro.labels.trajectory import open_trajectory
from repro.runs.folder import FinishedError, RunFolder
from repro.runs.inputs import open_inputs
from repro.runs.state import FOLDER_STATES, note_failure, read_state, read_status, requeue
from repro.tracker.contents import Contents
from repro.training.loop import Training
from repro.training.monitor import Monitor
from repro.training.run import execute
from sweeps.local.progress import last_row
from sweeps.local.verify import verify
from sweeps.local.worker import last_error, threads_before
from sweeps.plan.plan import planned_state

pytestmark = pytest.mark.slow

#: Damaged folders that are read, each by every reader.
COUNT = 7_000

SETTINGS = ["method=instance_labels", "dataset=digits", "seed=0", "noise=uniform", "noise.rate=0.4", "optim.epochs=2", "model.width=4"]
SETTINGS += ["optim.batch_size=512", "tracker=none", "exec.threads=1", "exec.device=cpu", "exec.checkpoint_interval_s=0"]

ODD: tuple[Any, ...] = (None, True, 0, -1, 1e308, 10**30, [], {}, [[]], {"a": {}})
ODD += ("", "NaN", "done", "running", "2025-13-01", "\x00", "é" * 300)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run and the same one stopped in its second epoch."""
    runs = tmp_path_factory.mktemp("runs")
    done = execute(compose([*SETTINGS, f"paths.runs={runs / 'done'}"]))
    before = Monitor.between_steps

    def between_steps(self: Monitor, training: Training) -> None:
        if (training.epoch, training.batch) == (1, 2):
            self._requests.append(15)
        before(self, training)

    config = compose([*SETTINGS, f"paths.runs={runs / 'stopped'}"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Monitor, "between_steps", between_steps)
        with pytest.raises(Interrupted):
            execute(config)
    return done, runs / "stopped" / done.name


def reads(folder: Path) -> dict[str, Callable[[], Any]]:
    """Return everything that looks at a run folder, as what it finds there."""
    config = compose(["method=replay", *SETTINGS[1:], f"inputs.labels=[{folder.name}]", f"paths.runs={folder.parent}"])

    def table() -> Any:
        run = read_run(folder)
        if not run.done:
            raise UserError(f"{run.run_id}: {run.problem}")
        return run.final, run.fields, run.cost, read_curves(run, ("test/accuracy", "label/entropy"))

    def labels() -> Any:
        trajectory = open_trajectory(folder / "labels")
        return [trajectory.block(epoch).tobytes() for epoch in range(trajectory.epochs)]

    def mirror() -> Any:
        contents = Contents(folder)
        return contents.rows(), contents.results(), contents.config

    def inputs() -> Any:
        return open_inputs(config).all[0].fields

    def state() -> Any:
        found = read_state(folder)
        assert found in FOLDER_STATES
        return found

    return {"table": table, "labels": labels, "mirror": mirror, "inputs": inputs, "state": state}


def glances(folder: Path) -> None:
    """Look at the folder as commands do that show how far runs are; what they find may be wrong, but they must not end in an error."""
    planned_state(folder)
    read_metrics(folder)
    last_row(folder)
    last_error(folder)
    threads_before(folder)
    read_status(folder)
    peek(folder / "cost.json", "gpu_hours")
    verify(folder)


def damaged_bytes(content: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Return ``content`` with one random damage."""
    kind = chance.randrange(8)
    place = chance.randrange(len(content) or 1)
    if kind == 0:
        return content[:place]
    if kind == 1:
        flipped = bytearray(content or b"\0")
        flipped[place] ^= 1 << chance.randrange(8)
        return bytes(flipped)
    if kind == 2:
        return b""
    if kind == 3:
        return chance.choice(others)
    if kind == 4:
        return content[:place] + chance.randbytes(chance.randrange(1, 40)) + content[place:]
    if kind == 5:
        return bytes(len(content))
    return json_damage(content, chance)


def json_damage(content: bytes, chance: random.Random) -> bytes:
    """Return a JSON text with one value replaced, one key missing, or one line of several changed; other content with its end cut."""
    text = content.decode("utf-8", "replace")
    lines = text.splitlines()
    try:
        if len(lines) > 1 and lines[0].startswith('{"'):
            index = chance.randrange(len(lines))
            lines[index] = json.dumps(changed(json.loads(lines[index]), chance))
            return ("\n".join(lines) + "\n").encode()
        return json.dumps(changed(json.loads(text), chance)).encode()
    except ValueError:
        return content[:-1]


def changed(value: Any, chance: random.Random) -> Any:
    """Return ``value`` with one part of it replaced or missing."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(sorted(value))
        if chance.random() < 0.3:
            return {name: item for name, item in value.items() if name != key}
        return value | {key: changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        index = chance.randrange(len(value))
        return [*value[:index], changed(value[index], chance), *value[index + 1 :]]
    return chance.choice(ODD)


def test_every_reader_names_what_is_damaged_or_finds_what_was_written(folders: tuple[Path, Path]) -> None:
    chance, counts = random.Random(0), Counter[str]()
    for folder in folders:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
        whole = {path: path.read_bytes() for path in files}
        readers = reads(folder)
        expected: dict[str, Any] = {}
        for name, read in readers.items():
            try:
                expected[name] = read()
            except UserError:
                expected[name] = UserError
        for number in range(COUNT // 2):
            path = chance.choice(files)
            damaged = damaged_bytes(whole[path], [whole[other] for other in files], chance)
            path.write_bytes(damaged)
            for name, read in readers.items():
                error, found = "", None
                try:
                    found = read()
                except UserError as raised:
                    error = str(raised)
                if error:
                    assert folder.name in error, (number, path.name, name, error)
                    counts["named"] += 1
                else:
                    # Nobody can check what an unfinished run has written so far; its state is what status.json says.
                    assert folder != folders[0] or name == "state" or found == expected[name], (number, path.name, name)
                    counts["as written"] += 1
            glances(folder)
            if number % 20 == 0:
                requeue(folder)
                note_failure(folder, "a test")
                finished = read_state(folder) == "done"  # the damage was none, or no state is read from that file
                refused = pytest.raises(FinishedError) if finished else contextlib.nullcontext()
                with refused, RunFolder(folder).hold(heartbeat_s=1000, epochs=2):
                    counts["held"] += 1
                for other, content in whole.items():
                    if other != path and other.name not in ("status.json", "lease.json", "manifest.json"):
                        assert other.read_bytes() == content, f"{other} was lost"
            for other, content in whole.items():
                if number % 20 == 0 or other == path:
                    other.write_bytes(content)
            counts["inputs"] += 1
    print(dict(counts))
    assert counts["inputs"] >= COUNT
