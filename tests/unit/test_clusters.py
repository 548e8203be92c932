from __future__ import annotations

from pathlib import Path

import pytest

from slurm.cluster import known_clusters, load_cluster
from sweeps.nodes import SpecError

GOOD = """kind: slurm
partition: gpu
time: {default: "12:00:00", vgg16: "1-02:03:04"}
memory: {default: 32G, resnet18: 900M}
"""


def parse(tmp_path: Path, text: str) -> object:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    return load_cluster(str(path))


def test_the_clusters_of_the_suite_are_good() -> None:
    assert {"example", "local", "debug"} <= set(known_clusters())
    for name in known_clusters():
        assert load_cluster(name).name == name


def test_limits_by_model(tmp_path: Path) -> None:
    site = parse(tmp_path, GOOD)
    assert [site.minutes_of(model) for model in ("resnet18", "vgg16")] == [720, 24 * 60 + 2 * 60 + 3 + 1]  # type: ignore[attr-defined]
    assert [site.memory_of(model) for model in ("resnet18", "vgg16")] == [900, 32 * 1024]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        ("partiton: x", 5, "partiton: there is no such key. Did you mean 'partition'?"),
        ("settings: {optim.epochs: 3}", 5, "never what is trained"),
        ("array_limit: 0", 5, "array_limit must be an integer from 1"),
        ("paths: {runs: here}", 5, "an absolute path"),
        ("sbatch: {array: 0-3}", 5, "this option is ours to give"),
        ("wandb: cloud", 5, "'cloud' does not exist"),
        ("warning_s: 3\nqos: x", 5, "warning_s must be an integer from 10"),
        ("jobs: 3", 5, "jobs: there is no such key"),
        ("environment: {A: true}", 5, "environment.A must be a text or a number"),
        ("environment: {A: ~}", 5, "environment.A must be a text or a number"),
        ("environment: {A B: x}", 5, "'A B' is no name of a variable"),
        ("sbatch: {mail-type: FAIL, mail_type: END}", 5, "sbatch.mail_type stands twice"),
        ("settings: {exec.threads: [1, [2]]}", 5, "settings.exec.threads must be"),
    ],
)
def test_a_mistake_names_its_line(tmp_path: Path, change: str, line: int, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(tmp_path, GOOD + change + "\n")
    assert f"site.yaml:{line}: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "line", "message"),
    [
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
def test_a_changed_line_is_named(tmp_path: Path, before: str, after: str, line: int, message: str) -> None:
    assert before in GOOD
    with pytest.raises(SpecError) as caught:
        parse(tmp_path, GOOD.replace(before, after))
    assert f"site.yaml:{line}: " in str(caught.value)
    assert message in str(caught.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(SpecError, match="Did you mean 'example'.*Known: debug, example, local"):
        load_cluster("exampel")
