"""The specs of the paper's tables and figures: how many runs they are, what they share, and that every published number has its cell."""

from functools import cache
from pathlib import Path

import pytest

from sweeps.plan.plan import Plan, make_plan, totals
from sweeps.spec.load import load_spec
from sweeps.spec.scale import load_scale

NOWHERE = Path("/nonexistent")
TABLES = [f"table{number}" for number in range(1, 10)]
FIGURES = ["figure2", "figure3", "figure4"]
PAPER = [*TABLES, *FIGURES]
AUDITS = ["audit_recipes", "audit_systems", "audit_momentum", "audit_noise", "audit_validation"]


@cache
def plan(*names: str) -> Plan:
    return make_plan([load_spec(name) for name in names], NOWHERE)


def test_table_1_is_156_runs_and_table_2_adds_12() -> None:
    assert totals(plan("table1"))["runs"] == 4 * (3 + 18 + 18)
    assert totals(plan("table1", "table2"))["runs"] == 168
    assert totals(plan(*PAPER))["runs"] == 510


def test_a_learned_cell_is_fifteen_fold_runs_and_three_final_runs() -> None:
    made = plan(*PAPER)
    cell = next(cell for cell in made.cells if cell.row == "Ours (Instance)" and (cell.spec, cell.column) == ("table1", "CIFAR10, VGG16"))
    folds = {name for final in cell.run_ids for name in made.runs[final].inputs}
    assert (len(cell.run_ids), len(folds)) == (3, 15)
    for final in (made.runs[name] for name in cell.run_ids):
        inputs = [made.runs[name].fields for name in final.inputs]
        assert [fields["split.fold"] for fields in inputs] == [0, 1, 2, 3, 4]
        assert {fields["seed"] for fields in inputs} == {final.fields["seed"]}
        assert final.fields["split.name"] == "full"
        assert {(fields["dataset.name"], fields["model.name"]) for fields in inputs} == {("cifar10", "vgg16")}


def cells(spec: str) -> dict[tuple[str, str], tuple[str, ...]]:
    return {(cell.row, cell.column): cell.run_ids for cell in plan(*PAPER).cells if cell.spec == spec}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("table1", "Baseline", "CIFAR100, VGG16"), ("table2", "Baseline", "VGG16")),
        (("table1", "Baseline", "CIFAR100, VGG16"), ("table5", "Baseline", "VGG16")),
        (("table1", "Ours (Instance)", "CIFAR100, ResNet18"), ("table2", "Ours (Instance)", "ResNet18")),
        (("table1", "Ours (Instance)", "CIFAR100, ResNet18"), ("table3", "Dynamic ✓", "Instance")),
        (("table1", "Ours (Class)", "CIFAR100, ResNet18"), ("table3", "Dynamic ✓", "Class")),
        (("table1", "Ours (Class)", "CIFAR10, VGG16"), ("table8", "Ours (Class)", "VGG16")),
        (("table4", "Temperature scaling ✓", "Ours (Labels)"), ("table5", "ResNet18", "AlexNet")),
        (("table7", "Ours (Instance labels)", "40%"), ("figure4", "Ours (Instance labels)", "")),
        (("figure3", "Ours (Instance labels)", ""), ("figure4", "Ours (Instance labels)", "")),
    ],
)
def test_what_the_paper_shows_twice_is_trained_once(first: tuple[str, str, str], second: tuple[str, str, str]) -> None:
    one, other = (cells(spec)[row, column] for spec, row, column in (first, second))
    assert one == other
    assert len(one) == 3


def test_dynamic_and_static_labels_are_different_runs_on_the_same_folds() -> None:
    made = plan(*PAPER)
    dynamic, static = (made.runs[cells("table3")[row, "Instance"][0]] for row in ("Dynamic ✓", "Dynamic ✗"))
    assert dynamic.run_id != static.run_id
    assert dynamic.inputs == static.inputs


def test_teachers_and_labels_come_from_the_networks_of_the_paper() -> None:
    made = plan(*PAPER)
    for (_, column), ids in cells("table4").items():
        student = made.runs[ids[0]]
        assert student.fields["model.name"] == "alexnet"
        assert {made.runs[name].fields["model.name"] for name in student.inputs} == {"resnet18"}, column
    for (row, column), ids in cells("table5").items():
        assert made.runs[ids[0]].fields["model.name"] == column.lower()
        sources = {made.runs[name].fields["model.name"] for name in made.runs[ids[0]].inputs}
        assert sources == (set() if row == "Baseline" else {row.lower()})


def test_figure_2_shows_runs_of_table_1() -> None:
    made = plan(*PAPER)
    assert all("table1" in run.specs for run in made.runs.values() if "figure2" in run.specs)


def test_no_run_of_the_noisy_tables_has_folds_and_all_have_a_clean_meta_set() -> None:
    for run in plan("table6", "table7").runs.values():
        assert (run.fields["split.name"], run.fields["split.meta_size"], run.fields["noise.name"]) == ("clean_meta", 1000, "uniform")
        assert run.inputs == ()


def test_table_9_is_the_paper_s() -> None:
    shown = {(cell.row, cell.column): cell.value for cell in plan("table9").cells}
    spec = load_spec("table9")
    assert len(spec.reported) == 9
    for item in spec.reported:
        assert shown[item.row, item.column] == item.mean


@pytest.mark.parametrize(
    ("name", "all_numbers", "copied"),
    [
        *(("table1", 12, 0), ("table2", 8, 0), ("table3", 4, 0), ("table4", 8, 0), ("table5", 9, 0)),
        *(("table6", 28, 24), ("table7", 16, 13), ("table8", 8, 0), ("table9", 9, 0), ("figure4", 2, 0)),
    ],
)
def test_every_published_number_has_its_cell(name: str, all_numbers: int, copied: int) -> None:
    reported = load_spec(name).reported
    assert (len(reported), sum(not item.own_run for item in reported)) == (all_numbers, copied)


def test_every_cell_has_runs() -> None:
    cells = [*plan(*PAPER).cells, *plan(*AUDITS, "noise_correction").cells]
    assert {cell.spec for cell in cells if not cell.run_ids} == {"table9"}, "which shows settings"


def test_audits_read_the_same_runs_at_several_epochs_with_validation_apart_from_meta() -> None:
    made = plan("audit_recipes", "audit_systems")
    for spec in ("audit_recipes", "audit_systems"):
        by_system: dict[tuple[str, str], set[tuple[str, ...]]] = {}
        rules: dict[tuple[str, str], set[str]] = {}
        for cell in made.cells:
            if cell.spec == spec:
                system = cell.row.rsplit(",", 1)[0], cell.column
                by_system.setdefault(system, set()).add(cell.run_ids)
                rules.setdefault(system, set()).add(str(cell.epoch))
        assert all(len(runs) == 1 for runs in by_system.values())
        assert all(len(read) == 3 for read in rules.values())
    assert all(run.fields["split.validation_size"] == 1000 for run in made.runs.values())


def test_the_audit_of_momentum_changes_nothing_else() -> None:
    made = plan("audit_momentum")
    cells = {cell.row: made.runs[cell.run_ids[0]].fields for cell in made.cells if cell.column == "CIFAR100, VGG16"}
    zero, more = cells["Table 9, momentum 0"], cells["Table 9, momentum 0.9"]
    assert {key for key in zero if zero[key] != more[key]} == {"optim.momentum"}
    assert (zero["optim.learning_rate"], zero["optim.weight_decay"]) == (0.6, 0.005)


def test_the_smoke_scale_keeps_the_graph() -> None:
    names = [*TABLES[:5], "table8", *FIGURES]
    smoke = make_plan([load_spec(name, load_scale("smoke")) for name in names], NOWHERE)
    paper = plan(*names)
    assert len(smoke.runs) == len(paper.runs)
    assert [len(cell.run_ids) for cell in smoke.cells] == [len(cell.run_ids) for cell in paper.cells]
    assert {run.fields["dataset.name"] for run in smoke.runs.values()} == {"digits"}
    assert max(run.epochs for run in smoke.runs.values()) <= 2
