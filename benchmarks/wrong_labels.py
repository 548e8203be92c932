"""What no run of the spec ``wrong_labels`` tells: the peers in finding wrong labels, and several runs together.

``python benchmarks/wrong_labels.py --scale small --epochs 5 15 30 60 > wrong_labels.jsonl``

For each column and seed of the spec ``wrong_labels``, with the settings of its row of one-hot labels, the peers:

* confident learning: five networks, each trained on four fifths of the training images and on the clean meta set, predict the fifth that
  they have not seen. ``cleanlab`` ranks the annotations by its ``self_confidence``, and those that its ``find_label_issues`` names get the
  most probable class.
* nearest neighbours (SimiFeat; Zhu et al. 2022): one network, trained on all training images and on the clean meta set, says which images
  are alike, by the cosine of what its last layer reads. An image is ranked by the cosine of the vote of its ten nearest ones and itself
  with its annotation, and gets the class that most of them have. No network that was trained on other images is asked.

``python benchmarks/wrong_labels.py --scale small --runs RUNS --together "Instance labels" Co-teaching >> wrong_labels.jsonl``

For each column and seed, what ``python -m analysis audit`` makes of the trained runs of these rows in one list.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, and not installed

from analysis.audit.doubts import find_doubts
from repro.command import exit_code_of
from repro.config.compose import compose
from repro.config.schema import Config
from repro.data.prepare import LabelledImages, RunData, prepare
from repro.errors import UserError, first_of
from repro.labels.doubt import own, ranking
from repro.randomness import make_deterministic
from repro.training.build import build
from repro.training.evaluate import Evaluation, evaluate
from sweeps.expand import Cell
from sweeps.plan import make_plan
from sweeps.scales import PAPER, load_scale
from sweeps.spec import load_spec

FOLDS, NEIGHBOURS = 5, 10

#: Evaluates a model on images.
Measure = Callable[..., Evaluation]
#: Accuracy on the clean validation images; of each annotation (N,) a score, low where it is doubted; classes (N,) after relabelling.
Judged = tuple[float, Any, Any]


def with_epochs(config: Config, epochs: int) -> Config:
    """Return the settings of so many epochs, with the drops at the same shares of them; nothing is noted of the visits."""
    drops = [round(drop * epochs / config.optim.epochs) for drop in config.optim.milestones]
    optim = replace(config.optim, epochs=epochs, milestones=drops)
    return replace(config, optim=optim, trajectory=replace(config.trajectory, predictions=False))


def with_clean(data: RunData, rows: Any = slice(None)) -> LabelledImages:
    """Return the training images ``rows`` as annotated and the clean meta set, unless it is all that there is to choose epochs on."""
    assert data.meta is not None
    clean = slice(0 if data.validation is data.meta else None)
    images, labels = data.meta.images[clean], data.meta.labels[clean]
    return LabelledImages(torch.cat([data.train.images[rows], images]), torch.cat([data.observed[rows], labels]))


def trained(config: Config, data: RunData, train: LabelledImages) -> nn.Module:
    """Return a network that was trained on ``train``."""
    training = build(config, replace(data, train=train, observed=train.labels, true=train.labels), train.labels.device, Path())
    for epoch in range(config.optim.epochs):
        training.epoch, training.batch = epoch, 0
        plan = training.begin_epoch()
        while training.batch < training.num_batches:
            training.take_step(plan)
            training.batch += 1
    return training.model


def out_of_sample(config: Config, data: RunData, measure: Measure) -> tuple[float, Any]:
    """Return the mean validation accuracy, and the probabilities (N, K) of each image's classes by a network that was not trained on it."""
    observed, accuracies = data.observed.numpy(), []
    probabilities = np.empty((len(observed), data.num_classes))
    for kept, held in StratifiedKFold(FOLDS, shuffle=True, random_state=config.seed).split(observed, observed):
        model = trained(config, data, with_clean(data, kept))
        probabilities[held] = measure(model, LabelledImages(data.train.images[held], data.observed[held])).probabilities.numpy()
        accuracies.append(measure(model, data.validation).accuracy)
    return float(np.mean(accuracies)), probabilities


def confident_learning(config: Config, data: RunData, measure: Measure) -> Judged:
    """Return what ``cleanlab`` makes of the annotations."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    (accuracy, probabilities), observed = out_of_sample(config, data, measure), data.observed.numpy()
    after = np.where(find_label_issues(observed, probabilities), probabilities.argmax(axis=1), observed)
    return accuracy, get_label_quality_scores(observed, probabilities, method="self_confidence"), after


def nearest_neighbours(config: Config, data: RunData, measure: Measure) -> Judged:
    """Return what the :data:`NEIGHBOURS` images that are nearest to each image, and itself, are annotated as; the clean ones vote, too."""
    voters, features = with_clean(data), list[Tensor]()
    model = trained(config, data, voters)
    accuracy = measure(model, data.validation).accuracy
    with cast(nn.Linear, model.classifier).register_forward_pre_hook(lambda _, inputs: features.append(inputs[0])):
        measure(model, voters)
    found = torch.cat(features).numpy()
    near = (
        NearestNeighbors(n_neighbors=NEIGHBOURS + 1, metric="cosine")
        .fit(found)
        .kneighbors(found[: len(data.observed)], return_distance=False)
    )
    votes = np.eye(data.num_classes)[voters.labels.numpy()[near]].sum(axis=1)
    return accuracy, own(votes, data.observed.numpy()) / np.linalg.norm(votes, axis=1), votes.argmax(axis=1)


#: The peers, by name.
PEERS = {"cleanlab": confident_learning, "nearest neighbours": nearest_neighbours}


def judged(config: Config, peer: str) -> dict[str, float]:
    """Return what a peer makes of the annotations of a run.

    ``val_accuracy``: of its networks, in the mean, to choose a number of epochs by; the measures of :func:`repro.labels.doubt.ranking`;
    ``right_before`` and ``right_after``: share of right labels before and after relabelling; ``cpu_s``: CPU seconds of this process.
    """
    data, began = prepare(config, torch.device("cpu")), time.process_time()
    measure = partial(evaluate, transform=data.transform, num_classes=data.num_classes, batch_size=config.exec.eval_batch_size)
    accuracy, scores, after = PEERS[peer](config, data, measure)
    observed, true = data.observed.numpy(), data.true.numpy()
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
    """Print a line of JSON for each column and seed: of each peer and number of epochs, or of the runs of some rows together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default=PAPER, help="how large: a name or the path of a .yaml file (default: %(default)s)")
    parser.add_argument("--epochs", nargs="+", type=int, default=[15], help="how long their networks are trained (default: 15)")
    parser.add_argument("--only", default="", help="columns with this text alone")
    parser.add_argument("--together", nargs="+", metavar="ROW", help="not the peers, but the runs of these rows in one list")
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
            for peer, epochs in product(PEERS, chosen.epochs):
                place = {"column": cell.column, "seed": config.seed, "what": f"{peer}, {epochs} epochs"}
                print(json.dumps(place | judged(with_epochs(config, epochs), peer)), flush=True)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
