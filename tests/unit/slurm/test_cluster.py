from __future__ import annotations

from pathlib import Path

import pytest

from repro.config.compose import compose
from slurm.cluster import Cluster, known_clusters, load_cluster
from slurm.submit import check_site
from sweeps.yaml_files import SpecError

GOOD = 'partition: gpu\ntime: "1-02:03:04"\nmemory: 24G\n'


def parse(tmp_path: Path, text: str) -> Cluster:
    (tmp_path / "site.yaml").write_text(text)
    return load_cluster(str(tmp_path / "site.yaml"))


def test_the_example_is_good_and_describes_every_key() -> None:
    site = load_cluster("example")
    check_site(site)
    text = known_clusters()["example"].read_text()
    assert [key for key in type(site).model_fields if key != "path" and f"\n{key}: " not in text and f"\n# {key}: " not in text] == []


def test_a_model_has_what_is_said_for_it(tmp_path: Path) -> None:
    site = parse(tmp_path, f"{GOOD}cpus: 8\nby_model: {{vgg16: {{memory: 32G, runs_per_gpu: 3, gpu: none}}}}\n")
    part = site.of("vgg16")
    assert (part.partition, part.time, part.memory, part.cpus, part.cpus_per_run) == ("gpu", 24 * 60 + 2 * 60 + 4, "32G", 8, 2)
    assert site.of("resnet18") == site
    assert part.overrides() == ["exec.threads=2"]


@pytest.mark.parametrize(
    ("more", "device", "name", "interval_s"),
    [
        ("", "cuda", "auto", 60.0),
        ("gpu: none", "auto", "auto", 60.0),
        ("settings: {exec: fast, exec.device: cpu, exec.checkpoint_interval_s: 300, tracker: none}", "cpu", "fast", 300.0),
    ],
)
def test_settings_and_a_gpu_decide_how_a_run_is_executed(tmp_path: Path, more: str, device: str, name: str, interval_s: float) -> None:
    """A run that is given a GPU trains on it, and not on the processor of a node whose CUDA is broken."""
    config = compose(["method=one_hot", "dataset=digits", "seed=0", *parse(tmp_path, GOOD + more).overrides()])
    assert (config.exec.device, config.exec.name, config.exec.checkpoint_interval_s) == (device, name, interval_s)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{GOOD}partiton: x", "there is no key 'partiton'. Did you mean 'partition'?"),
        (f"{GOOD}by_model: {{vgg16: {{memry: 3G}}}}", "by_model.vgg16: there is no key 'memry'. Did you mean 'memory'?"),
        (f"{GOOD}by_model: {{vgg61: {{memory: 3G}}}}", "by_model: there is no model 'vgg61'. Did you mean 'vgg16'?"),
        (f"{GOOD}settings: {{exec.precison: float32}}", "settings: "),
        (f"{GOOD}settings: {{optim.epochs: 3}}", "settings.optim.epochs"),
        (f"{GOOD}sbatch: {{array: 0-3}}", "sbatch: array is given already"),
        (GOOD.replace('"1-02:03:04"', "12:00:00"), "time: a time in quotes is needed"),
        (
            GOOD.replace("1-02:03:04", "twelve hours"),
            'time: a time in quotes is needed, such as "12:00:00" or "2-00:00:00", found \'twelve',
        ),
        (GOOD.replace("1-02:03:04", "00:00:00"), "time: a time in quotes is needed"),
        (GOOD.replace("24G", "24 GB"), "memory: "),
        (GOOD.replace("partition: gpu\n", ""), "partition: Field required"),
    ],
)
def test_a_mistake_names_file_path_and_nearest_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_site(parse(tmp_path, text))
    assert f"site.yaml: {message}" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 5


def test_a_mistyped_cluster_has_a_nearest_name() -> None:
    with pytest.raises(SpecError, match="there is no cluster 'exampel'. Did you mean 'example'"):
        load_cluster("exampel")
