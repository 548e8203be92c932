"""What jobs of a model get, and how long they may take by the planner's estimate."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_plans import plan_of

import slurm.doctor
import slurm.jobs.queue
import sweeps.plan.cost
from slurm.__main__ import main
from slurm.cluster import Cluster, load_cluster
from slurm.jobs.batches import Batch
from slurm.jobs.sbatch import dry_text
from slurm.jobs.submission import check_models
from sweeps.plan.cost import COUNTED, FINISHED, Costs, Estimate, job_hours
from sweeps.plan.gpus import GPUS
from sweeps.spec.data import SpecError

GOOD = """kind: slurm
partition: gpu
gpu: a100
time: {default: "12:00:00", vgg16: "06:00:00"}
memory: {default: 32G}
runs_per_gpu: 2
by_model:
  wrn_28_10: {partition: long, gpu: h100, qos: high, time: "2-00:00:00", memory: 64G, runs_per_gpu: 1, time_min: "01:00:00"}
  digits_cnn:
    runs_per_job: 4
    gpu: none
"""


def parse(folder: Path, text: str = GOOD) -> Cluster:
    path = folder / "site.yaml"
    path.write_text(text)
    return load_cluster(str(path))


def options(site: Cluster, model: str, tasks: tuple[tuple[str, ...], ...] = (("run",),), hours: float | None = None) -> set[str]:
    lines = dry_text(site.of(model, hours), Batch("table", model, tasks, ((),) * len(tasks)), Path("runs")).splitlines()
    return {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}


def test_a_model_has_what_is_said_for_it_and_the_rest_of_all(tmp_path: Path) -> None:
    site = parse(tmp_path)
    own = options(site, "wrn_28_10")
    assert own >= {"partition=long", "gres=gpu:h100:1", "qos=high", "time=2880", "mem=65536M", "time-min=60"}
    assert options(site, "vgg16") >= {"partition=gpu", "gres=gpu:a100:1", "time=360", "mem=32768M"}
    assert not any(option.startswith(("gres", "qos", "time-min")) for option in options(site, "digits_cnn"))
    assert "time=720" in options(site, "digits_cnn")


def test_runs_that_take_turns_need_no_memory_of_their_own(tmp_path: Path) -> None:
    site = parse(tmp_path)
    for runs, sharing in ((1, 1), (2, 2), (8, 2)):
        assert f"mem={sharing * 32768}M" in options(site, "digits_cnn", (tuple(map(str, range(runs))),))


@pytest.mark.parametrize(
    ("hours", "minutes", "least"),
    [(None, 720, 30), (0.0, 12, 12), (0.5, 12 + 60, 30), (1.01, 12 + 122, 30), (1000.0, 720, 30)],
)
def test_a_job_asks_for_what_the_planner_estimates(tmp_path: Path, hours: float | None, minutes: int, least: int) -> None:
    """Twice that, ten minutes, and the time before its end; never for more than ``time``. 1.01 hours are rounded up."""
    site = parse(tmp_path, GOOD + 'time_factor: 2\ntime_min: "00:30:00"\n')
    assert options(site, "resnet18", hours=hours) >= {f"time={minutes}", f"time-min={least}"}


def test_the_longest_job_of_an_array_decides() -> None:
    batch = Batch("table", "net", (("a",), ("b", "c")), ((), ()))
    assert batch.hours({"a": 2.0, "b": 1.0, "c": 1.5}) == 2.5
    assert batch.hours({"a": 2.0, "b": 1.0}) is None


def test_which_estimates_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted ones only on a GPU whose peaks are known; without a GPU the hours of cores, by the cores of a job."""
    asked: list[Any] = []

    def estimate(plan: Any, *, gpu: Any) -> Costs:
        asked.append(gpu)
        kinds = {
            "a": Estimate(3.0, COUNTED),
            "b": Estimate(5.0, FINISHED),
            "c": Estimate(None, "?"),
            "d": Estimate(1.0, COUNTED, 8.0),
        }
        return Costs(kinds, gpu, 0.5, 0, 0, Counter())

    monkeypatch.setattr(sweeps.plan.cost, "estimate", estimate)
    plan = plan_of(tmp_path / "runs", **dict.fromkeys("abcd", "done"))
    assert job_hours(plan, dict.fromkeys("abc", ("a100", 4)) | {"d": ("none", 4)}) == {"a": 3.0, "b": 5.0, "d": 2.0}
    assert set(asked) == {None, GPUS["a100"]}
    assert job_hours(plan, dict.fromkeys("abcd", ("any", 4))) == {"b": 5.0}
    assert job_hours(plan, dict.fromkeys("abcd", ("none", 1))) == {"d": 8.0}


@pytest.mark.parametrize(
    ("more", "line", "message"),
    [
        ("  alexnet: {partiton: x}", 12, "by_model.alexnet.partiton: there is no such key. Did you mean 'partition'?"),
        ("  alexnet: {modules: [x]}", 12, "by_model.alexnet.modules: there is no such key."),
        ("  alexnet: {time: 12:00:00}", 12, "by_model.alexnet.time must be a time in quotes"),
        ("  alexnet: {memory: 3}", 12, "by_model.alexnet.memory must be a text"),
        ("  alexnet: {runs_per_job: 0}", 12, "by_model.alexnet.runs_per_job must be an integer from 1"),
        ('  vgg16:\n    qos: x\n    time: "01:00:00"', 14, "time.vgg16 and by_model.vgg16.time say the same thing. Keep one."),
        ('  alexnet: {time: "00:02:00"}', 12, "time of a job of alexnet must be longer than warning_s"),
        ('time_min: "00:01:00"', 12, "time_min of a job of default must be longer than warning_s"),
        ("time_factor: 0.5", 12, "time_factor: Input should be greater than or equal to 1, found '0.5'"),
        ("time_factor: true", 12, "time_factor must be a number, found 'true'"),
        ("sbatch: {time_min: 5}", 12, "this option is ours to give"),
        ("runs_per_jobs: 3", 12, "runs_per_jobs: there is no such key. Did you mean 'runs_per_job'?"),
    ],
)
def test_a_mistake_in_them_names_its_line(tmp_path: Path, more: str, line: int, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(tmp_path, f"{GOOD}{more}\n")
    assert f"site.yaml:{line}: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("more", "line", "name"),
    [("  vgg: {qos: x}", 12, "by_model.vgg"), ("  default: {qos: x}", 12, "by_model.default"), ("", 4, "time.vgg61")],
)
def test_a_model_that_does_not_exist(tmp_path: Path, more: str, line: int, name: str) -> None:
    text = GOOD.replace("vgg16", "vgg61") if not more else f"{GOOD}{more}\n"
    with pytest.raises(SpecError, match=rf"site.yaml:{line}: {name}: there is no such model."):
        check_models(parse(tmp_path, text))


def test_the_doctor_looks_at_each_kind_of_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And says what is the same of all once; what is wrong for a model has the line where that stands."""

    def call(command: list[str]) -> str:
        if command[0] == "sinfo":
            return "n1|8|128000|gpu:a100:4|idle\n" if "-hN" in command else "gpu\nlong\n"
        if command[-1] == "--oneliner":
            return f"State=UP MaxTime={'1-00:00:00' if command[3] == 'long' else '12:00:00'}"
        return "KillWait = 30 sec\n" if command[0] == "scontrol" else ""

    monkeypatch.setattr(slurm.jobs.queue, "call", call)
    monkeypatch.setattr(slurm.doctor.shutil, "which", lambda name: name)
    accepted = SimpleNamespace(returncode=0, stderr="")
    monkeypatch.setattr(slurm.doctor.subprocess, "run", lambda *given, **more: accepted)
    parse(tmp_path, GOOD + "check_data: false\n")
    assert main(["doctor", "--no-job", "--cluster", str(tmp_path / "site.yaml"), "--runs", str(tmp_path / "runs")]) == 1
    lines = capsys.readouterr().out.splitlines()
    bad = [(line, lines[number + 1]) for number, line in enumerate(lines) if line.startswith("BAD")]
    said = [text for pair in bad for text in pair]
    assert said[0].endswith("by_model.wrn_28_10: time.default: 2880 min, the partition allows 1-00:00:00")
    assert "site.yaml:8: at most 1-00:00:00" in said[1]
    assert said[2].endswith("by_model.wrn_28_10: no node of long has a GPU of type h100")
    assert "site.yaml:8: the types are a100" in said[3]
    assert len(said) == 4
    assert sum("a job that is cancelled or requeued has 30 s" in line for line in lines) == 1
