"""Spec files of tests, and how a mistake in one is refused."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from sweeps.spec.data import SpecError

#: A table whose runs read other runs, with a tuning.
TWO_STAGES = """\
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
  big:
    set: {method: fixed_labels, split: full, model: vgg16}
    inputs: {labels: {from: folds, where: {split.fold: 1}, set: {trajectory.dtype: float32}}}
tuning:
  rate:
    set: {method: instance_labels, split: fold, split.fold: 0, seed: 7}
    grid: {method.learning_rate: [5.0, 25.0]}
    otherwise: {method.learning_rate: 50.0}
common: {dataset: cifar10, optim.epochs: 3}
rows:
  - {label: Final, use: final}
  - {label: Taught, set: {method: distillation, split: full}, inputs: {teacher: big}, epoch: best_val}
columns:
  - {label: Wide, set: {model: wrn_28_10, model.dropout: 0.3, noise: none}}
repeats:
  seed: [0, 1]
value: {metric: test/accuracy, epoch: last}
"""

#: A text of a file and what takes its place; the line of the mistake; words of the message.
Mistake = tuple[tuple[str, str], int, list[str]]


def write(folder: Path, text: str, name: str = "tried.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def check_refused(read: Callable[[], object], words: Iterable[str], place: str = "tried.yaml:") -> None:
    """Check that ``read`` ends in an error with all of ``words`` about ``place``, a file and line."""
    with pytest.raises(SpecError) as raised:
        read()
    for word in (place, *words):
        assert word in str(raised.value)


def check_mistake(read: Callable[[str], object], folder: Path, text: str, mistake: Mistake, name: str = "tried.yaml") -> None:
    """Check that ``read`` refuses the file ``name`` in ``folder`` when ``text`` has the mistake."""
    (old, new), line, words = mistake
    assert old in text
    check_refused(lambda: read(write(folder, text.replace(old, new, 1), name)), words, f"{name}:{line}: ")
