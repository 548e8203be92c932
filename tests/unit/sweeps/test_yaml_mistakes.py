"""YAML that Python's stack, memory or a terminal would not survive ends in one message, like every other mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurm.cluster import load_cluster
from sweeps.spec.load import SpecError, expand, find_spec, load_spec
from sweeps.spec.scale import load_scale

GOOD = """\
title: A table
kind: table
common: {dataset: digits}
rows:
  - {label: One-hot, set: {method: one_hot}}
columns:
  - {label: Clean}
repeats: {seed: [0, 1]}
value: {metric: test/accuracy, epoch: last}
"""


def refused(folder: Path, content: bytes) -> str:
    (folder / "tried.yaml").write_bytes(content)
    with pytest.raises(SpecError) as raised:
        expand(load_spec(str(folder / "tried.yaml")))
    assert len(str(raised.value)) < 600
    return str(raised.value)


BAD = {
    "deep lists": ("caption: " + "[" * 3000, 3, "nested more than 20 deep"),
    "deep mappings": ("caption: " + "{a: " * 3000, 3, "nested more than 20 deep"),
    "deep blocks": ("caption:\n" + "".join(" " * depth + "- \n" for depth in range(1, 3)) + "   - " * 50, 6, "nested more than 20 deep"),
    "unknown tag of a list": ("caption: !!set {a, b}", 3, "tag:yaml.org,2002:set means nothing here"),
    "object": ("caption: !!python/object:os.system {}", 3, "means nothing here"),
    "truth value that is none": ("caption: !!bool maybe", 3, "caption must be a text"),
    "integer of nothing": ("caption: !!int ''", 3, "caption must be a text"),
    "sixties without end": ("common: {seed: " + ":".join(["59"] * 300) + ".5}", 3, "common.seed must be"),
    "digits without end": ("common: {seed: " + "9" * 5000 + "}", 3, "common.seed must be"),
    "NUL": ("caption: a\0b", 3, "the character U+0000 is not allowed"),
    "NUL as an escape": ('caption: "a\\0b"', 3, "without NUL"),
    "half a character": ('caption: "\\ud800"', 3, "half of a character"),
    "no character": ('caption: "\\UFFFFFFFF"', 3, "not YAML"),
    "line break in a label": ('rows: [{label: "a\\rb"}]', 3, "a text of one line"),
    "escape sequence in a label": ('rows: [{label: "\\e[31mred"}]', 3, "a text of one line"),
    "line break in a setting": ('common: {dataset: "a\\nb"}', 3, "a text of one line"),
    "tab": ("caption:\n\t- a", 4, "not YAML"),
    "line break in a key": ('"a\\nb": 1', 3, "must be a word"),
    "long key": ("a" * 900 + ": 1", 3, "there is no such key"),
    "long label": ("rows: [{label: a, use: " + "b" * 10_000 + "}]", 3, "there is no run"),
    "null as key": ("~: 1", 3, "~: there is no such key"),
    "truth value as key": ("yes: 1", 3, "yes: there is no such key"),
    "date as key": ("2020-01-01: 1", 3, "2020-01-01: there is no such key"),
    "list as key": ("? [a]\n: 1", 3, "must be a word"),
    "merged mapping": ("common: {<<: {seed: 1}}", 3, "'<<' is no name of a setting"),
    "recursive list": ("common: {seed: &a [*a]}", 3, "common.seed[0] must be"),
    "published numbers in no file": ('reported: {file: "a\\nb.csv"}', 3, "a text of one line"),
    "shared names in a folder": ("shared: ../x.yaml", 3, "there is no such file"),
    "more runs than anybody trains": (
        "repeats: {seed: &a [0,1,2,3,4,5,6,7,8,9], noise.seed: *a, split.seed: *a, split.fold: *a, meta.interval: *a}",
        3,
        "100000 combinations",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    line, number, words = BAD[name]
    start, rest = GOOD[: GOOD.index("common:")], GOOD[GOOD.index("common:") :]
    key = line.partition(":")[0]
    rest = "\n".join(text for text in rest.split("\n") if not text.startswith(f"{key}:")) if key in ("common", "repeats") else rest
    if key == "rows":
        rest = rest.replace("rows:\n  - {label: One-hot, set: {method: one_hot}}\n", "")
    message = refused(tmp_path, (start + line + "\n" + rest).encode("utf-8", "surrogatepass"))
    assert f"tried.yaml:{number}: " in message
    assert words in message


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    assert "tried.yaml:3: not YAML in UTF-8: the byte 0xff" in refused(tmp_path, b"title: a\nkind: table\ncaption: \xff\n")
    assert "tried.yaml:1: not YAML" in refused(tmp_path, GOOD.encode("utf-16"))
    assert "tried.yaml:1: the file is empty" in refused(tmp_path, b"")
    assert "tried.yaml:1: the file must be a mapping" in refused(tmp_path, b"- a\n")


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    for load in (find_spec, load_spec, load_scale, load_cluster):
        with pytest.raises(SpecError, match=r"folder\.yaml: this is a folder"):
            load(str(tmp_path / "folder.yaml"))
        with pytest.raises(SpecError, match=r"nowhere\.yaml: there is no such file"):
            load(str(tmp_path / "nowhere.yaml"))
        with pytest.raises(SpecError, match="this cannot be a file"):
            load("a" * 5000 + ".yaml")
        with pytest.raises(SpecError, match=r"loop\.yaml: "):
            load(str(tmp_path / "loop.yaml"))
        with pytest.raises(SpecError) as raised:
            load("a" * 5000)
        assert len(str(raised.value)) < 1500


@pytest.mark.parametrize("order", [1, -1])
def test_a_chain_of_a_thousand_inputs(tmp_path: Path, order: int) -> None:
    runs = [f"  r{index}: {{set: {{method: replay}}, inputs: {{labels: r{index + 1}}}}}\n" for index in range(1000)]
    text = "runs:\n" + "".join(runs[::order]) + "  r1000: {set: {method: instance_labels}}\n"
    text = GOOD.replace("common:", text + "common:").replace("set: {method: one_hot}", "use: r0")
    message = refused(tmp_path, text.encode())
    assert "more than 40 deep" in message
    assert "tried.yaml:" in message


def test_runs_that_multiply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.spec.expansion.MOST_RUNS", 2_000)
    each = f"each: {{split.seed: {list(range(20))}}}"
    runs = [f"  r{index}: {{set: {{method: replay}}, {each}, inputs: {{labels: r{index + 1}}}}}\n" for index in range(6)]
    text = "runs:\n" + "".join(runs) + "  r6: {set: {method: instance_labels}, each: {noise.seed: [1, 2]}}\n"
    text = GOOD.replace("common:", text + "common:").replace("set: {method: one_hot}", "set: {method: replay}, inputs: {labels: r0}")
    # Each level has a setting of its own, which the levels below take over.
    for name in "abcdef":
        text = text.replace("split.seed", f"noise.{name}", 1)
    assert "tried.yaml:1: more than 2000 runs" in refused(tmp_path, text.encode())
