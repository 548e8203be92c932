"""No file of a run is read as anything else than what the run wrote: a reader names it and uses nothing of it; a resume names it, and makes
it again where the checkpoint knows what it was."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from real_runs import results, stopped, tiny

from repro.config.identity import run_id
from repro.errors import UserError
from repro.labels.trajectory import open_trajectory
from repro.runs.manifest import verify
from repro.runs.state import read_state, requeue
from repro.tracker.contents import Contents
from repro.training.run import execute

COMMON = ("noise=uniform", "noise.rate=0.4", "optim.epochs=2", "optim.batch_size=256", "exec.checkpoint_interval_s=0")
LEARNED = ("method=instance_labels", "method.learning_rate=500")


def train(runs: Path, *more: str) -> Path:
    return execute(tiny(runs, *COMMON, *more))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("finished"), *LEARNED)


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, stopped in its second epoch."""
    return stopped(tiny(tmp_path_factory.mktemp("stopped"), *COMMON, *LEARNED), epoch=1, batch=3)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    # The middle of a manifest may belong to a file that a reader does not need.
    content[0 if path.name == "manifest.json" else len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def again(folder: Path) -> None:
    train(folder.parent, *LEARNED)


def replay(folder: Path) -> None:
    train(folder.parent, "method=replay", f"inputs.labels=[{folder.name}]")


def distillation(folder: Path) -> None:
    train(folder.parent, "method=distillation", f"inputs.teacher={folder.name}")


def trajectory(folder: Path) -> None:
    open_trajectory(folder / "labels")


def mirror(folder: Path) -> None:
    contents = Contents(folder)
    contents.metrics()
    contents.summary()


SMALL = ("identity.json", "final.json", "manifest.json")
LABELS = ("labels/layout.json", "labels/indices.i64", "labels/instances.f16")
READERS: dict[Callable[[Path], None], tuple[str, ...]] = {
    again: (*SMALL, *LABELS, "provenance.json", "cost.json", "config.yaml", "metrics.jsonl", "model.safetensors"),
    replay: (*SMALL, *LABELS),
    distillation: (*SMALL, "model.safetensors"),
    trajectory: (*LABELS, "manifest.json"),
    mirror: ("identity.json", "final.json", "config.yaml", "provenance.json", "metrics.jsonl", "manifest.json"),
}


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize(("reader", "file"), [(reader, file) for reader, files in READERS.items() for file in files])
def test_a_corrupted_file_is_named(
    finished: Path, tmp_path: Path, reader: Callable[[Path], None], file: str, damage: Callable[[Path], object]
) -> None:
    folder = tmp_path / finished.name
    shutil.copytree(finished, folder)
    damage(folder / file)
    with pytest.raises(UserError) as caught:
        reader(folder)
    # A manifest with another sha256 can also show as a file that it does not fit.
    assert folder.name in str(caught.value)
    assert file == "manifest.json" or Path(file).name in str(caught.value)
    assert all(path.parent == folder for path in tmp_path.glob("*/final.json")), "something was trained with it"


def test_a_status_that_says_done_is_not_enough(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / finished.name
    shutil.copytree(finished, folder)
    (folder / "final.json").unlink()
    (folder / "manifest.json").unlink()
    assert read_state(folder) == "corrupted"
    for reader in (again, replay):
        with pytest.raises(UserError):
            reader(folder)
    # Put back into the queue, it is trained again, and ends in the same results.
    assert requeue(folder)
    again(folder)
    assert (results(folder), verify(folder)) == (results(finished), [])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("file", ["checkpoint.pt", "checkpoint.previous.pt", "metrics.jsonl", "labels/instances.f16"])
def test_a_resume_makes_again_what_the_checkpoint_knows(
    finished: Path, unfinished: Path, tmp_path: Path, file: str, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / run_id(tiny(tmp_path, *COMMON, *LEARNED))
    shutil.copytree(unfinished, folder)
    damage(folder / file)
    if file == "checkpoint.previous.pt":
        # It is looked at when the newest one cannot be used.
        flip(folder / "checkpoint.pt")
    if file == "labels/instances.f16":
        # An epoch of labels that is not there as it was written cannot be made again from a checkpoint.
        with pytest.raises(UserError, match=rf"{folder / file}: .* the checkpoint knows"):
            again(folder)
        assert read_state(folder) == "failed"
        return
    again(folder)
    assert str(folder / file) in caplog.text or not file.startswith("checkpoint") or damage is Path.unlink
    assert (results(folder), verify(folder)) == (results(finished), [])
