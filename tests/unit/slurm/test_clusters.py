from __future__ import annotations

import os
from pathlib import Path

import pytest

import slurm.here
import slurm.jobs.queue
from repro.config.compose import compose
from repro.data.published_files import PublishedFiles
from repro.errors import UserError
from slurm.__main__ import main
from slurm.cluster import Cluster, known_clusters, load_cluster
from slurm.doctor import _folders
from slurm.here import run_here
from slurm.jobs.submission import check_data
from sweeps.local.progress import Outcome
from sweeps.plan.plan import Plan
from sweeps.spec.data import SpecError

GOOD = """kind: slurm
partition: gpu
time: {default: "12:00:00", vgg16: "1-02:03:04"}
memory: {default: 32G, resnet18: 900M}
"""

SPEC = """title: One run
kind: table
caption: A table.
common: {dataset: cifar10, method: one_hot, split: full}
rows: [{label: Plain}]
columns: [{label: CIFAR-10}]
repeats: {seed: [0]}
value: {metric: test/accuracy, epoch: last, scale: percent, decimals: 1, better: higher}
cell: {statistic: mean, spread: sample_sd}
"""


def parse(tmp_path: Path, text: str) -> Cluster:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    return load_cluster(str(path))


def test_the_clusters_of_the_suite_are_good() -> None:
    assert {"example", "local", "debug"} <= set(known_clusters())
    for name in known_clusters():
        assert load_cluster(name).name == name


def test_the_example_describes_every_key() -> None:
    text = known_clusters()["example"].read_text()
    keys = [field.alias or name for name, field in Cluster.model_fields.items() if name != "node"]
    assert [key for key in keys if f"\n{key}: " not in text and f"\n# {key}: " not in text] == []


def test_limits_by_model(tmp_path: Path) -> None:
    site = parse(tmp_path, GOOD)
    assert [site.of(model).minutes["default"] for model in ("resnet18", "vgg16")] == [720, 24 * 60 + 2 * 60 + 3 + 1]
    assert [site.of(model).memory_of(1) for model in ("resnet18", "vgg16")] == [900, 32 * 1024]


def test_a_cluster_chooses_presets(tmp_path: Path) -> None:
    """And settings on top of them."""
    site = parse(tmp_path, f"{GOOD}settings: {{exec: fast, tracker: none, exec.precision: float32, exec.checkpoint_interval_s: 300}}\n")
    config = compose(site.overrides(("method=one_hot", "dataset=digits", "seed=0"), on_gpu=False))
    chosen = config.exec
    assert (chosen.name, chosen.compile, chosen.precision, chosen.checkpoint_interval_s) == ("fast", True, "float32", 300.0)
    assert config.tracker.name == "none"
    assert [site.setting(key) for key in ("exec", "exec.precision", "exec.device")] == ["fast", "float32", None]


@pytest.mark.parametrize(
    ("settings", "on_gpu", "device"),
    [("{}", True, "cuda"), ("{}", False, "auto"), ("{exec.device: cpu}", True, "cpu"), ("{exec: fast}", True, "cuda")],
)
def test_a_run_that_is_given_a_gpu_trains_on_cuda(tmp_path: Path, settings: str, on_gpu: bool, device: str) -> None:
    site = parse(tmp_path, f"{GOOD}settings: {settings}\n")
    assert compose(site.overrides(("method=one_hot", "dataset=digits", "seed=0"), on_gpu=on_gpu)).exec.device == device


@pytest.mark.parametrize(
    ("before", "after", "line", "message"),
    [
        ("", "partiton: x", 5, "partiton: there is no such key. Did you mean 'partition'?"),
        ("", "settings: {optim.epochs: 3}", 5, "never what is trained"),
        (
            "",
            "settings:\n  exec.threads: 1\n  exec: fasst",
            7,
            "settings.exec: 'fasst' does not exist. Did you mean 'fast'? Allowed: audit,",
        ),
        ("", "settings: {exec: [fast]}", 5, "'[fast]' does not exist. Did you mean 'fast'? Allowed: audit,"),
        ("", "settings: {exec: debug}", 5, "settings.exec: a debug run keeps no results"),
        ("", "settings: {exec.debug: true}", 5, "settings.exec.debug: a debug run keeps no results"),
        ("", "settings: {tracker: nowhere}", 5, "settings.tracker: 'nowhere' does not exist."),
        ("", "settings: {exec.precison: bfloat16}", 5, "settings.exec.precison: there is no such setting. Did you mean 'precision'?"),
        ("", "settings: {tracker: none}\nwandb: offline", 6, "wandb and settings.tracker choose the same thing. Keep one."),
        ("", "array_limit: 0", 5, "array_limit must be an integer from 1"),
        ("", "paths: {runs: here}", 5, "an absolute path"),
        ("", "sbatch: {array: 0-3}", 5, "this option is ours to give"),
        ("", "wandb: cloud", 5, "'cloud' does not exist"),
        ("", "warning_s: 3\nqos: x", 5, "warning_s must be an integer from 10"),
        ("", "jobs: 3", 5, "jobs: there is no such key"),
        ("", "environment: {A: true}", 5, "environment.A must be a text or a number"),
        ("", "environment: {A: ~}", 5, "environment.A must be a text or a number"),
        ("", "environment: {A B: x}", 5, "'A B' is no name of a variable"),
        ("", "sbatch: {mail-type: FAIL, mail_type: END}", 5, "sbatch.mail_type stands twice"),
        ("", "settings: {exec.threads: [1, [2]]}", 5, "settings.exec.threads must be"),
        ('"12:00:00"', "12:00:00", 3, "a time in quotes"),
        ('default: "12:00:00", ', "", 3, "time.default is missing"),
        ("32G", "32", 4, "memory.default must be a text"),
        ("32G", "32 GB", 4, "an amount of memory"),
        ("32G", "9" * 5000 + "G", 4, "an amount of memory"),
        ('"12:00:00"', '"' + "9" * 5000 + '-12:00:00"', 3, "a time in quotes"),
        ('"12:00:00"', '"١٢:00:00"', 3, "a time in quotes"),
        ("12:00:00", "00:02:00", 3, "longer than warning_s"),
        ("kind: slurm", "kind: pbs", 1, "'pbs' does not exist"),
        ("partition: gpu\n", "", 1, "partition is missing"),
    ],
)
def test_a_mistake_names_its_line(tmp_path: Path, before: str, after: str, line: int, message: str) -> None:
    assert before in GOOD
    with pytest.raises(SpecError) as caught:
        parse(tmp_path, GOOD.replace(before, after) if before else f"{GOOD}{after}\n")
    assert f"site.yaml:{line}: " in str(caught.value)
    assert message in str(caught.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(SpecError, match="Did you mean 'example'.*Known: debug, example, local"):
        load_cluster("exampel")


@pytest.mark.parametrize(
    ("datasets", "more", "refused"),
    [
        (["cifar10", "digits"], "", True),
        (["cifar10"], "check_data: false\n", False),
        (["digits"], "", False),
    ],
)
def test_datasets_must_be_where_the_jobs_look(tmp_path: Path, datasets: list[str], more: str, refused: bool) -> None:
    site = parse(tmp_path, f"{GOOD}paths: {{data: {tmp_path / 'data'}}}\n{more}")
    if not refused:
        check_data(site, datasets)
        return
    with pytest.raises(UserError) as caught:
        check_data(site, datasets)
    for said in ("dataset=cifar10: not there:", f"download cifar10 --folder {tmp_path / 'data'}", "site.yaml", "check_data: false"):
        assert said in str(caught.value)


def test_submit_refuses_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parse(tmp_path, f"{GOOD}paths: {{data: {tmp_path / 'data'}}}\n")
    monkeypatch.setattr(slurm.jobs.queue, "call", lambda command: "ClusterName = hal\n" if command[0] == "scontrol" else "")
    spec, runs = tmp_path / "trial.yaml", tmp_path / "runs"
    spec.write_text(SPEC)
    assert main(["submit", str(spec), "--yes", "--cluster", str(tmp_path / "site.yaml"), "--runs", str(runs)]) == 2
    assert "not there:" in capsys.readouterr().err
    assert not runs.exists()


@pytest.mark.parametrize(("kind", "good"), [(GOOD, False), ("kind: local\n", None)])
def test_the_doctor_looks_for_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, good: bool | None) -> None:
    site = parse(tmp_path, f"{kind}paths: {{data: {tmp_path / 'data'}}}\n")
    finding = list(_folders(site, tmp_path / "runs"))[-1]
    assert (finding.good, "has no dataset" in finding.text) == (good, True)
    monkeypatch.setattr(PublishedFiles, "read", lambda files, folder: {})
    finding = list(_folders(site, tmp_path / "runs"))[-1]
    assert finding.good
    assert "cifar100" in finding.text


def test_a_dry_run_says_what_the_disk_will_hold_and_jobs_are_told_of_the_nodes_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parse(tmp_path, f"{GOOD}check_data: false\nmax_parallel: 7\npaths: {{scratch: /local/me}}\n")
    monkeypatch.setattr(slurm.jobs.queue, "call", lambda command: "ClusterName = hal\n" if command[0] == "scontrol" else "")
    spec, runs = tmp_path / "trial.yaml", tmp_path / "runs"
    spec.write_text(SPEC.replace("[0]", "[0, 1, 2, 3, 4, 5, 6, 7, 8]"))
    assert main(["submit", str(spec), "--dry-run", "--cluster", str(tmp_path / "site.yaml"), "--runs", str(runs)]) == 0
    told = capsys.readouterr().out
    assert "of checkpoints while 7 train" in told
    assert "\nexport REPRO_SCRATCH=/local/me\n" in told


def test_this_machine_is_told_of_its_own_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_SCRATCH", "another")
    monkeypatch.setenv("REPRO_DATA", "kept")
    monkeypatch.setattr(slurm.here, "run_missing", lambda plan, **options: Outcome())
    run_here(Plan(tmp_path, ()), parse(tmp_path, "kind: local\npaths: {scratch: /local/me}\n"), retry=False, limit=None)
    assert (os.environ["REPRO_SCRATCH"], os.environ["REPRO_DATA"]) == ("/local/me", "kept")
