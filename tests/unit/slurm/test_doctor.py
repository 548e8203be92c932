"""What the doctor makes of what a node says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import slurm.jobs.queue
from repro.engine.execution import runs_on
from repro.probe import Probe
from slurm.__main__ import main
from slurm.cluster import load_cluster
from slurm.doctor import Finding, _judge_report, _limits

SITE = 'kind: slurm\npartition: gpu\ntime: {{default: "12:00:00"}}\nmemory: {{default: 32G}}\ngpu: {gpu}\nsettings: {settings}\n'
WHEELS = ("sm_75", "sm_80", "sm_86", "sm_90a", "sm_100", "sm_120", "compute_120")


@pytest.mark.parametrize(
    ("capability", "good"),
    [
        ((7, 0), False),
        ((7, 5), True),
        ((8, 0), True),
        ((8, 9), True),
        ((9, 0), True),
        ((9, 1), False),
        ((10, 3), True),
        ((11, 0), False),
        ((12, 1), True),
        ((13, 0), True),
    ],
)
def test_gpus_that_pytorch_is_built_for(capability: tuple[int, int], good: bool) -> None:
    assert runs_on(capability, WHEELS) == good


def bad(folder: Path, report: dict[str, Any], *, gpu: str = "any", settings: str = "{}") -> list[Finding]:
    """Return the findings of a node of a site that have to be changed."""
    path = folder / "site.yaml"
    path.write_text(SITE.format(gpu=gpu, settings=settings))
    node = {"node": "n1", "cores": 8, "visible": "0", "code": {"repro": str(folder), "torch": "2.15.0"}, "data": 3, "run_folder": "ok"}
    return [finding for finding in _judge_report(load_cluster(str(path)), node | report, folder) if finding.good is False]


def test_an_old_gpu_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("device_count", 1), ("get_device_name", "V100"), ("get_device_capability", (7, 0)), ("get_arch_list", WHEELS)):
        monkeypatch.setattr(torch.cuda, name, lambda *index, value=value: value)
    report = Probe(tmp_path, tmp_path).look()
    (finding,) = bad(tmp_path, {"gpus": report["gpus"], "compilers": report["compilers"]})
    assert finding.text.startswith("GPU 0: V100: it has sm_70, PyTorch is built for sm_75 sm_80")
    assert "install a PyTorch that is built for it" in finding.change
    assert bad(tmp_path, {"gpus": report["gpus"], "compilers": report["compilers"]}, settings="{exec.device: cpu}") == []


@pytest.mark.parametrize(
    ("settings", "gpu", "said"),
    [
        ("{}", "any", None),
        ("{exec: audit, exec.compile: true}", "any", "no C$"),
        ("{exec: fast}", "any", "no C$"),
        ("{exec: fast, exec.compile: false}", "any", None),
        ("{exec: audit, exec.compile: true}", "none", r"no C\+\+$"),
        ("{exec: audit, exec.compile: true, exec.device: cpu}", "any", r"no C\+\+$"),
        ("{exec.threads: many}", "any", "^exec.threads=many"),
    ],
)
def test_a_compiler_that_is_missing_is_named_where_steps_are_compiled(tmp_path: Path, settings: str, gpu: str, said: str | None) -> None:
    found = bad(tmp_path, {"gpus": {"0: A": ""}, "compilers": {"cpu": "no C++", "cuda": "no C"}}, gpu=gpu, settings=settings)
    assert len(found) == (0 if said is None else 1)
    assert said is None or re.search(said, found[0].text)
    assert bad(tmp_path, {"gpus": {"0: A": ""}, "compilers": {"cpu": None, "cuda": None}}, gpu=gpu, settings="{exec: fast}") == []


CONFIG = {"ClusterName": "hal", "MaxArraySize": "1001"}
NODES = "n1|8|64000|gpu:a100:4|idle\n"


@pytest.mark.parametrize(
    ("answers", "more", "mark", "said", "change"),
    [
        ({}, "", True, None, None),
        ({"none": "accounting"}, "", True, None, None),
        ({"partition": "PreemptMode=CANCEL"}, "", None, "PreemptMode=CANCEL", "`submit` again"),
        ({"partition": "MaxTime=06:00:00"}, "", False, "time.default: 720 min, the partition allows 06:00:00", "at most 06:00:00"),
        ({"assoc": "vision|200|"}, "", None, "account vision allows 200 jobs in the queue", "--follow"),
        ({"assoc": "vision||06:00:00"}, "", False, "account vision allows 06:00:00", "at most 06:00:00"),
        ({"qos": "long|5|"}, "qos: long\n", None, "qos long allows 5 jobs in the queue", "--follow"),
        ({"qos": "long|5|"}, "qos: long\narray_limit: 5\n", True, None, None),
        # Without one in the file that of the account counts, by default the first of those that it has.
        ({"default": "short|long,short", "qos short": "short||01:00:00"}, "", False, "qos short allows 01:00:00", "at most 01:00:00"),
        ({"default": "|long,short", "qos long": "long|5|"}, "", None, "qos long allows 5 jobs in the queue", "--follow"),
        ({"default": "short|", "qos short": "short|5|"}, "qos: long\n", True, None, None),
    ],
)
def test_limits_of_the_partition_and_of_accounting(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answers: dict[str, str],
    more: str,
    mark: bool | None,
    said: str | None,
    change: str | None,
) -> None:
    def call(command: list[str]) -> str:
        if command[0] == "sinfo":
            return NODES if "-hN" in command else "gpu\n"
        if command[0] == "scontrol":
            return f"State=UP MaxTime=UNLIMITED PreemptMode=REQUEUE {answers.get('partition', '')}"
        if "none" in answers:
            raise slurm.jobs.queue.NoAnswerError("You are not running a supported accounting_storage plugin")
        if command[3:4] == ["user"]:
            return "vision\n"
        if command[-1] == "format=DefaultQOS,QOS":
            return answers.get("default", "|\n")
        return answers.get(f"{command[3]} {command[4]}", answers.get(command[3], "|| \n"))

    monkeypatch.setattr(slurm.jobs.queue, "call", call)
    path = tmp_path / "site.yaml"
    path.write_text(SITE.format(gpu="a100", settings="{}") + more)
    found = [finding for finding in _limits(load_cluster(str(path)), CONFIG) if not finding.good]
    assert len(found) == (said is not None)
    if said is not None:
        (finding,) = found
        assert finding.good is mark
        assert said in finding.text
        assert re.search(str(change), finding.change)


@pytest.mark.parametrize(
    ("gres", "gpu", "types"),
    [
        ("gpu:3090:4", '"3090"', "3090"),
        ("gpu:2080ti:2(S:0-1)", "2080ti", "2080ti"),
        ("gpu:1g.10gb:7(S:0,2),gpu:a100:1", "1g.10gb", "1g.10gb, a100"),
        ("shard:8,gpu:a100-sxm4:4,tmp:9", "a100-sxm4", "a100-sxm4"),
        ("gpu:4(S:0)", "any", "any"),
    ],
)
def test_types_of_gpus_and_several_partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gres: str, gpu: str, types: str) -> None:
    """A job is as long as one of the partitions allows, and the node that both have is one."""

    def call(command: list[str]) -> str:
        if command[0] == "sinfo":
            return f"n1|8|64000|{gres}|idle\n" * 2 if "-hN" in command else "gpu\nlong\nother\n"
        return f"State=UP MaxTime={'1-00:00:00' if command[3] == 'long' else '01:00:00'}" if command[0] == "scontrol" else ""

    monkeypatch.setattr(slurm.jobs.queue, "call", call)
    path = tmp_path / "site.yaml"
    path.write_text(SITE.format(gpu=gpu, settings="{}").replace("partition: gpu", "partition: gpu,long"))
    found = list(_limits(load_cluster(str(path)), CONFIG))
    assert [finding for finding in found if finding.good is False] == []
    assert found[-1].text == f"1 of 1 nodes work and have the CPUs and the memory of a job; GPUs: {types}"
    path.write_text(path.read_text().replace("gpu,long", "gpu,lang"))
    (finding,) = [finding for finding in _limits(load_cluster(str(path)), CONFIG) if finding.good is False]
    assert finding.text == "partition lang does not exist"


def test_the_doctor_without_a_cluster_is_a_users_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("REPRO_CLUSTER", raising=False)
    assert main(["doctor", "--runs", str(tmp_path / "runs")]) == 2
    assert re.fullmatch(r"error: name a cluster: --cluster NAME.* Known: debug, example, local.\n", capsys.readouterr().err)
    assert not (tmp_path / "runs").exists()
