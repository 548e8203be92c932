from pathlib import Path

import pytest
from fake_workers import finish
from made_specs import TABLE, spec_of

from repro.files import write_json
from sweeps.cost import estimate
from sweeps.plan import Plan, make_plan
from sweeps.scales import load_scale
from sweeps.spec import load_spec


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "runs").mkdir()
    return make_plan([spec_of(tmp_path, TABLE)], load_scale("paper"), tmp_path / "runs")


def finished(plan: Plan, name: str, gpu_hours: float = 0.0, wall_s: float = 3600.0, threads: int = 2) -> None:
    finish(folder := plan.folder / name)
    write_json(folder / "cost.json", {"gpu_hours": gpu_hours, "wall_s": wall_s})
    write_json(folder / "identity.json", {"fields": plan.runs[name].fields})
    write_json(folder / "provenance.json", {"threads": threads})


def one_hot(plan: Plan) -> list[str]:
    return [name for name, run in plan.runs.items() if run.fields["method.name"] == "one_hot" and run.fields["optim.batch_size"] != 32]


def test_runs_take_the_median_of_finished_runs_of_their_kind(plan: Plan) -> None:
    first, second = one_hot(plan)
    assert (costs := estimate(plan)).unit == "GPU-hours"
    assert "26 as their FLOPs take" in costs.basis
    finished(plan, first)
    costs = estimate(plan)
    assert (costs.unit, costs.hours[first], costs.hours[second]) == ("CPU-hours", 2.0, 2.0)
    assert costs.total([first, second]) == "4.00"
    assert costs.total([plan.cells[0].run_ids[0]]) == "2.00", "replayed labels are as cheap as given ones"
    learned = next(name for name, run in plan.runs.items() if run.fields["method.name"] == "instance_labels")
    assert costs.total([learned]) == "no estimate"
    finished(plan, second, gpu_hours=0.5)
    costs = estimate(plan)
    assert (costs.unit, costs.hours[first]) == ("GPU-hours", 0.5)
    assert costs.hours[learned], "it is counted"


def test_counted_hours_grow_with_what_is_computed(tmp_path: Path) -> None:
    plan = make_plan([load_spec("table4")], load_scale("paper"), tmp_path)
    hours = estimate(plan).hours

    def of(method: str, model: str) -> float:
        fields = {"method.name": method, "model.name": model, "dataset.name": "cifar100"}
        found = {hours[name] for name, run in plan.runs.items() if fields.items() <= run.fields.items()}
        (value,) = found
        assert value is not None
        return value

    # 165 epochs of 50,000 images, three passes of 1.11 GFLOP each.
    assert of("one_hot", "resnet18") == pytest.approx(165 * 50_000 * 3 * 1.111e9 / (156e12 * 0.35) / 3600, rel=0.01)
    assert of("instance_labels", "resnet18") == pytest.approx(13 / 3 * of("one_hot", "resnet18"))
    assert of("distillation", "alexnet") > 5 * of("fixed_labels", "alexnet"), "its teacher is a ResNet18"
