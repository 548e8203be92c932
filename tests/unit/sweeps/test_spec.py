import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from made_specs import check_mistake, write

from sweeps.spec.load import Epoch, SpecError, expand, find_spec, known_specs, load_spec
from sweeps.spec.settings import override_value

GOOD = """\
title: A table
kind: table
caption: What it shows.
common: {dataset: digits, optim.epochs: 3}
rows:
  - label: One-hot
    set: {method: one_hot}
  - label: Instance labels
    set: {method: instance_labels, method.learning_rate: 1e2}
columns:
  - {label: Clean, set: {noise: none}}
  - {label: "40%", set: {noise: uniform, noise.rate: 0.4}}
repeats:
  seed: [0, 1, 2]
value: {metric: test/accuracy, epoch: last, scale: percent, better: higher}
cell: {statistic: mean, spread: sample_sd}
"""


def test_a_table_expands_to_every_cell_and_run_once(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, GOOD))
    cells = expand(spec)
    assert [(cell.row, cell.column) for cell in cells] == list(product(("One-hot", "Instance labels"), ("Clean", "40%")))
    assert all(len(cell.variants) == 3 for cell in cells)
    assert len({variant.overrides for cell in cells for variant in cell.variants}) == 12
    assert cells[3].variants[2].overrides == (
        "dataset=digits",
        "method=instance_labels",
        "noise=uniform",
        "seed=2",
        "method.learning_rate=100.0",
        "noise.rate=0.4",
        "optim.epochs=3",
    )
    assert cells[3].variants[2].repeat_values == {"seed": 2}


def test_cells_can_be_left_out_or_have_settings_of_their_own(tmp_path: Path) -> None:
    more = (
        "cells:\n  - {row: One-hot, column: '40%', skip: makes no sense}\n"
        "  - {row: Instance labels, column: ['40%'], set: {method.momentum: 0.9}}\n"
        "  - {column: Clean, set: {optim.batch_size: 32}}\n"
    )
    cells = {(cell.row, cell.column): cell for cell in expand(load_spec(write(tmp_path, GOOD + more)))}
    assert cells["One-hot", "40%"].skip == "makes no sense"
    assert cells["One-hot", "40%"].variants == ()
    assert "method.momentum=0.9" in cells["Instance labels", "40%"].variants[0].overrides
    assert "optim.batch_size=32" in cells["One-hot", "Clean"].variants[0].overrides
    assert "optim.batch_size=32" not in cells["Instance labels", "40%"].variants[0].overrides


def test_several_repeats_are_combined(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, GOOD.replace("  seed: [0, 1, 2]\n", "  seed: [0, 1]\n  split.fold: [0, 1, 2]\n")))
    assert [variant.repeat_values for variant in expand(spec)[0].variants] == [
        {"seed": seed, "split.fold": fold} for seed in (0, 1) for fold in (0, 1, 2)
    ]


def test_a_figure_may_have_no_columns(tmp_path: Path) -> None:
    text = GOOD.replace("kind: table", "kind: figure").split("columns:")[0]
    text += "repeats: {seed: [0]}\nx: epoch\npanels:\n  - {metric: noise/label_error, label: Label error, scale: percent}\n"
    spec = load_spec(write(tmp_path, text))
    assert [panel.metric for panel in spec.panels] == ["noise/label_error"]
    assert [cell.column for cell in expand(spec)] == ["", ""]


@pytest.mark.parametrize(
    ("text", "epoch"), [("best_val", Epoch("best_val")), ("best_test", Epoch("best_test")), ("epoch 84", Epoch("epoch", 84))]
)
def test_epoch_rules(tmp_path: Path, text: str, epoch: Epoch) -> None:
    spec = load_spec(write(tmp_path, GOOD.replace("epoch: last", f"epoch: {text}")))
    assert spec.value.epoch == epoch
    assert str(epoch) == text


MISTAKES = {
    "unknown key": (("caption: What", "captoin: What"), 3, ["captoin", "Did you mean 'caption'?"]),
    "unknown key below": (("- label: One-hot", "- labl: One-hot"), 6, ["rows[0].labl", "'label'"]),
    "key twice": (("common: {dataset: digits,", "common: {dataset: digits, dataset: digits,"), 4, ["common.dataset is given twice"]),
    "top key twice": (("repeats:\n", "title: Again\nrepeats:\n"), 13, ["title is given twice, first in line 1"]),
    "row and column": (
        ("set: {method: one_hot}", "set: {method: one_hot, noise: none}"),
        11,
        ["noise is set by column 'Clean'", "row 'One-hot'", ":7"],
    ),
    "row and common": (
        ("set: {method: one_hot}", "set: {method: one_hot, dataset: digits}"),
        7,
        ["dataset is set by row 'One-hot'", "common", ":4"],
    ),
    "repeats and common": (("optim.epochs: 3", "seed: 3"), 14, ["seed is set by repeats and by common"]),
    "missing label": (("- label: One-hot\n    set:", "- set:"), 6, ["rows[0].label is missing"]),
    "same label": (("label: Instance labels", "label: One-hot"), 8, ["'One-hot' is given twice, first in line 6"]),
    "no repeats": (("seed: [0, 1, 2]", "seed: []"), 14, ["repeats.seed is empty"]),
    "empty repeats": (("repeats:\n  seed: [0, 1, 2]", "repeats: {}"), 13, ["repeats is empty"]),
    "same repeat": (("[0, 1, 2]", "[0, 1, 0]"), 14, ["counted twice"]),
    "epoch rule": (("epoch: last", "epoch: best_vl"), 15, ["no epoch rule 'best_vl'", "Did you mean 'best_val'?", "epoch N"]),
    "epoch zero": (("epoch: last", "epoch: epoch 0"), 15, ["no epoch rule 'epoch 0'"]),
    "number as label": (('label: "40%"', "label: 40"), 12, ["columns[1].label must be a text", "quotes"]),
    "label of two lines": (('label: "40%"', 'label: "4\\n0"'), 12, ["one line"]),
    "list for mapping": (
        ("common: {dataset: digits, optim.epochs: 3}", "common: [dataset]"),
        4,
        ["common must be a mapping", "found a list"],
    ),
    "mapping as value": (("optim.epochs: 3", "optim: {epochs: 3}"), 4, ["common.optim must be a text, a number"]),
    "date as value": (("optim.epochs: 3", "optim.epochs: 2020-01-01"), 4, ["common.optim.epochs must be"]),
    "kind": (("kind: table", "kind: tabel"), 2, ["kind: 'tabel' does not exist", "Did you mean 'table'?"]),
    "no kind": (("kind: table\n", ""), 1, ["kind is missing"]),
    "no value": (("value: {metric: test/accuracy, epoch: last, scale: percent, better: higher}\n", ""), 1, ["value is missing"]),
    "figure's key": (("caption: What it shows.", "panels: []"), 3, ["panels: there is no such key"]),
    "metric": (("test/accuracy", "accuracy"), 15, ["value.metric must be the name of a metric"]),
    "scale": (("scale: percent", "scale: per cent"), 15, ["'per cent' does not exist", "'percent'"]),
    "spread": (("sample_sd", "sd"), 16, ["cell.spread: 'sd' does not exist", "sample_sd"]),
    "no setting": (("optim.epochs: 3", "+optim.epochs: 3"), 4, ["'+optim.epochs' is no name of a setting"]),
    "unclosed": (("repeats:\n", "repeats: [\n"), 15, ["not YAML"]),
    "exception of nothing": (("cell: {", "cells: [{row: One-hot}]\ncell: {"), 16, ["cells[0] needs either set"]),
    "exception of unknown row": (
        ("cell: {", "cells: [{row: One-hott, skip: senseless}]\ncell: {"),
        16,
        ["'One-hott' does not exist", "'One-hot'"],
    ),
    "exception sets it again": (
        ("cell: {", "cells: [{row: One-hot, set: {method: x}}]\ncell: {"),
        16,
        ["method is set by cells and by row 'One-hot'"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_file_and_line(tmp_path: Path, name: str) -> None:
    check_mistake(load_spec, tmp_path, GOOD, MISTAKES[name])


def test_names_of_specs() -> None:
    assert find_spec("demo") == known_specs()["demo"]
    with pytest.raises(SpecError, match=r"Did you mean 'demo_curves'\? Known: .*demo, demo_curves, demo_labels"):
        find_spec("demo_curve")
    with pytest.raises(SpecError, match="there is no such file"):
        find_spec("nowhere/table.yaml")


@example("\\'")
@example("ends in \\")
@example("'")
@example("${seed}")
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), min_size=1),
        lambda scalar: st.lists(scalar, max_size=3).map(tuple),
        max_leaves=3,
    ).filter(lambda value: not isinstance(value, tuple) or all(not isinstance(item, tuple) for item in value))
)
def test_hydra_reads_an_override_back_as_it_was(value: object) -> None:
    parsed: Any = OverridesParser.create().parse_override(f"key={override_value(value)}").value()
    if isinstance(value, str):
        parsed = getattr(parsed, "text", parsed)
    elif isinstance(value, tuple):
        parsed = tuple(getattr(item, "text", item) for item in parsed)
    assert parsed == value
    assert type(parsed) is type(value)


def test_a_spec_needs_neither_torch_nor_hydra() -> None:
    code = "\n".join(
        [
            "import sys",
            "from sweeps.spec.load import known_specs, load_spec",
            "assert [load_spec(name) for name in known_specs()]",
            "assert not {'torch', 'hydra', 'omegaconf'} & set(sys.modules)",
        ]
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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


def cells_of(folder: Path, text: str) -> list[object]:
    found = expand(load_spec(write(folder, text)))
    return [(cell.row, cell.column, str(cell.epoch), [run.overrides for run in cell.variants]) for cell in found]


def test_a_group_means_its_rows_written_out(tmp_path: Path) -> None:
    assert cells_of(tmp_path, GROUPED) == cells_of(tmp_path, FLAT)


GROUP_MISTAKES = {
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


@pytest.mark.parametrize("name", GROUP_MISTAKES)
def test_a_mistake_in_a_group(tmp_path: Path, name: str) -> None:
    (*before, old, new), line, words = GROUP_MISTAKES[name]
    text = GROUPED.replace(before[0], before[1], 1) if before else GROUPED
    check_mistake(load_spec, tmp_path, text, ((old, new), line, words))
