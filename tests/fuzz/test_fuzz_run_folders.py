"""Run folders whose files are cut, flipped, emptied or swapped: whoever reads one names what is wrong, or finds what was written."""

import contextlib
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_runs import read_metrics, stopped, tiny

from analysis.reading.runs import read_curves, read_run
from repro.errors import UserError
from repro.files import peek
from repro.labels.trajectory import open_trajectory
from repro.runs.folder import FinishedError, RunFolder
from repro.runs.inputs import open_inputs
from repro.runs.state import FOLDER_STATES, note_failure, read_state, read_status, requeue
from repro.tracker.contents import Contents
from repro.training.run import execute
from sweeps.local.progress import last_row
from sweeps.local.verify import verify
from sweeps.local.worker import last_error, threads_before
from sweeps.plan.plan import planned_state
from tests.fuzz.test_fuzz_specs import change_tree

pytestmark = pytest.mark.slow

#: Damaged folders that are read, each by every reader.
COUNT = 7_000

SETTINGS = ("noise=uniform", "noise.rate=0.4", "optim.epochs=2", "optim.batch_size=512", "exec.checkpoint_interval_s=0")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run and the same one stopped in its second epoch."""
    runs = tmp_path_factory.mktemp("runs")
    done = execute(tiny(runs / "done", *SETTINGS, "method=instance_labels"))
    return done, stopped(tiny(runs / "stopped", *SETTINGS, "method=instance_labels"), epoch=1, batch=2)


def reads(folder: Path) -> dict[str, Callable[[], Any]]:
    """Return everything that looks at a run folder, as what it finds there."""
    config = tiny(folder.parent, *SETTINGS, "method=replay", f"inputs.labels=[{folder.name}]")

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
    """Return a JSON text with some values changed, or one line of several; other content with its end cut."""
    lines = content.decode("utf-8", "replace").splitlines()
    index = chance.randrange(len(lines)) if lines and lines[0].startswith('{"') else None
    try:
        if index is None:
            return json.dumps(change_tree(json.loads(content), chance)).encode()
        lines[index] = json.dumps(change_tree(json.loads(lines[index]), chance))
        return ("\n".join(lines) + "\n").encode()
    except ValueError:
        return content[:-1]


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
                # An attempt adds what the one before cost, or begins anew where no manifest says what that is.
                for other, content in whole.items():
                    if other != path and other.name not in ("status.json", "lease.json", "manifest.json", "cost.json"):
                        assert other.read_bytes() == content, f"{other} was lost"
            for other, content in whole.items():
                if number % 20 == 0 or other == path:
                    other.write_bytes(content)
            counts["inputs"] += 1
    print(dict(counts))
    assert counts["inputs"] >= COUNT
