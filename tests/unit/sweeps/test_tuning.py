import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_specs import write

from analysis.tables.table import make_table
from repro.errors import UserError
from repro.files import read_json, write_json
from repro.runs.manifest import seal
from sweeps.local.progress import Outcome
from sweeps.local.tuning import choose, plan_level, tune, tunings_of
from sweeps.plan.plan import Plan, make_plan, write_plans
from sweeps.report import print_chosen
from sweeps.spec.chosen import Chosen, GridPoint, read_tuned, tuned_text
from sweeps.spec.data import Place
from sweeps.spec.load import Spec, load_spec
from sweeps.spec.scale import PAPER, load_scale
from sweeps.spec.settings import Setting

SPEC = """\
title: A table
kind: table
runs:
  folds:
    set: {method: instance_labels, split: fold}
    each: {split.fold: [0, 1]}
    tuned: rate
  teacher:
    set: {method: fixed_labels, split: full, model: digits_cnn}
    inputs: {labels: folds}
tuning:
  rate:
    set: {method: instance_labels, split: fold, split.fold: 0, seed: 7}
    grid: {method.learning_rate: [5.0, 25.0, 50.0], method.momentum: [0.0, 0.9]}
    otherwise: {method.learning_rate: 50.0, method.momentum: 0.0}
  heat:
    set: {method: distillation, split: fold, split.fold: 0, seed: 7}
    inputs: {teacher: teacher}
    grid: {method.temperature: [1.0, 2.0]}
    otherwise: {method.temperature: 2.0}
common: {dataset: digits, optim.epochs: 3}
rows:
  - {label: Taught, set: {method: distillation, split: full}, inputs: {teacher: teacher}, tuned: heat}
columns:
  - {label: Small, set: {model: digits_cnn, model.width: 8}}
repeats: {seed: [0, 1]}
value: {metric: test/accuracy, epoch: last}
"""

RATE = ("rate", "digits", "digits_cnn")
HEAT = ("heat", "digits", "digits_cnn")


@pytest.fixture(autouse=True)
def other_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_TUNED", str(tmp_path / "elsewhere"))


def score(fields: dict[str, Any]) -> float:
    """Return a score that is best at a learning rate of 25 and a momentum of 0, and at a temperature of 1."""
    rate = -abs(fields.get("method.learning_rate", 25.0) - 25.0) / 100
    return float(0.9 + rate - fields.get("method.momentum", 0.0) / 10 - fields.get("method.temperature", 0.0) / 10)


class Trainer:
    """Makes the folders of finished runs; ``final`` makes what final.json holds from the settings of a run."""

    def __init__(self, final: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> None:
        self.plans: list[Plan] = []
        self._final = final or (lambda fields: {"val/accuracy": {"last": score(fields)}})

    def __call__(self, plan: Plan) -> Outcome:
        self.plans.append(plan)
        for run in plan.runs.values():
            folder = plan.folder / run.run_id
            if not folder.exists():
                folder.mkdir(parents=True)
                write_json(folder / "status.json", {"state": "done"})
                write_json(folder / "final.json", self._final(run.fields))
                seal(folder)
        return Outcome(done=set(plan.runs))


def tuned_at(folder: Path, trainer: Trainer, *, text: str = SPEC) -> list[Chosen]:
    return tune([load_spec(write(folder, text))], PAPER, folder / "runs", folder / "tuned", trainer)


def values(chosen: Chosen) -> dict[str, object]:
    return {setting.key: setting.value for setting in chosen.values}


def test_a_tuning_comes_after_those_that_it_needs(tmp_path: Path) -> None:
    levels = tunings_of([load_spec(write(tmp_path, SPEC))])
    assert [[needed.use.key for needed in level] for level in levels] == [[RATE], [HEAT]]


def test_the_runs_of_a_grid_train_on_what_the_run_trains_on_that_needs_it(tmp_path: Path) -> None:
    ((rate,), (heat,)) = tunings_of([load_spec(write(tmp_path, SPEC))])
    # The folds are read by the teacher, whose model of its own has taken away the reader's width and recipe.
    assert [variant.overrides for _, variant in rate.grid][:2] == [
        (
            *("dataset=digits", "method=instance_labels", "model=digits_cnn", "seed=7", "split=fold"),
            *("method.learning_rate=5.0", f"method.momentum={momentum}", "split.fold=0"),
        )
        for momentum in (0.0, 0.9)
    ]
    assert len(rate.grid) == 6
    _, taught = heat.grid[0]
    assert {"model.width=8", "optim.epochs=3", "method=distillation", "split=fold", "seed=7"} <= set(taught.overrides)
    assert "method.temperature=1.0" in taught.overrides
    ((_, (teacher,)),) = taught.inputs
    assert "seed=7" in teacher.overrides
    assert len(teacher.read) == 2


def test_the_runs_of_a_grid_have_what_is_tuned_beside_it_whatever_is_named_first(tmp_path: Path) -> None:
    """A row tunes its temperature, its column the learning rate of the network."""
    column = "{label: Small, set: {model: digits_cnn, model.width: 8}, tuned: recipe}"
    text = SPEC.replace("{label: Small, set: {model: digits_cnn, model.width: 8}}", column)
    recipe = "  recipe:\n    set: {method: one_hot, split: fold, split.fold: 0, seed: 7}\n    grid: {optim.learning_rate: [0.01, 0.02]}\n"
    text = text.replace("common:", f"{recipe}    otherwise: {{optim.learning_rate: 0.02}}\ncommon:")
    trainer = Trainer(lambda fields: {"val/accuracy": {"last": score(fields) - fields["optim.learning_rate"]}})
    chosen = {item.key[0]: values(item) for item in tuned_at(tmp_path, trainer, text=text)}
    assert chosen["recipe"] == {"optim.learning_rate": 0.01}
    rates = {run.fields["optim.learning_rate"] for run in trainer.plans[-1].runs.values() if run.fields["method.name"] == "distillation"}
    assert rates == {0.01}


def test_the_plan_of_a_level_holds_the_inputs_too(tmp_path: Path) -> None:
    _, level = tunings_of([load_spec(write(tmp_path, SPEC))])
    plan, points = plan_level(level, tmp_path / "runs")
    assert [run.fields["method.name"] for run in plan.runs.values()] == [
        *("instance_labels", "instance_labels", "fixed_labels", "distillation", "distillation")
    ]
    assert [node.stage for _, node in points[HEAT]] == [2, 2]
    assert plan.runs[points[HEAT][0][1].run_id].place == "tried: tuning heat, method.temperature=1.0 (for digits, digits_cnn)"
    assert {run.specs for run in plan.runs.values()} == {("tried",)}


def test_a_scale_thins_the_grids(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, SPEC), load_scale("smoke"))
    ((rate,), _) = tunings_of([spec])
    assert [tuple(setting.value for setting in point) for point, _ in rate.grid] == [(5.0, 0.0), (5.0, 0.9), (50.0, 0.0), (50.0, 0.9)]
    assert all("optim.epochs=2" in variant.overrides for _, variant in rate.grid)


def test_values_that_an_input_takes_over_are_chosen_first(tmp_path: Path) -> None:
    text = SPEC.replace("tuned: heat}", "tuned: [recipe]}").replace(", model: digits_cnn}\n    inputs", "}\n    inputs")
    text = text[: text.index("  heat:")] + text[text.index("common:") :]
    text = text.replace("tuning:", "tuning:\n  recipe: {grid: {optim.learning_rate: [0.1]}, otherwise: {optim.learning_rate: 0.2}}")
    levels = tunings_of([load_spec(write(tmp_path, text))])
    assert [[needed.use.key[0] for needed in level] for level in levels] == [["recipe"], ["rate"]]
    # Now the recipe's own runs would need the labels that were learned with the recipe.
    text = text.replace("recipe: {", "recipe: {inputs: {teacher: teacher}, ")
    with pytest.raises(UserError, match=r"tried\.yaml:12: these tunings wait for each other's values: recipe for .*; rate for"):
        tunings_of([load_spec(write(tmp_path, text))])


def test_two_specs_mean_one_tuning_by_one_name(tmp_path: Path) -> None:
    specs = [load_spec(write(tmp_path, SPEC)), load_spec(write(tmp_path, SPEC, "again.yaml"))]
    with pytest.raises(UserError, match=r"again\.yaml:12: tuning 'heat' is also in .*tried\.yaml|again\.yaml:1.: tuning '\w+' is also in"):
        tunings_of(specs)


def points(*scores: float) -> list[GridPoint]:
    return [
        GridPoint(values=(Setting("method.alpha", index, Place(Path("tried.yaml"), 1)),), score=score, run_id=f"run{index}")
        for index, score in enumerate(scores)
    ]


@pytest.mark.parametrize(
    ("scores", "declared", "best"),
    [
        ((0.1, 0.3, 0.2), None, 1),
        ((0.3, 0.1, 0.3), None, 0),
        ((math.nan, 0.1), None, 1),
        ((0.1, math.nan), None, 0),
        ((math.inf, 0.1), None, 1),
        ((-1.0, math.nan, -0.5), None, 2),
        ((0.5, 0.5, 0.5), 1, 1),
        ((0.5, 0.4, 0.5), 1, 0),
        ((0.4, math.nan, 0.5), 1, 2),
    ],
)
def test_the_best_finite_score_wins_of_several_the_declared_one_else_the_first(
    scores: tuple[float, ...], declared: int | None, best: int
) -> None:
    grid = points(*scores)
    assert choose(grid, () if declared is None else grid[declared].values).run_id == f"run{best}"


def test_the_next_level_and_the_spec_have_the_chosen_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer()
    chosen = tuned_at(tmp_path, trainer)
    assert [(item.key, values(item)) for item in chosen] == [
        (RATE, {"method.learning_rate": 25.0, "method.momentum": 0.0}),
        (HEAT, {"method.temperature": 1.0}),
    ]
    folds = [run for run in trainer.plans[1].runs.values() if run.fields["method.name"] == "instance_labels"]
    assert [run.fields["method.learning_rate"] for run in folds] == [25.0, 25.0]
    assert make_plan([load_spec(write(tmp_path, SPEC))], tmp_path / "runs").untuned == (
        "rate for digits, digits_cnn",
        "heat for digits, digits_cnn",
    )
    monkeypatch.setenv("REPRO_TUNED", str(tmp_path / "tuned"))
    plan = make_plan([load_spec(write(tmp_path, SPEC))], tmp_path / "runs")
    assert plan.untuned == ()
    assert {run.fields.get("method.temperature") for run in plan.runs.values()} == {1.0} | {None}
    assert {run.fields["method.learning_rate"] for run in plan.runs.values() if run.fields["method.name"] == "instance_labels"} == {25.0}


def test_the_file_says_what_was_tried(tmp_path: Path) -> None:
    tuned_at(tmp_path, Trainer())
    text = (tmp_path / "tuned" / "paper.yaml").read_text()
    assert text.startswith("# Written by `python -m sweeps tune`")
    document = yaml.safe_load(text)
    assert (document["schema"], document["scale"]) == (1, "paper")
    heat, rate = document["tuned"]
    assert (rate["name"], rate["dataset"], rate["model"], rate["metric"], rate["epoch"], rate["seed"]) == (*RATE, "val/accuracy", "last", 7)
    assert rate["chosen"] == {"method.learning_rate": 25.0, "method.momentum": 0.0}
    assert [point["values"]["method.learning_rate"] for point in rate["grid"]] == [5.0, 5.0, 25.0, 25.0, 50.0, 50.0]
    for point in (*rate["grid"], *heat["grid"]):
        final = read_json(tmp_path / "runs" / point["run_id"] / "final.json")
        assert point["score"] == final["val/accuracy"]["last"]
    assert not list((tmp_path / "tuned").glob(".*"))


def test_tuning_again_trains_nothing_and_writes_the_same(tmp_path: Path) -> None:
    before = [(item.key, values(item)) for item in tuned_at(tmp_path, Trainer())]
    path = tmp_path / "tuned" / "paper.yaml"
    first = path.read_bytes()
    trainer = Trainer()
    assert [(item.key, values(item)) for item in tuned_at(tmp_path, trainer)] == before
    assert trainer.plans == []
    assert path.read_bytes() == first
    assert tuned_text(PAPER, read_tuned(PAPER, tmp_path / "tuned")).encode() == first


def worse(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of another processor, where a learning rate of 50 is best."""
    return {"val/accuracy": {"last": score(fields) + (0.5 if fields.get("method.learning_rate") == 50.0 else 0.0)}}


def test_choices_of_the_same_runs_stand_until_asked_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Though the runs folder is another one: runs that have these values may be finished elsewhere."""
    tuned_at(tmp_path, Trainer())
    path = tmp_path / "tuned" / "paper.yaml"
    first = path.read_bytes()
    trainer = Trainer(worse)
    specs, elsewhere = [load_spec(write(tmp_path, SPEC))], tmp_path / "elsewhere"
    tune(specs, PAPER, elsewhere, path.parent, trainer)
    assert trainer.plans == []
    assert path.read_bytes() == first
    assert f"rate for digits, digits_cnn: {path} has the scores of these runs" in capsys.readouterr().out
    tune(specs, PAPER, elsewhere, path.parent, trainer, again=True)
    assert len(trainer.plans) == 2
    assert values(read_tuned(PAPER, path.parent).chosen[RATE])["method.learning_rate"] == 50.0


def test_a_value_at_the_end_of_its_grid_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command and on the page; of a momentum and a temperature two values were tried, which has nothing but ends."""
    chosen = tuned_at(tmp_path, Trainer(worse))
    assert [item.at_end for item in chosen] == [("method.learning_rate=50.0",), ()]
    print_chosen(chosen, tmp_path)
    assert "  method.learning_rate=50.0: at the end of the grid; a better value may lie beyond" in capsys.readouterr().out.splitlines()
    monkeypatch.setenv("REPRO_TUNED", str(tmp_path / "tuned"))
    spec = load_spec(write(tmp_path, SPEC))
    write_plans(make_plan([spec], tmp_path / "runs"))
    said = "- At the end of its grid, so that a better value may lie beyond: method.learning_rate=50.0 (rate for digits, digits_cnn): "
    assert f"{said}Taught, Small." in make_table(spec, tmp_path / "runs").page.splitlines()
    inner = tune([spec], PAPER, tmp_path / "others", tmp_path / "inner", Trainer(), again=True)
    assert [item.at_end for item in inner] == [(), ()]
    diverged = Trainer(lambda fields: worse(fields) if fields.get("method.learning_rate") != 25.0 else {"val/accuracy": {"last": math.nan}})
    item, _ = tune([spec], PAPER, tmp_path / "diverged", tmp_path / "inner", diverged, again=True)
    assert item.at_end == ("method.learning_rate=50.0",)
    level = tune([spec], PAPER, tmp_path / "level", tmp_path / "inner", Trainer(lambda fields: {"val/accuracy": {"last": 0.5}}), again=True)
    assert (values(level[0]), level[0].at_end) == ({"method.learning_rate": 50.0, "method.momentum": 0.0}, ())


def test_of_a_level_only_new_grids_are_trained(tmp_path: Path) -> None:
    tuned_at(tmp_path, Trainer())
    trainer = Trainer()
    tuned_at(tmp_path, trainer, text=SPEC.replace("[1.0, 2.0]", "[1.0, 2.0, 3.0]"))
    assert [{run.fields.get("method.temperature") for run in plan.runs.values()} - {None} for plan in trainer.plans] == [{1.0, 2.0, 3.0}]
    assert len(read_tuned(PAPER, tmp_path / "tuned").chosen[HEAT].grid) == 3


def test_what_others_have_chosen_is_kept(tmp_path: Path) -> None:
    tuned_at(tmp_path, Trainer())
    path = tmp_path / "tuned" / "paper.yaml"
    before = read_tuned(PAPER, path.parent)
    rate = before.chosen[RATE]
    other = rate.model_copy(update={"model": "vgg16"})
    stale = rate.model_copy(update={"values": rate.grid[0].values})
    path.write_text(tuned_text(PAPER, before.also([other, stale])))
    tuned_at(tmp_path, Trainer())
    after = read_tuned(PAPER, path.parent)
    assert list(after.chosen) == [HEAT, RATE, other.key]
    assert values(after.chosen[RATE]) == values(before.chosen[RATE])


def test_no_number_but_the_validation_sets_takes_part(tmp_path: Path) -> None:
    def final(fields: dict[str, Any]) -> dict[str, Any]:
        accuracy = score(fields)
        others = {"test/accuracy": {"last": -accuracy}, "val/loss": {"last": accuracy}, "meta/accuracy": {"last": math.nan}}
        return {"val/accuracy": {"last": accuracy, "best_val": 1.0 - accuracy, "best_test": -accuracy}, **others}

    written = []
    for name, trainer in (("alone", Trainer()), ("among others", Trainer(final))):
        tune([load_spec(write(tmp_path, SPEC))], PAPER, tmp_path / name, tmp_path / f"{name} tuned", trainer)
        written.append((tmp_path / f"{name} tuned" / "paper.yaml").read_bytes())
    assert written[0] == written[1]


class Failing(Trainer):
    """Its instance-label runs of that momentum end in ``state``, or have ``value`` as their score."""

    def __init__(self, momentum: float, *, state: str | None = None, value: object = None) -> None:
        super().__init__(lambda fields: {"val/accuracy": {"last": value if state is None and self._bad(fields) else score(fields)}})
        self._momentum, self._state = momentum, state

    def _bad(self, fields: dict[str, Any]) -> bool:
        return fields["method.name"] == "instance_labels" and fields["method.momentum"] == self._momentum

    def __call__(self, plan: Plan) -> Outcome:
        outcome = super().__call__(plan)
        for run in plan.runs.values():
            if self._state is not None and self._bad(run.fields):
                write_json(plan.folder / run.run_id / "status.json", {"state": self._state})
        return outcome


def test_a_run_that_diverged_never_wins(tmp_path: Path) -> None:
    chosen = tuned_at(tmp_path, Failing(0.0, value="NaN"))
    assert values(chosen[0]) == {"method.learning_rate": 25.0, "method.momentum": 0.9}
    assert math.isnan(chosen[0].grid[0].score)
    assert math.isnan(read_tuned(PAPER, tmp_path / "tuned").chosen[RATE].grid[0].score)


SMOOTH = "smooth: {set: {method: label_smoothing, split: fold, split.fold: 0}, grid: {method.alpha: [0.1]}, otherwise: {method.alpha: 0.2}}"
TWO = SPEC.replace("tuning:", f"tuning:\n  {SMOOTH}")
TWO = TWO.replace("columns:", "  - {label: Smooth, set: {method: label_smoothing, split: full}, tuned: smooth}\ncolumns:")


@pytest.mark.parametrize(("state", "why"), [("failed", "(failed)"), (None, "final.json has no val/accuracy at last")])
def test_a_run_that_is_missing_is_named_and_nothing_is_chosen_without_it(tmp_path: Path, state: str | None, why: str) -> None:
    trainer = Failing(0.9, state=state)
    with pytest.raises(UserError) as raised:
        tuned_at(tmp_path, trainer, text=TWO)
    for word in ("tried.yaml:14: rate for digits, digits_cnn: nothing was chosen", "runs without a score: instance_labels-digits-", why):
        assert word in str(raised.value)
    # The other tuning of the level is done; the next level is not begun.
    assert [key[0] for key in read_tuned(PAPER, tmp_path / "tuned").chosen] == ["smooth"]
    assert len(trainer.plans) == 1


def test_when_every_run_diverged_all_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="every run diverged") as raised:
        tuned_at(tmp_path, Trainer(lambda fields: {"val/accuracy": {"last": "NaN"}}))
    assert str(raised.value).count("instance_labels-digits-") == 6
    assert not (tmp_path / "tuned").exists()


def test_a_signal_ends_it(tmp_path: Path) -> None:
    def stopped(plan: Plan) -> Outcome:
        return Outcome(stopped_by=15)

    assert tune([load_spec(write(tmp_path, SPEC))], PAPER, tmp_path / "runs", tmp_path / "tuned", stopped) == []
    assert not (tmp_path / "tuned").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "tuned").write_text("in the way")
    specs: list[Spec] = [load_spec(write(tmp_path, SPEC))]
    with pytest.raises(UserError, match=r"paper\.yaml: cannot be read: Not a directory"):
        tune(specs, PAPER, tmp_path / "runs", tmp_path / "tuned", Trainer())
