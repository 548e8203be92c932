"""No file of a run is read as anything else than what the run wrote: file by file, damage by damage, reader by reader.

A reader that finds a damaged file names the file and the run and uses nothing of it; a resume names it, and makes it anew where the
checkpoint knows what it was.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from real_runs import lasting_rows, stopped, tiny

from analysis.reading.runs import read_curves, read_run
from analysis.reading.store import write_store
from repro.config.identity import run_id
from repro.errors import UserError
from repro.labels.trajectory import open_trajectory
from repro.runs.state import read_state, requeue
from repro.tracker.contents import Contents
from repro.training.run import execute
from sweeps.local.verify import verify

COMMON = ("noise=uniform", "noise.rate=0.4", "optim.epochs=2", "optim.batch_size=256", "exec.checkpoint_interval_s=0")
LEARNED = ["method=instance_labels", "method.learning_rate=500"]


def train(runs: Path, *more: str) -> Path:
    return execute(tiny(runs, *COMMON, *more))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with a learned run of seed 0, a teacher, and both again with seed 1."""
    runs = tmp_path_factory.mktemp("finished")
    for seed in (0, 1):
        train(runs, *LEARNED, f"seed={seed}")
        train(runs, "method=one_hot", f"seed={seed}")
    return runs


def name_of(*more: str) -> str:
    return run_id(tiny(Path(), *COMMON, *more))


def flip(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def longer(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n{}\n")


def of_another_run(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


#: Every reader compares the size and sha256, so other bytes of the same number are one case, whatever they say.
DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "flipped bit": flip,
    "cut": cut,
    "longer": longer,
    "another run's": of_another_run,
    "empty": lambda path, other: path.write_bytes(b""),
    "deleted": lambda path, other: path.unlink(),
}


def again(runs: Path, name: str) -> None:
    train(runs, *LEARNED, "seed=0")


def replay(runs: Path, name: str) -> None:
    train(runs, "method=replay", "seed=0", f"inputs.labels=[{name}]")


def distillation(runs: Path, name: str) -> None:
    train(runs, "method=distillation", "seed=0", f"inputs.teacher={name}")


def table(runs: Path, name: str) -> None:
    run = read_run(runs / name)
    if not run.done:
        raise UserError(run.problem)


def curves(runs: Path, name: str) -> None:
    table(runs, name)
    read_curves(read_run(runs / name), ("test/accuracy",))


def trajectory(runs: Path, name: str) -> None:
    recorded = open_trajectory(runs / name / "labels")
    for epoch in range(recorded.epochs):
        recorded.block(epoch)


def parquet(runs: Path, name: str) -> None:
    left_out = write_store(runs).left_out
    if name in left_out:
        raise UserError(left_out[name])


def mirror(runs: Path, name: str) -> None:
    contents = Contents(runs / name)
    contents.rows()
    contents.results()


def verified(runs: Path, name: str) -> None:
    if problems := verify(runs / name).problems:
        raise UserError(f"{name}: {problems}")


SMALL = ("identity.json", "final.json")
LABELS = ("labels/layout.json", "labels/indices.i64", "labels/instances.f16")
RESULTS = (*SMALL, "provenance.json", "cost.json")
EVERY = (*RESULTS, "config.yaml", "metrics.jsonl", "model.safetensors", *LABELS, "manifest.json")
READERS: dict[Callable[[Path, str], None], tuple[str, ...]] = {
    again: EVERY,
    replay: (*SMALL, *LABELS, "manifest.json"),
    distillation: (*SMALL, "model.safetensors", "manifest.json"),
    table: (*RESULTS, "manifest.json"),
    curves: (*RESULTS, "metrics.jsonl", "manifest.json"),
    trajectory: (*LABELS, "manifest.json"),
    parquet: (*RESULTS, "metrics.jsonl", "manifest.json"),
    mirror: (*SMALL, "config.yaml", "provenance.json", "metrics.jsonl", "manifest.json"),
    verified: EVERY,
}
CELLS = [(reader, file, damage) for reader, files in READERS.items() for file in files for damage in DAMAGES]


@pytest.mark.parametrize("reader", READERS)
def test_what_is_whole_is_read(finished: Path, tmp_path: Path, reader: Callable[[Path, str], None]) -> None:
    name = name_of(*(["method=one_hot"] if reader is distillation else LEARNED), "seed=0")
    shutil.copytree(finished / name, tmp_path / name)
    reader(tmp_path, name)


@pytest.mark.parametrize(("reader", "file", "damage"), CELLS, ids=[f"{file}-{damage}-{reader.__name__}" for reader, file, damage in CELLS])
def test_a_damaged_file_is_named(finished: Path, tmp_path: Path, reader: Callable[[Path, str], None], file: str, damage: str) -> None:
    method = ["method=one_hot"] if reader is distillation else LEARNED
    name, other = name_of(*method, "seed=0"), name_of(*method, "seed=1")
    shutil.copytree(finished / name, tmp_path / name)
    DAMAGES[damage](tmp_path / name / file, finished / other / file)
    # Settings, shape and images are the same in both runs, so this is no damage.
    if damage == "another run's" and (tmp_path / name / file).read_bytes() == (finished / name / file).read_bytes():
        pytest.skip("the file of the other run has the same bytes")
    with pytest.raises(UserError) as caught:
        reader(tmp_path, name)
    message = str(caught.value)
    assert name in message
    # A damaged manifest can also show as a file that it does not fit.
    assert Path(file).name in message
    assert [path for path in tmp_path.glob("*/final.json") if path.parent.name != name] == [], "something was trained with it"


@pytest.mark.parametrize("damage", ["unfinished", "empty", "no state"])
def test_a_status_that_says_done_is_not_enough(finished: Path, tmp_path: Path, damage: str) -> None:
    name = name_of(*LEARNED, "seed=0")
    shutil.copytree(finished / name, tmp_path / name)
    if damage == "unfinished":
        (tmp_path / name / "final.json").unlink()
        (tmp_path / name / "manifest.json").unlink()
    else:
        (tmp_path / name / "status.json").write_text({"empty": "", "no state": "{}"}[damage])
    assert read_state(tmp_path / name) != "done"
    for reader in (replay, table):
        with pytest.raises(UserError):
            reader(tmp_path, name)
    # Put back into the queue, it is trained again, and ends in the same results.
    assert requeue(tmp_path / name)
    again(tmp_path, name)
    assert (tmp_path / name / "final.json").read_bytes() == (finished / name / "final.json").read_bytes()
    assert verify(tmp_path / name).problems == []


RESUMED = ("checkpoint.pt", "checkpoint.previous.pt", "metrics.jsonl", "labels/instances.f16", "manifest.json", "cost.json")
RESUMES = [(file, damage) for file in RESUMED for damage in DAMAGES]


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with two runs, seed 0 and 1, that were stopped in their second epoch."""
    runs = tmp_path_factory.mktemp("stopped")
    for seed in (0, 1):
        stopped(tiny(runs, *COMMON, *LEARNED, f"seed={seed}"), epoch=1, batch=3)
    return runs


@pytest.mark.parametrize(("file", "damage"), RESUMES, ids=[f"{file}-{damage}" for file, damage in RESUMES])
def test_a_resume_names_what_is_damaged(
    finished: Path, unfinished: Path, tmp_path: Path, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    name, other = name_of(*LEARNED, "seed=0"), name_of(*LEARNED, "seed=1")
    folder = tmp_path / name
    shutil.copytree(unfinished / name, folder)
    DAMAGES[damage](folder / file, unfinished / other / file)
    if file == "checkpoint.previous.pt":
        # It is looked at when the newest one cannot be used.
        flip(folder / "checkpoint.pt", folder)
    # What lies behind the rows of the checkpoint is of epochs that are trained again.
    harmless = (file, damage) in (("metrics.jsonl", "longer"), ("labels/instances.f16", "longer"))
    # An epoch of labels that is not there as it was written cannot be made anew from a checkpoint.
    if file == "labels/instances.f16" and not harmless:
        with pytest.raises(UserError) as caught:
            again(tmp_path, name)
        assert name in str(caught.value)
        assert file in str(caught.value)
        assert read_state(folder) == "failed"
        return
    again(tmp_path, name)
    assert harmless or str(folder / file) in caplog.text or (damage == "deleted" and file.startswith(("checkpoint", "manifest")))
    for result in ("final.json", *LABELS, "model.safetensors"):
        assert (folder / result).read_bytes() == (finished / name / result).read_bytes()
    assert lasting_rows(folder) == lasting_rows(finished / name)
    assert verify(folder).problems == []
