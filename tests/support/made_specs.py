"""Spec files of tests."""

from pathlib import Path

from sweeps.spec import Spec, load_spec

#: A table whose runs read other runs, with a tuning, a group, and rules for single cells.
TABLE = """\
title: A table
kind: table
runs:
  folds:
    set: {method: instance_labels, split: fold}
    each: {split.fold: [0, 1, 2]}
    tuned: rate
  final:
    set: {method: replay, split: full}
    inputs: {labels: folds}
  first:
    set: {method: fixed_labels, split: full}
    inputs: {labels: {from: folds, where: {split.fold: 1}, set: {trajectory.dtype: float32}}}
tuning:
  rate:
    set: {method: instance_labels, split: fold, split.fold: 0, seed: 7}
    grid: {method.learning_rate: [5.0, 25.0, 50.0]}
    otherwise: {method.learning_rate: 50.0}
common: {dataset: digits, optim.epochs: 3, model: digits_cnn}
rows:
  - {label: Final, use: final}
  - {label: Taught, set: {method: distillation, split: full, model.width: 4}, inputs: {teacher: first}, epoch: best_val}
  - set: {split: full}
    epochs: {last: last, best: best_test}
    rows: [{label: One-hot, set: {method: one_hot}}]
columns:
  - {label: Clean, set: {optim.momentum: 0.0}}
  - {label: "40%", set: {optim.momentum: 0.4}}
cells:
  - {row: Taught, column: "40%", skip: makes no sense}
  - {row: ["One-hot, last", "One-hot, best"], column: "40%", set: {optim.batch_size: 32}}
repeats: {seed: [0, 1]}
value: {metric: test/accuracy, epoch: last}
"""

FIGURE = """\
title: A figure
kind: figure
rows: [{label: Labels, set: {method: class_labels, dataset: digits}}]
repeats: {seed: [0]}
panels: [{metric: "class_meta_accuracy/{k}", label: Accuracy, classes: [1]}]
"""

RECIPE = """\
title: Recipes
kind: recipe
common: {dataset: digits}
rows: [{label: Epochs, setting: optim.epochs}, {label: Rate, setting: optim.learning_rate}]
columns: [{label: Small, set: {model: digits_cnn}}]
"""

SCALE = """\
title: tiny
disclaimer: These numbers mean nothing.
rules:
  - {drop: [optim.momentum]}
  - {where: {model: digits_cnn}, set: {model: digits_cnn, model.width: 2}}
  - set: {optim: digits_cnn, optim.epochs: 1}
numbered_epochs: last
grid_points: 2
"""


def write(folder: Path, text: str, name: str = "tried.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def spec_of(folder: Path, text: str = TABLE, old: str = "", new: str = "") -> Spec:
    """The spec of ``text`` with ``new`` in the place of ``old``."""
    assert old in text
    return load_spec(write(folder, text.replace(old, new, 1)))
