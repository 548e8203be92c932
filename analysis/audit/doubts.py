"""What one or several runs make of the annotations of their images.

Only ``predictions.npz`` of the runs is looked at, whatever their methods are; they need the same dataset and the same annotations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from analysis.reading.images import Classes, dataset_of
from analysis.reading.runs import Record, read_record
from repro.data.types import RawDataset
from repro.errors import UserError, first_of
from repro.labels.doubt import Floats, Rule, choose_rule, corrected, likeliest_others, mean_of, own, ranking, read_predictions

#: How much a run counts that predicts clean images worse than another one: only where no other run was trained on the image.
_LITTLE = 1e-6

#: The column of a CSV that names images of one's own, as ``image_folder`` reads it.
FILE = "file"


@dataclass(frozen=True)
class Doubts:
    """The images (N,) that any of the runs was trained on, most doubtful first.

    Attributes:
        records: of the runs.
        raw: their dataset.
        rows: which training images of ``raw`` these are.
        annotated: their classes as annotated.
        suggested: the likeliest other class of each, by the mean of the runs.
        scores: share of the images that are less doubtful, in the mean of the runs.
        agreement: share of the runs, as they count, for which the suggested class is the likeliest other one, too.
        own: mean probability of the annotated class.
        other: mean probability of the suggested class.
        rule: how labels are changed: that which shows the largest gain, of runs that are not ``worse``.
        rule_of: the ids of these runs, by whose mean labels are changed: several where their images are the same.
        worse: the ids of the runs that predict clean images clearly worse than another one and hardly count in the order.
        corrected: classes after the rule.
        true: classes in truth; ``None`` where nobody knows them, which is so where the runs put no noise on labels.
    """

    records: list[Record]
    raw: RawDataset
    rows: Classes
    annotated: Classes
    suggested: Classes
    scores: Floats
    agreement: Floats
    own: Floats
    other: Floats
    rule: Rule
    rule_of: list[str]
    worse: list[str]
    corrected: Classes
    true: Classes | None

    def named(self, classes: Classes) -> list[str]:
        """Return the names of ``classes`` (M,) as the dataset has them."""
        return [self.raw.class_names[number] for number in classes]

    def in_words(self) -> str:
        """Return which runs do not count in the order, how many labels the rule changes, and why."""
        alone = "These runs predict clean images clearly worse than the others, which alone make the order and the rule: "
        return f"{alone}{first_of(self.worse)}. {self._of_rule()}" if self.worse else self._of_rule()

    def _of_rule(self) -> str:
        rule = self.rule
        if rule.clean == 0:
            return "No label is changed: the runs kept no predictions of clean images, which would tell what a change is worth."
        tried = (
            f"{rule.clean} clean images, of which {rule.rate:.1%} are taken to be annotated wrongly, as of the training images seem to be"
        )
        if rule.factor is None:
            return f"No label is changed: on {tried}, no rule repairs clearly more than it spoils."
        return (
            f"{(self.corrected != self.annotated).sum()} labels are changed: where another class is more than {rule.factor:.3g} times as "
            f"probable as the annotated one, over all visits of {first_of(self.rule_of)}. On {tried}, that adds {rule.gain:.2%} of right "
            f"labels (standard error {rule.error:.2%})."
        )

    def found(self) -> dict[str, float]:
        """Return how well the list finds wrong annotations (:func:`repro.labels.doubt.ranking`), and which share of labels is right."""
        if self.true is None or not 0 < (self.annotated != self.true).sum() < len(self.true):
            return {}
        before, after = (float((classes == self.true).mean()) for classes in (self.annotated, self.corrected))
        return ranking(self.scores, self.annotated != self.true) | {"right_before": before, "right_after": after}

    def by_rank(self) -> list[tuple[int, float, float]]:
        """Return precision and recall of the first so many images, where the truth is known and some annotations are wrong."""
        if not self.found():
            return []
        wrong = self.annotated != self.true
        tens = [lead * 10**power for power in range(1, 9) for lead in (1, 2, 5)]
        counts = sorted({*(count for count in tens if count < len(wrong)), int(wrong.sum())})
        return [(count, float(wrong[:count].mean()), float(wrong[:count].sum() / wrong.sum())) for count in counts]


def find_doubts(folders: Sequence[Path]) -> Doubts:
    """Return what the finished runs in ``folders`` make of their annotations.

    Raises:
        UserError: a run is not done, has no predictions, or differs from the first one in its dataset or its annotations.
    """
    records = [_done(folder) for folder in folders]
    raw, runs = dataset_of(records[0]), [read_predictions(folder) for folder in folders]
    for record in records[1:]:
        if dataset_of(record) is not raw:
            raise UserError(f"{record['place']} was trained on another dataset, or another part of it, than {records[0]['place']}.")
    positions = np.unique(np.concatenate([run.indices for run in runs]))
    annotated, probabilities = np.full(len(positions), -1), np.zeros((len(positions), raw.num_classes))
    scores, count, agreement = np.zeros((3, len(positions)))
    places = [np.searchsorted(positions, run.indices) for run in runs]
    # Where one class is mistaken for one other, a network that learns the mistake ranks worse than chance, and no average mends that.
    accuracies = [run.clean_accuracy.max(initial=0.0) for run in runs]
    worse = [max(accuracies) - of > np.sqrt(2 / max(1, len(run.clean_labels))) for of, run in zip(accuracies, runs, strict=True)]
    weighted = list(zip(records, runs, places, np.where(worse, _LITTLE, 1.0), strict=True))
    for record, run, place, weight in weighted:
        if ((annotated[place] != -1) & (annotated[place] != run.observed)).any():
            raise UserError(
                f"{record['place']}: its images are annotated otherwise than those of {records[0]['place']}. Noise is drawn anew for each "
                "seed, unless noise.seed is set."
            )
        annotated[place] = run.observed
        probabilities[place] += weight * run.probabilities
        scores[place] += weight * (1.0 - (rankdata(run.margins) - 0.5) / len(place))
        count[place] += weight
    probabilities, scores = probabilities / count[:, None], scores / count
    suggested = own(likeliest_others(probabilities), annotated)
    for _, run, place, weight in weighted:
        agreement[place] += weight * (own(likeliest_others(run.probabilities), run.observed) == suggested[place])
    after, keys = annotated.copy(), [(run.indices.tobytes(), run.clean_labels.tobytes(), len(run.clean_accuracy)) for run in runs]
    ruled = []
    # A mean needs the same clean images, which none of its networks was trained on.
    for key in dict.fromkeys(keys):
        if group := [number for number, other in enumerate(keys) if other == key and not worse[number]]:
            mean = mean_of([runs[number] for number in group])
            ruled.append((group, mean, choose_rule(mean)))
    group, mean, rule = max(ruled, key=lambda of: of[2].gain - of[2].error)
    after[places[group[0]]] = corrected(mean, rule)
    order, rows = np.argsort(-scores, kind="stable"), raw.rows_of(positions)
    return Doubts(
        records=records,
        raw=raw,
        rows=rows[order],
        annotated=annotated[order],
        suggested=suggested[order],
        scores=scores[order],
        agreement=(agreement / count)[order],
        own=own(probabilities, annotated)[order],
        other=own(probabilities, suggested)[order],
        rule=rule,
        rule_of=[records[number]["run_id"] for number in group],
        worse=[record["run_id"] for record, *_, weight in weighted if weight < 1.0],
        corrected=after[order],
        true=None if records[0]["fields"]["noise.name"] == "none" else raw.train.labels[rows[order]],
    )


def _done(folder: Path) -> Record:
    record = read_record(folder)
    if record["status"]["state"] != "done":
        raise UserError(f"{folder}: it is {record['status']['state']}, and must be the folder of a run that is done.")
    return record


def doubted_table(doubts: Doubts) -> pd.DataFrame:
    """Return the images that were trained on, most doubtful first, with both classes and how much speaks for each."""
    known = {} if doubts.true is None else {"true": doubts.named(doubts.true)}
    key, names = names_of(doubts.raw)
    return pd.DataFrame(
        {
            key: [names[row] for row in doubts.rows],
            "annotated": doubts.named(doubts.annotated),
            "suggested": doubts.named(doubts.suggested),
            "probability_annotated": doubts.own.round(4),
            "probability_suggested": doubts.other.round(4),
            "score": doubts.scores.round(5),
            "agreement": doubts.agreement.round(3),
            **known,
        }
    )


def corrected_table(doubts: Doubts) -> pd.DataFrame:
    """Return every image, what it is and was annotated as, and why, in the order of the dataset; ``image_folder`` reads that of its own."""
    raw, (key, names) = doubts.raw, names_of(doubts.raw)
    annotated = labels_of(doubts)
    corrected = annotated.copy()
    corrected[doubts.rows] = doubts.corrected
    why = np.full(len(names), "not trained on", dtype=object)
    why[doubts.rows] = "kept"
    why[corrected != annotated] = f"another class more than {doubts.rule.factor or 0:.3g} times as probable"
    table: dict[str, Any] = {key: names, "label": doubts.named(corrected)}
    if key == FILE:
        checked = set(verified_rows(raw))
        table["split"] = ["train" if row < len(raw.train_files) else "test" for row in range(len(names))]
        table["verified"] = ["true" if row in checked else "false" for row in range(len(names))]
    return pd.DataFrame(table | {"annotated": doubts.named(annotated), "rule": why})


def names_of(raw: RawDataset) -> tuple[str, list[Any]]:
    """Return what images are called, and by what: by their files, of the test set last, or by positions in a published training set."""
    return (FILE, [*raw.train_files, *raw.test_files]) if raw.train_files else ("position", raw.positions.tolist())


def labels_of(doubts: Doubts) -> Classes:
    """Return the classes of the images of :func:`names_of`, with the noise of the runs."""
    raw = doubts.raw
    annotated = np.concatenate([raw.train.labels, raw.test.labels])[: len(names_of(raw)[1])]
    annotated[doubts.rows] = doubts.annotated
    return annotated


def verified_rows(raw: RawDataset) -> list[int]:
    """Return which of the images of :func:`names_of` somebody has checked."""
    return [] if raw.verified is None else np.flatnonzero(raw.verified).tolist()
