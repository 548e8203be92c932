"""Damaged YAML: specs, the names they share, scales, tuned values and clusters are refused in one message or read.

The files of the suite, and small ones that have every key, are changed at random, always in the same way: keys deleted, repeated and
renamed, values swapped and replaced by unusual ones, bytes cut, flipped and inserted.
"""

import copy
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repro.errors import UserError
from slurm.cluster import known_clusters, load_cluster
from sweeps.claims import load_claims
from sweeps.plan.plan import make_plan
from sweeps.spec.chosen import Tuned, read_tuned
from sweeps.spec.load import expand, known_specs, load_spec
from sweeps.spec.scale import PAPER, known_scales, load_scale
from tests.unit.sweeps.test_inputs_in_specs import TUNED
from tests.unit.sweeps.test_recipes_and_panels import FIGURE as PANELS
from tests.unit.sweeps.test_recipes_and_panels import RECIPE
from tests.unit.sweeps.test_refused_specs import FIGURE

pytestmark = pytest.mark.slow

TABLE = """\
title: A table
kind: table
caption: What it shows.
common: {dataset: digits, optim.epochs: 3, model: digits_cnn}
runs:
  folds:
    set: {method: instance_labels, split: fold}
    each: {split.fold: [0, 1]}
    tuned: rate
  final: {set: {method: replay, split: full}, inputs: {labels: folds}}
tuning:
  rate:
    set: {method: instance_labels, split: fold, split.fold: 0, seed: 7}
    inputs: {}
    grid: {method.learning_rate: [5.0, 25.0]}
    otherwise: {method.learning_rate: 50.0}
rows:
  - {label: One-hot, set: {method: one_hot}}
  - {label: Final, use: final}
  - {set: {noise: uniform, noise.rate: 0.4}, epochs: {last: last, best: best_test}, rows: [{label: Focal, set: {method: focal}}]}
  - {label: Taught, set: {method: distillation}, inputs: {teacher: {from: folds, where: {split.fold: 1}, set: {seed: 3}}}, epoch: best_val}
columns:
  - {label: Small, set: {model.width: 8}}
  - {label: "16", set: {model.width: 16}}
repeats: {seed: [0, 1]}
cells:
  - {row: One-hot, column: ["16"], set: {optim.batch_size: 32}}
  - {row: Taught, column: Small, skip: makes no sense}
value: {metric: test/accuracy, epoch: epoch 2, scale: percent, decimals: 1, better: higher}
cell: {statistic: mean, spread: sample_sd}
"""

SHARED = yaml.safe_dump({key: yaml.safe_load(TABLE)[key] for key in ("runs", "tuning")})
READER = yaml.safe_dump(
    {key: value for key, value in yaml.safe_load(TABLE).items() if key not in ("runs", "tuning")} | {"shared": "tried.yaml"}
)

CLUSTER = """\
kind: slurm
partition: gpu
account: vision
qos: normal
constraint: "a100|h100"
gpu: a100
cpus: 8
time: {default: "24:00:00", vgg16: "12:00:00"}
memory: {default: 32G}
runs_per_gpu: 1
array_limit: 1000
max_parallel: 32
warning_s: 120
modules: [cuda/13.0]
setup: ["source /etc/profile.d/proxy.sh"]
python: /path/to/python
environment: {NCCL_DEBUG: WARN}
wandb: offline
settings: {exec.checkpoint_interval_s: 300}
paths: {runs: /project/runs, data: /project/data}
sbatch: {mail-type: FAIL}
"""


CLAIMS = """\
level: 0.05
scales: [paper, small]
claims:
  - id: learned_over_one_hot
    claim: Learned labels do better.
    source: section 3.2, Table 1
    direction: higher
    combine: every
    margin: -1.0
    tests:
      - {spec: table1, rows: [Ours (Class)], over: [Baseline], columns: ["CIFAR10, ResNet18"]}
      - {spec: table4, rows: [Temperature scaling ✗], columns: [Ours (Model)], over_columns: [Baseline]}
  - id: labels_get_better
    claim: Labels get better.
    source: ours
    direction: lower
    published: 40 to 33% of all images
    tests:
      - {spec: figure4, rows: [Ours (Instance labels)], change: noise/label_error}
      - {spec: figure2, rows: [Class labels], correlation: ["class_meta_accuracy/{k}", "class_target_probability/{k}"]}
sanity:
  - id: related
    claim: Neighbours are related.
    source: ours
    direction: higher
    tests:
      - {spec: figure2, rows: [Instance labels], metric: label/next_class_in_superclass, above: 0.04}
"""


def read_spec(folder: Path, name: str = "tried.yaml") -> None:
    expand(load_spec(str(folder / name), tuned=Tuned(folder / "none.yaml")))


def read_shared(folder: Path) -> None:
    (folder / "reader.yaml").write_text(READER)
    read_spec(folder, "reader.yaml")


def read_chosen(folder: Path) -> None:
    (folder / "tried.yaml").rename(folder / "paper.yaml")
    read_tuned(PAPER, folder)


Reader = Callable[[Path], object]


def read_by(load: Callable[[str], object]) -> Reader:
    return lambda folder: load(str(folder / "tried.yaml"))


_SMALL = sorted(name for name, path in known_specs().items() if path.stat().st_size < 2_500 and "shared:" not in path.read_text())

#: What is changed and how it is read. Those with every key come often, since they are small.
BASES: list[tuple[str, str, Reader]] = [
    *([("table", TABLE, read_spec)] * 6),
    *([("figure", FIGURE, read_spec), ("figure", PANELS, read_spec)] * 2),
    ("recipe", RECIPE, read_spec),
    *([("shared", SHARED, read_shared)] * 2),
    *([("tuned", TUNED, read_chosen)] * 2),
    *([("cluster", CLUSTER, read_by(load_cluster))] * 3),
    *(("cluster", path.read_text(), read_by(load_cluster)) for path in known_clusters().values()),
    *(("scale", path.read_text(), read_by(load_scale)) for path in known_scales().values()),
    *([("scale", known_scales()["smoke"].read_text(), read_by(load_scale))] * 2),
    *([("claims", CLAIMS, lambda folder: load_claims(folder / "tried.yaml"))] * 3),
    *((name, re.sub(r"reported: .*\n", "", known_specs()[name].read_text()), read_spec) for name in _SMALL),
]

TEXTS = ["", " ", "no", "~", "null", "1e5", "0x10", "2020-01-01", "\0", "\n", "a\nb", "\x1b[31m", "\ud800", "é", "x" * 5000]
TEXTS += ["${oc.env:HOME}", "$(ls)", "'", '"', "\\", "a=b", "[", "{", "*", "&a", "<<", "test/accuracy", "noise/{k}", "epoch 3"]
TEXTS += ["epoch 99999999999", "exec.threads", "hydra", "../../etc/passwd", "/", ".", "seed"]
ODD: list[Any] = [*TEXTS, None, True, False, 0, -1, 1, 10**30, 1.5, float("nan"), float("inf"), [], {}, [[]], [None], [1, 1.0]]
ODD += [{"a": {"b": {}}}, {"seed": 1}, {"from": "folds"}, {"count": 1}, ["x"] * 50]
LINES = ["\t- x", "? [a, b]", "? {a: b}", "no: 1", "1: 2", "2020-01-01: x", "~: x", "<<: *a", "- *nowhere", "&a [*a]", "--- a", "..."]
LINES += ["%YAML 9.9", "!!python/object:os.system x", "!!bool maybe: x", "title: !!int ''", "title: !!set {a}", "%TAG ! x", "title: |"]
LINES += ["[" * 1500, "{a: " * 900, "title: 1:2:3:4", "title: " + ":".join(["59"] * 300) + ".5", '"\\UFFFFFFFF"', "\x85", "\u2028"]
LINES += ["a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nrows: *c"]


def containers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list) and value:
        yield value
        for item in list(value.values()) if isinstance(value, dict) else value:
            yield from containers(item)


def change_tree(tree: Any, rng: random.Random) -> Any:
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = list(containers(tree))
        if not found:
            return tree
        one = rng.choice(found)
        key = rng.choice(list(one) if isinstance(one, dict) else range(len(one)))
        how = rng.randrange(6)
        if how == 0:
            del one[key]
        elif how == 1 and isinstance(one, dict):
            name, there = str(key), list(one)
            place = rng.randrange(len(name) + 1)
            value = one.pop(key)
            one[rng.choice((name[:place] + name[place + 1 :], name + "s", name.upper(), rng.choice(there), 1, None, True))] = value
        elif how == 2:
            other = rng.choice(found)
            where = rng.choice(list(other) if isinstance(other, dict) else range(len(other))) if other else None
            if where is not None and where in (other if isinstance(other, dict) else range(len(other))):
                one[key], other[where] = copy.deepcopy(other[where]), copy.deepcopy(one[key])
        elif how == 3 and isinstance(one, list):
            one.append(copy.deepcopy(one[key]))
        elif how == 4:
            one[key] = rng.choice(([one[key]], {"label": one[key]}, str(one[key])))
        else:
            one[key] = copy.deepcopy(rng.choice(ODD))
    return tree


def change_text(text: str, rng: random.Random) -> bytes:
    content = bytearray(text.encode())
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(content) + 1)
        how = rng.randrange(6)
        if how == 0:
            del content[place : place + rng.choice((1, 1, 5, 40, 10_000))]
        elif how == 1 and place < len(content):
            content[place] ^= 1 << rng.randrange(8)
        elif how == 2:
            content[place:place] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 3))))
        else:
            lines = bytes(content).split(b"\n")
            line = rng.randrange(len(lines))
            if how == 3:
                lines[line:line] = [lines[rng.randrange(len(lines))]]
            elif how == 4:
                lines[line:line] = [rng.choice(LINES).encode()]
            else:
                lines[line] = rng.choice((b" ", b"  ", b"\t", b"- ")) + lines[line]
            content = bytearray(b"\n".join(lines))
    return bytes(content)


def changed(text: str, rng: random.Random) -> bytes:
    if rng.random() < 0.45:
        return change_text(text, rng)
    try:
        dumped: str = yaml.safe_dump(change_tree(yaml.safe_load(text), rng), sort_keys=False, allow_unicode=rng.random() < 0.5, width=200)
        return dumped.encode()
    except (UnicodeEncodeError, yaml.YAMLError):
        return change_text(text, rng)


COUNTS: Counter[str] = Counter()
SETTLED = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))


def tried(folder: Path, number: int, seed: int, *, also: Callable[[Path], object] | None = None) -> None:
    name, text, read = BASES[number]
    for path in folder.iterdir():
        path.unlink()
    (folder / "tried.yaml").write_bytes(changed(text, random.Random(seed)))
    COUNTS["inputs"] += 1
    try:
        read(folder)
        if also is not None:
            also(folder)
    except UserError as error:
        COUNTS["refused"] += 1
        message = str(error)
        assert re.match(r"[^\n]*(tried|paper|reader)\.yaml:\d+: \S", message), (name, message)
        assert len(message) < 3_000
        assert "object at 0x" not in message
    else:
        COUNTS["accepted"] += 1
    assert {path.name for path in folder.iterdir()} <= {"tried.yaml", "paper.yaml", "reader.yaml"}


def test_what_is_read_is_refused_in_a_message(tmp_path: Path) -> None:
    @settings(SETTLED, max_examples=7_200)
    @given(st.integers(0, len(BASES) - 1), st.integers(0, 2**32))
    def each(number: int, seed: int) -> None:
        tried(tmp_path, number, seed)

    COUNTS.clear()
    each()
    print(dict(COUNTS))
    assert COUNTS["inputs"] >= 7_000
    assert min(COUNTS["refused"], COUNTS["accepted"]) > 500


def test_what_is_planned_is_refused_in_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_TUNED", str(tmp_path / "none"))
    folder = tmp_path / "specs"
    folder.mkdir()
    specs = [index for index, (name, _, _) in enumerate(BASES) if name in ("table", "figure", "recipe")]

    def plan(folder: Path) -> None:
        make_plan([load_spec(str(folder / "tried.yaml"))], folder / "runs")

    @settings(SETTLED, max_examples=150)
    @given(st.sampled_from(specs), st.integers(0, 2**32))
    def each(number: int, seed: int) -> None:
        tried(folder, number, seed, also=plan)

    COUNTS.clear()
    each()
    print(dict(COUNTS))
    assert os.listdir(tmp_path) == ["specs"]
