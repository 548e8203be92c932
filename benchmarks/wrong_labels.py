"""What no run of the spec ``wrong_labels`` tells: the peer in finding wrong labels, and several runs together.

``python benchmarks/wrong_labels.py --scale small --epochs 5 15 30 60 > wrong_labels.jsonl``

The peer is confident learning: what ``cleanlab`` makes of one-hot training in five folds.

For each column and seed of the spec ``wrong_labels``, with the settings of its row of one-hot labels: five networks, each trained on four
fifths of the training images and on the clean meta set, predict the fifth that they have not seen. cleanlab ranks the annotations by its
``self_confidence``, and those that its ``find_label_issues`` names get the most probable class.

``python benchmarks/wrong_labels.py --scale small --runs RUNS --together "Instance labels" Co-teaching >> wrong_labels.jsonl``

For each column and seed, what ``python -m analysis audit`` makes of the trained runs of these rows in one list.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, and not installed

from analysis.audit.doubts import find_doubts
from repro.command import exit_code_of
from repro.config.compose import compose
from repro.config.schema import Config
from repro.data.prepare import LabelledImages, RunData, prepare
from repro.errors import UserError, first_of
from repro.labels.doubt import ranking
from repro.randomness import make_deterministic
from repro.training.build import build
from repro.training.evaluate import evaluate
from sweeps.expand import Cell
from sweeps.plan import make_plan
from sweeps.scales import PAPER, load_scale
from sweeps.spec import load_spec

FOLDS = 5


def with_epochs(config: Config, epochs: int) -> Config:
    """Return the settings of so many epochs, with the drops at the same shares of them; nothing is noted of the visits."""
    drops = [round(drop * epochs / config.optim.epochs) for drop in config.optim.milestones]
    optim = replace(config.optim, epochs=epochs, milestones=drops)
    return replace(config, optim=optim, trajectory=replace(config.trajectory, predictions=False))


def out_of_sample(config: Config, data: RunData) -> tuple[Any, float]:
    """Return the probabilities (N, K) of each image's classes by a network that was not trained on it, and the mean validation accuracy."""
    observed, accuracies, size = data.observed.numpy(), [], config.exec.eval_batch_size
    probabilities = np.empty((len(observed), data.num_classes))
    assert data.meta is not None
    for kept, held in StratifiedKFold(FOLDS, shuffle=True, random_state=config.seed).split(observed, observed):
        images, labels = data.train.images, data.observed
        train = LabelledImages(torch.cat([images[kept], data.meta.images]), torch.cat([labels[kept], data.meta.labels]))
        training = build(config, replace(data, train=train, observed=train.labels, true=train.labels), labels.device, Path())
        for epoch in range(config.optim.epochs):
            training.epoch, training.batch = epoch, 0
            plan = training.begin_epoch()
            while training.batch < training.num_batches:
                training.take_step(plan)
                training.batch += 1
        measure = partial(evaluate, training.model, transform=data.transform, num_classes=data.num_classes, batch_size=size)
        probabilities[held] = measure(LabelledImages(images[held], labels[held])).probabilities.numpy()
        assert data.validation is not None
        accuracies.append(measure(data.validation).accuracy)
    return probabilities, float(np.mean(accuracies))


def judged(config: Config) -> dict[str, float]:
    """Return what cleanlab makes of the annotations of a run.

    ``val_accuracy``: mean of the folds, to choose a number of epochs by; the measures of :func:`repro.labels.doubt.ranking`;
    ``right_before`` and ``right_after``: share of right labels before and after relabelling; ``cpu_s``: CPU seconds of this process.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    data, began = prepare(config, torch.device("cpu")), time.process_time()
    probabilities, accuracy = out_of_sample(config, data)
    observed, true = data.observed.numpy(), data.true.numpy()
    scores = get_label_quality_scores(observed, probabilities, method="self_confidence")
    after = np.where(find_label_issues(observed, probabilities), probabilities.argmax(axis=1), observed)
    shares = {"right_before": float((observed == true).mean()), "right_after": float((after == true).mean())}
    return {"val_accuracy": accuracy} | ranking(-scores, observed != true) | shares | {"cpu_s": time.process_time() - began}


def together(cells: Sequence[Cell], rows: Sequence[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield, for each column and seed of ``cells``, how well the runs of ``rows`` in ``folder``, as one list, find what is wrong.

    A line has the column, the seed, the rows, what :meth:`analysis.audit.doubts.Doubts.found` returns, all fractions, and CPU seconds.
    """
    by_row = {cell.row: [other.run_ids for other in cells if other.row == cell.row] for cell in cells}
    columns = dict.fromkeys(cell.column for cell in cells)
    for column, *run_ids in zip(columns, *(by_row[row] for row in rows), strict=True):
        for names in zip(*run_ids, strict=True):
            doubts = find_doubts([folder / name for name in names])
            place = {"column": column, "seed": doubts.records[0]["fields"]["seed"], "what": " and ".join(rows)}
            yield place | doubts.found() | {"cpu_s": sum(record["cost"]["cpu_s"] for record in doubts.records)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line of JSON for each column and seed: of the peer for each number of epochs, or of the runs of some rows together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default=PAPER, help="how large: a name or the path of a .yaml file (default: %(default)s)")
    parser.add_argument("--epochs", nargs="+", type=int, default=[15], help="how long each fold is trained (default: 15)")
    parser.add_argument("--only", default="", help="columns with this text alone")
    parser.add_argument("--together", nargs="+", metavar="ROW", help="not the peer, but the runs of these rows in one list")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="their folders (default: runs)")
    chosen = parser.parse_args(arguments)
    plan = make_plan([load_spec("wrong_labels")], load_scale(chosen.scale), chosen.runs)
    cells = [cell for cell in plan.cells if chosen.only in cell.column]
    if chosen.together:
        if unknown := set(chosen.together) - {cell.row for cell in cells}:
            raise UserError(f"--together: there is no row {first_of(sorted(unknown))}.")
        for line in together(cells, chosen.together, chosen.runs):
            print(json.dumps(line), flush=True)
        return
    if find_spec("cleanlab") is None:
        raise UserError("cleanlab is not installed; pip install -e '.[bench]' brings it")
    make_deterministic(threads=1, allow_tf32=False)
    for cell in (cell for cell in cells if cell.row == "One-hot"):
        for config in (compose(plan.runs[name].overrides) for name in cell.run_ids):
            for epochs in chosen.epochs:
                place = {"column": cell.column, "seed": config.seed, "what": f"cleanlab, {epochs} epochs"}
                print(json.dumps(place | judged(with_epochs(config, epochs))), flush=True)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
