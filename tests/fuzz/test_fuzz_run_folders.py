"""Run folders whose files are cut, flipped, emptied or swapped: whoever reads one names what is wrong, or finds what was written."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_runs import stopped, tiny

from analysis.reading.runs import read_record
from repro.errors import UserError
from repro.labels.trajectory import open_trajectory
from repro.runs.folder import FinishedError, RunFolder
from repro.runs.inputs import open_inputs
from repro.runs.manifest import verify
from repro.runs.state import FOLDER_STATES, TrainedElsewhereError, corruption, read_state, read_status, requeue
from repro.tracker.contents import Contents
from repro.training.run import execute

pytestmark = pytest.mark.slow

#: Damaged folders that are read, each by every reader.
COUNT = 3_000

SETTINGS = ("noise=uniform", "noise.rate=0.4", "optim.epochs=2", "optim.batch_size=512", "exec.checkpoint_interval_s=0")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return execute(tiny(tmp_path_factory.mktemp("done"), *SETTINGS, "method=instance_labels"))


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopped(tiny(tmp_path_factory.mktemp("stopped"), *SETTINGS, "method=instance_labels"), epoch=1, batch=1)


def damaged(content: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Return ``content`` with one random damage."""
    place = chance.randrange(len(content) or 1)
    flipped = bytearray(content or b"\0")
    flipped[place] ^= 1 << chance.randrange(8)
    inserted = content[:place] + chance.randbytes(chance.randrange(1, 40)) + content[place:]
    return chance.choice([content[:place], bytes(flipped), b"", chance.choice(others), inserted, bytes(len(content))])


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"}


def test_every_reader_names_what_is_corrupted_or_finds_what_was_written(finished: Path) -> None:
    config = tiny(finished.parent, *SETTINGS, "method=replay", f"inputs.labels=[{finished.name}]")

    def labels() -> Any:
        trajectory = open_trajectory(finished / "labels")
        return [trajectory.block(epoch).tobytes() for epoch in range(trajectory.epochs)]

    def table() -> Any:
        record = read_record(finished)
        if record["status"]["state"] != "done":
            raise UserError(f"{finished.name}: {record}")
        return {name: value for name, value in record.items() if name != "status"}

    def mirror() -> Any:
        contents = Contents(finished)
        return contents.metrics(), contents.summary(), contents.config

    readers: dict[str, Callable[[], Any]] = {
        "labels": labels,
        "table": table,
        "mirror": mirror,
        "inputs": lambda: open_inputs(config).all[0].fields,
    }
    expected = {name: read() for name, read in readers.items()}
    chance, counts, whole = random.Random(0), Counter[str](), files_of(finished)
    for number in range(COUNT):
        path = chance.choice(list(whole))
        path.write_bytes(damaged(whole[path], list(whole.values()), chance))
        for name, read in readers.items():
            message, found = "", None
            try:
                found = read()
            except UserError as error:
                message = str(error)
            assert found == expected[name] or finished.name in message, (number, path.name, name)
            counts["named" if message else "as written"] += 1
        verify(finished)
        path.write_bytes(whole[path])
    assert min(counts["as written"], counts["named"]) > COUNT / 10


def test_nothing_that_lies_in_an_unfinished_folder_ends_a_look_at_it(unfinished: Path) -> None:
    chance, whole = random.Random(1), files_of(unfinished)
    for number in range(COUNT):
        path = chance.choice(list(whole))
        path.write_bytes(damaged(whole[path], list(whole.values()), chance))
        state = read_state(unfinished)
        assert state in FOLDER_STATES
        assert (corruption(unfinished) is None) == (state != "corrupted")
        read_status(unfinished)
        if number % 20 == 0:
            requeue(unfinished)
            try:
                with RunFolder(unfinished, heartbeat_s=1000, epochs=2).acquire() as folder:
                    folder.end("failed")
            except (FinishedError, TrainedElsewhereError):
                pass
            for other, content in whole.items():
                assert other in (path, unfinished / "status.json") or other.read_bytes() == content, f"{other} was lost"
        for other in (path, unfinished / "status.json"):
            other.write_bytes(whole[other])
