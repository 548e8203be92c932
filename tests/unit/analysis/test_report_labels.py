"""Which labels the report shows, and how it keeps their numbers."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
from label_runs import label_run
from moving_labels import CLASSES, IMAGES, INDICES, Floats, class_labels, instance_labels

from analysis.report.labels import EPOCHS, NOT_A_NUMBER, encode, select
from repro.labels.trajectory import open_trajectory


def selected(folder: Path, blocks: Floats, **more: Any) -> dict[str, Any]:
    label_run(folder / "run", INDICES, list(blocks), **more)
    return select(open_trajectory(folder / "run" / "labels"))


def values_of(item: dict[str, Any]) -> Floats:
    """Return the values (epochs, classes) of an item; NaN stays."""
    stored = np.frombuffer(base64.b64decode(item["values"]), "<u2").reshape(-1, len(item.get("classes", [0])))
    return np.where(stored == NOT_A_NUMBER, np.nan, stored / 10_000).astype(np.float32)


def groups_of(chosen: dict[str, Any]) -> dict[str, list[int]]:
    """Return the rows of the items of each group."""
    return {group["name"]: [chosen["items"][place]["position"] // 3 for place in group["items"]] for group in chosen["groups"]}


def test_class_labels_are_those_after_the_last_step(tmp_path: Path) -> None:
    chosen = selected(tmp_path, class_labels(), kind="class")
    assert [item["position"] for item in chosen["items"]] == list(range(CLASSES))
    for number, item in enumerate(chosen["items"]):
        np.testing.assert_allclose(values_of(item)[:, 0], 1 - class_labels()[:, -1, number], atol=1e-4)


def test_instances_are_chosen_by_the_stated_rule(tmp_path: Path) -> None:
    chosen = selected(tmp_path, instance_labels())
    assert groups_of(chosen) == {
        # 4 moved furthest; the others did not move, so their order is that of the rows.
        "Moved most": [4, 5, 3, 0, 1, 2, 6, 7],
        "Drawn at random": [22, 20, 25, 4, 10, 15, 28, 11],
        "Most probable class changed": [5, 4, 3],
    }
    positions = [item["position"] for item in chosen["items"]]
    assert len(positions) == len(set(positions))
    # Of an instance the most probable classes are kept.
    item = chosen["items"][positions.index(3 * 4)]
    assert item["classes"][:2] == [5, 4]
    assert len(item["classes"]) == 6
    np.testing.assert_allclose(values_of(item), instance_labels()[:, 4][:, item["classes"]], atol=1e-4)


def test_what_became_of_wrong_and_right_labels_is_told_where_the_truth_is_known(tmp_path: Path) -> None:
    label_run(tmp_path / "run", INDICES, list(instance_labels()))
    annotated = np.arange(IMAGES) % CLASSES
    true = annotated.copy()
    # 4 moves to the class after its own, which is right; 5 does so too, which is wrong; 6 stays where it is, which is wrong.
    true[[4, 6]] += 1
    chosen = select(open_trajectory(tmp_path / "run" / "labels"), (annotated, true))
    assert list(groups_of(chosen)) == ["Moved most", "Drawn at random", "Repaired", "Spoilt", "Still wrong"]
    assert [groups_of(chosen)[name] for name in ("Repaired", "Spoilt", "Still wrong")] == [[4], [5, 3], [6]]
    assert [group["total"] for group in chosen["groups"]] == [40, 40, 1, 2, 1]
    item = next(item for item in chosen["items"] if item["position"] == 3 * 4)
    assert (item["begins"], item["ends"], item["true"]) == (4, 5, 5)


def test_a_label_that_ends_between_two_classes_is_not_repaired(tmp_path: Path) -> None:
    labels = instance_labels()
    labels[-1, 4] = 0.0
    labels[-1, 4, [4, 5]] = 0.5
    label_run(tmp_path / "run", INDICES, list(labels))
    annotated, true = np.arange(IMAGES) % CLASSES, np.arange(IMAGES) % CLASSES
    true[4] = 5
    chosen = select(open_trajectory(tmp_path / "run" / "labels"), (annotated, true))
    assert groups_of(chosen)["Still wrong"] == [4]


def test_labels_of_a_run_that_diverged_have_gaps_and_did_not_move(tmp_path: Path) -> None:
    values = instance_labels()
    values[-1, :2] = np.nan
    chosen = selected(tmp_path, values)
    assert groups_of(chosen)["Moved most"][:5] == [4, 5, 3, 0, 1]
    item = next(item for item in chosen["items"] if item["position"] == 0)
    assert item["classes"][0] == 0
    assert np.isnan(values_of(item)).all(axis=1).tolist() == [False] * 4 + [True]
    assert item["ends"] is None


def test_of_many_epochs_evenly_spaced_ones_and_those_that_were_not_reached_are_said(tmp_path: Path) -> None:
    chosen = selected(tmp_path, instance_labels(epochs=2 * EPOCHS - 1), planned=300)
    assert chosen["epochs"] == list(range(1, 2 * EPOCHS, 2))
    assert chosen["planned"] == 300
    assert values_of(chosen["items"][0]).shape == (EPOCHS, 6)


def test_numbers_are_stored_in_ten_thousandths() -> None:
    stored = np.frombuffer(base64.b64decode(encode(np.array([[0.0, 1.0], [0.12346, np.nan], [1.0004, -0.1]], np.float32))), "<u2")
    assert stored.tolist() == [0, 10_000, 1235, NOT_A_NUMBER, 10_000, 0]
