"""Groups of rows: what a group says counts as said by each of its rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_specs import check_mistake, write

from sweeps.spec.load import expand, load_spec

GROUPED = """\
title: A table
kind: table
common: {dataset: digits}
rows:
  - {label: Alone, set: {method: one_hot}}
  - set: {noise: uniform, noise.rate: 0.4}
    epochs: {last epoch: last, best epoch: best_test}
    rows:
      - {label: One-hot, set: {method: one_hot}}
      - label: Focal
        set: {method: focal}
columns:
  - set: {optim.batch_size: 32}
    columns:
      - {label: Short, set: {optim.epochs: 2}}
      - {label: Long, set: {optim.epochs: 4}}
repeats: {seed: [0]}
value: {metric: test/accuracy, epoch: last}
"""

FLAT = """\
title: A table
kind: table
common: {dataset: digits}
rows:
  - {label: Alone, set: {method: one_hot}}
  - {label: "One-hot, last epoch", set: {method: one_hot, noise: uniform, noise.rate: 0.4}}
  - {label: "One-hot, best epoch", set: {method: one_hot, noise: uniform, noise.rate: 0.4}, epoch: best_test}
  - {label: "Focal, last epoch", set: {method: focal, noise: uniform, noise.rate: 0.4}}
  - {label: "Focal, best epoch", set: {method: focal, noise: uniform, noise.rate: 0.4}, epoch: best_test}
columns:
  - {label: Short, set: {optim.epochs: 2, optim.batch_size: 32}}
  - {label: Long, set: {optim.epochs: 4, optim.batch_size: 32}}
repeats: {seed: [0]}
value: {metric: test/accuracy, epoch: last}
"""


def cells(folder: Path, text: str) -> list[object]:
    found = expand(load_spec(write(folder, text)))
    return [(cell.row, cell.column, str(cell.epoch), [run.overrides for run in cell.variants]) for cell in found]


def test_a_group_means_its_rows_written_out(tmp_path: Path) -> None:
    assert cells(tmp_path, GROUPED) == cells(tmp_path, FLAT)


MISTAKES = {
    "a setting twice": (
        ("{label: One-hot, set: {method: one_hot}}", "{label: One-hot, set: {noise: none}}"),
        9,
        ["noise is set by row 'One-hot' and by its group", ":6)"],
    ),
    "a run twice": (
        ("label: Focal\n", "label: Focal\n        use: a\n", "    epochs:", "    use: b\n    epochs:"),
        12,
        ["rows[1].rows[1].use", "the group says it too", "Say it in one place"],
    ),
    "no mapping": (
        ("      - label: Focal\n        set: {method: focal}", "      - Focal"),
        10,
        ["rows[1].rows[1] must be a mapping", "'Focal'"],
    ),
    "a group in a group": (("label: Focal\n", "rows: []\n"), 10, ["rows[1].rows[1].rows", "a group may hold no group"]),
    "an epoch twice": (("label: Focal\n", "label: Focal\n        epoch: last\n"), 11, ["rows[1].rows[1].epoch", "Say it in one place"]),
    "no epochs": (("{last epoch: last, best epoch: best_test}", "{}"), 7, ["rows[1].epochs", "at least one entry"]),
    "epochs of nothing": (("{last epoch: last, best epoch: best_test}", "null"), 7, ["rows[1].epochs must be a mapping"]),
    "no rows": (("- {label: Short", "# {label: Short", "- {label: Long", "# {label: Long"), 14, ["columns[0].columns must be a list"]),
    "no such epoch": (("best epoch: best_test", "best epoch: best_tst"), 7, ["there is no epoch rule 'best_tst'", "'best_test'"]),
    "no such key": (("    epochs:", "    epoch:"), 7, ["rows[1].epoch: there is no such key", "'epochs'"]),
    "no label": (("label: Focal\n        set", "set"), 10, ["rows[1].rows[1].label is missing"]),
    "no such key of a row": (("label: Focal\n", "lable: Focal\n"), 10, ["rows[1].rows[1].lable: there is no such key", "'label'"]),
    "epochs of columns": (
        ("    columns:", "    epochs: {first: last}\n    columns:"),
        14,
        ["columns[0].epochs: there is no such key"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_file_and_line(tmp_path: Path, name: str) -> None:
    (*before, old, new), line, words = MISTAKES[name]
    text = GROUPED.replace(before[0], before[1], 1) if before else GROUPED
    check_mistake(load_spec, tmp_path, text, ((old, new), line, words))
