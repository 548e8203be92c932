from collections import namedtuple
from pathlib import Path

import pytest
from real_runs import stopped

from repro.config.compose import compose
from repro.config.identity import scientific_fields
from repro.runs.manifest import open_manifest
from repro.training.run import execute
from sweeps.plan.disk import folder_size, held, print_disk
from sweeps.plan.plan import Plan, PlannedRun, planned_state

USAGE = namedtuple("usage", "total used free")

SMALL = ("dataset=digits", "seed=0", "exec.threads=1", "model.width=64", "optim.batch_size=256", "optim.milestones=[]")
KINDS = {
    "instance": ("method=instance_labels", "noise=uniform", "noise.rate=0.4", "method.momentum=0.9", "optim.epochs=8"),
    "float32": ("method=instance_labels", "trajectory.dtype=float32", "split=fold", "split.fold=2", "optim.epochs=2"),
    "class": ("method=class_labels", "split=fold", "split.fold=0", "optim.epochs=3", "optim.momentum=0.9"),
    "not recorded": ("method=instance_labels", "trajectory.record=false", "optim.epochs=2"),
    "none": ("method=one_hot", "split=full", "optim.epochs=2"),
    "two networks": ("method=co_teaching", "noise=uniform", "noise.rate=0.4", "optim.epochs=2"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_holds_what_was_planned(kind: str, tmp_path: Path) -> None:
    config = compose([*SMALL, *KINDS[kind], f"paths.runs={tmp_path}"])
    planned = held(scientific_fields(config))
    folder = stopped(config, epoch=1, batch=1)
    # Its small parts, the generators' states and the names, are not counted.
    assert (folder / "checkpoint.pt").stat().st_size == pytest.approx(planned.checkpoints / 3, abs=30_000)
    execute(config)
    sizes = {name: entry.size for name, entry in open_manifest(folder).files.items()}
    assert (
        sum(sizes.get(f"labels/{name}", 0) for name in ("instances.f16", "instances.f32", "classes.f32", "indices.i64")) == planned.labels
    )
    assert sizes["model.safetensors"] == pytest.approx(planned.model, abs=1500)
    assert folder_size(folder) == pytest.approx(planned.done, rel=0.1)


def plan_of(folder: Path, *kinds: str) -> Plan:
    runs = {}
    for kind in kinds:
        fields = scientific_fields(compose([*SMALL, *KINDS[kind], "optim.epochs=1000"]))
        runs[kind] = PlannedRun(kind, (), fields, planned_state(folder / kind), (), ("s",), kind)
    return Plan(folder, (), runs)


def test_the_plan_says_what_lies_there_what_is_to_come_and_whether_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(tmp_path / "runs", "instance", "class")
    (tmp_path / "runs" / "class").mkdir(parents=True)
    for name in ("metrics.jsonl", "checkpoint.pt"):
        (tmp_path / "runs" / "class" / name).write_bytes(b"x" * 250_000)
    asked: list[Path] = []
    free = 10**9

    def usage(path: Path) -> object:
        asked.append(path)
        return USAGE(0, 0, free)

    monkeypatch.setattr("shutil.disk_usage", usage)
    instance, other = (held(run.fields) for run in plan.runs.values())
    to_come = instance.done + other.done - 250_000
    print_disk(plan)
    told = capsys.readouterr().out
    assert asked == [tmp_path / "runs"]
    assert f"0.2 MB are in {tmp_path / 'runs'}, {to_come / 1e6:.1f} MB more are needed" in told
    assert f"{max(instance.checkpoints, other.checkpoints) / 1e6:.1f} MB of checkpoints while one trains; 1.0 GB are free" in told
    assert "WARNING" not in told
    free = to_come
    print_disk(plan)
    assert f"WARNING: the disk of {tmp_path / 'runs'} has" in capsys.readouterr().out
    # What is about to be trained, and how many at once, decides what is needed.
    free = other.done + other.checkpoints
    print_disk(plan, {"class"})
    assert "WARNING" not in capsys.readouterr().out
    print_disk(plan, {"class", "instance"}, at_a_time=2)
    assert f"{(instance.checkpoints + other.checkpoints) / 1e6:.1f} MB of checkpoints while 2 train" in capsys.readouterr().out


def test_where_the_runs_folder_is_still_to_be_made_the_disk_above_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_disk(plan_of(tmp_path / "not" / "there", "none"))
    assert "0.0 MB are in" in capsys.readouterr().out
