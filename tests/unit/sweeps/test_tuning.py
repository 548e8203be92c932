import math
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_workers import finish
from made_specs import TABLE, write

from repro.errors import UserError
from repro.files import write_json
from repro.runs.manifest import sha256, write_manifest
from sweeps.launch import Outcome
from sweeps.plan import Plan
from sweeps.printing import print_chosen
from sweeps.scales import load_scale
from sweeps.spec import load_spec
from sweeps.tuned_values import Chosen, Point, read_tuned
from sweeps.tuning import choose, tune, tuned_text, tunings_of
from sweeps.yaml_files import SpecError

PAPER = load_scale("paper")
RATE, HEAT = ("rate", "digits", "digits_cnn"), ("heat", "digits", "digits_cnn")

#: With a second tuning, whose runs read a teacher that reads runs with values of the first.
TWO = TABLE.replace("inputs: {teacher: first}, epoch: best_val", "inputs: {teacher: first}, tuned: heat").replace(
    "common:",
    """\
  heat:
    set: {method: distillation, split: fold, split.fold: 0, seed: 7}
    inputs: {teacher: first}
    grid: {method.temperature: [1.0, 2.0]}
    otherwise: {method.temperature: 2.0}
common:""",
)


class Trainer:
    """Trains by writing for each run the score that ``score`` gives for its settings, and notes what it was asked for."""

    def __init__(self, score: Callable[[dict[str, object]], float], **outcome: object) -> None:
        self.score, self.outcome, self.plans = score, outcome, list[Plan]()

    def __call__(self, plan: Plan) -> Outcome:
        self.plans.append(plan)
        for name, run in plan.runs.items():
            if self.outcome and run.fields["method.name"] != "label_smoothing":
                continue
            finish(folder := plan.folder / name)
            write_json(folder / "final.json", {"val/accuracy": {"last": self.score(run.fields)}, "test/accuracy": {"last": 1.0}})
            write_manifest(folder, {"final.json": sha256((folder / "final.json").read_bytes())})
        return Outcome(**self.outcome)  # type: ignore[arg-type]


def rate(fields: dict[str, object]) -> float:
    return 1.0 if fields.get("method.learning_rate") == 25.0 or fields.get("method.temperature") == 1.0 else 0.5


def call(folder: Path, trainer: Trainer, text: str = TWO) -> list[Chosen]:
    (folder / "runs").mkdir(exist_ok=True)
    return tune([load_spec(write(folder, text))], PAPER, folder / "runs", folder / "tuned", trainer)


def test_what_others_need_is_tuned_first_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Trainer(rate)
    chosen = call(tmp_path, trainer)
    assert {item.key: item.chosen for item in chosen} == {RATE: {"method.learning_rate": 25.0}, HEAT: {"method.temperature": 1.0}}
    first, second = trainer.plans
    assert [run.fields["method.learning_rate"] for run in first.runs.values()] == [5.0, 25.0, 50.0]
    folds = [run for run in second.runs.values() if run.fields["method.name"] == "instance_labels"]
    assert {run.fields["method.learning_rate"] for run in folds} == {25.0}, "the second reads what the first has chosen"
    assert all(run.fields["seed"] == 7 for run in [*first.runs.values(), *folds])
    assert next(iter(first.runs.values())).specs == ("tried",)
    print_chosen(chosen, tmp_path / "tuned" / "paper.yaml")
    assert (
        "rate for digits, digits_cnn: method.learning_rate=25.0 (val/accuracy 1.0000 at last, the best of 3 points)"
        in capsys.readouterr().out
    )
    path = tmp_path / "tuned" / "paper.yaml"
    before = path.read_bytes()
    assert tuned_text(PAPER, read_tuned(PAPER, path.parent)).encode() == before
    other = Trainer(lambda fields: 0.25)
    assert call(tmp_path, other) == chosen
    assert not other.plans, "their scores are kept"
    assert path.read_bytes() == before
    path.unlink()
    call(tmp_path, other)
    assert read_tuned(PAPER, path.parent)[RATE].chosen == {"method.learning_rate": 50.0}, "of equal ones that of otherwise"


@pytest.mark.parametrize("outcome", [{"stopped_by": 2}, {"out_of_time": True}])
def test_what_was_stopped_is_resumed_and_grids_that_are_whole_are_kept(outcome: dict[str, object], tmp_path: Path) -> None:
    assert call(tmp_path, Trainer(rate, **outcome)) == []
    assert not (tmp_path / "tuned").exists()
    assert len(call(tmp_path, Trainer(rate))) == 2
    fold, alpha = (
        "set: {method: label_smoothing, split: fold, split.fold: 0}",
        "grid: {method.alpha: [0.1]}, otherwise: {method.alpha: 0.1}",
    )
    smooth = f"  smooth: {{{fold}, {alpha}}}"
    text = TABLE.replace("common:", f"{smooth}\ncommon:").replace(
        "rows:", "rows:\n  - {label: A, set: {method: label_smoothing}, tuned: smooth}", 1
    )
    (tmp_path / "two").mkdir()
    chosen = call(tmp_path / "two", Trainer(rate, **outcome), text)
    assert [item.name for item in chosen] == ["smooth"]
    assert list(read_tuned(PAPER, tmp_path / "two" / "tuned")) == [chosen[0].key]
    trainer = Trainer(rate)
    assert {item.name for item in call(tmp_path / "two", trainer, text)} == {"smooth", "rate"}


def test_nothing_is_chosen_from_runs_without_a_score(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rate for digits, digits_cnn: nothing was chosen: runs without a score: .*\(missing\)"):
        call(tmp_path, Trainer(rate, failed={"x": "broken"}), TABLE)
    with pytest.raises(UserError, match="every run diverged"):
        call(tmp_path, Trainer(lambda fields: math.nan), TABLE)
    changed = dict.fromkeys((path.name for path in (tmp_path / "runs").iterdir()), "")
    with pytest.raises(UserError, match="made by a different version of the code"):
        call(tmp_path, Trainer(rate, changed=changed), TABLE)


def test_the_best_finite_score_is_chosen() -> None:
    points = [Point(values={"a": value}, score=score, run_id="x") for value, score in ((1, 0.5), (2, math.nan), (3, 0.9), (4, 0.9))]
    assert choose(points, {"a": 1}).values == {"a": 3}
    assert choose(points, {"a": 4}).values == {"a": 4}


def test_tunings_that_cannot_be_done_are_refused(tmp_path: Path) -> None:
    one, two = (
        load_spec(write(tmp_path, TABLE)),
        load_spec(write(tmp_path, TABLE.replace("[5.0, 25.0, 50.0]", "[5.0, 50.0]"), "other.yaml")),
    )
    with pytest.raises(SpecError, match="mean different tunings by 'rate'"):
        tunings_of([one, two], PAPER, {})
    with pytest.raises(SpecError, match=r"tuning.rate: method.learning_rate is set by set and by grid"):
        call(tmp_path, Trainer(rate), TABLE.replace("split.fold: 0, seed: 7}", "split.fold: 0, method.learning_rate: 5.0}"))
    circle = TWO.replace("inputs: {labels: {from: folds, where: {split.fold: 1}, set: {trajectory.dtype: float32}}}\n", "tuned: heat\n")
    with pytest.raises(SpecError, match=r"heat.*tuned by|wait for each other's values"):
        call(tmp_path, Trainer(rate), circle)
