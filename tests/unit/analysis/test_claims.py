"""Claims: what the file may say, what runs make of them by the rule that stands on the page, and the numbers that the docs repeat."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from run_folders import done_run, plan_by_hand
from scipy.stats import t as student

from analysis.__main__ import main
from analysis.reading.stats import contrast, summarize
from analysis.tables.claims import CONTRADICTED, EQUIVALENT, SUPPORTED, Outcome, decided, examine, verdict_of
from analysis.tables.claims_page import claim_rows, claims_files
from sweeps.claims import Claim, load_claims
from sweeps.scales import load_scale
from sweeps.spec import load_spec
from sweeps.yaml_files import SpecError

COLUMN = "CIFAR10, VGG16"
TEST = {"spec": "table1", "rows": ["Ours (Instance)"], "over": ["Baseline"], "columns": [COLUMN]}
CLAIM = {"id": "better", "claim": "Instance labels do better.", "source": "section 3", "direction": "higher", "tests": [TEST]}
SANE = CLAIM | {"id": "sane", "tests": [TEST | {"rows": ["Ours (Class)"]}]}
BASE = (0.80, 0.81, 0.82)


@pytest.fixture(autouse=True)
def nothing_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_TUNED", str(tmp_path / "tuned"))


def write(folder: Path, *claims: dict[str, object], **others: object) -> Path:
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump({"level": 0.05, "scales": ["paper"], "claims": list(claims), "sanity": [SANE]} | others))
    return path


def table1(folder: Path, values: dict[str, tuple[float, ...]], *, tuned: bool = True) -> Path:
    """Return a runs folder with the plan of Table 1, whose rows have these accuracies in one column."""
    names = plan_by_hand(load_spec("table1"), load_scale("paper"), folder / "runs", tuned=tuned)
    for row, accuracies in values.items():
        for seed, accuracy in enumerate(accuracies):
            done_run(folder / "runs" / names[row, COLUMN, seed], accuracy=accuracy)
    return folder / "runs"


def lines(runs: Path, path: Path, seeds: list[int] | None = None) -> dict[str, dict[str, Any]]:
    scale = load_scale("paper")
    rows = claim_rows(scale, examine(load_claims(path), scale, runs, seeds), "all")
    return {row["id"]: row for row in rows if "comparison of" not in row["kind"]}


def test_difference_and_intervals_of_two_cells_are_welchs(tmp_path: Path) -> None:
    ours = (0.90, 0.92, 0.97)
    runs = table1(tmp_path, {"Ours (Instance)": ours, "Ours (Class)": ours, "Baseline": BASE})
    path = write(tmp_path, CLAIM, CLAIM | {"id": "second"})
    line = lines(runs, path)["better"]
    variances = [100**2 * summarize(values, expected=3).sd ** 2 / 3 for values in (ours, BASE)]
    freedom = sum(variances) ** 2 / sum(variance**2 / 2 for variance in variances)
    difference = 100 * (sum(ours) - sum(BASE)) / 3
    assert float(line["difference"]) == pytest.approx(difference)
    # Two claims share the level.
    for key, share in (("high_95", 0.975), ("high_adjusted", 1 - 0.05 / 2 / 2)):
        assert float(line[key]) == pytest.approx(difference + student.ppf(share, freedom) * sum(variances) ** 0.5)
    assert float(line["published"]) == pytest.approx(0.4)
    text = f" +{difference:.1f} ({float(line['low_95']):.1f} to {float(line['high_95']):.1f}) | 6 of 6 | supported |"
    assert text in claims_files(runs, load_claims(path))["claims.md"].decode()


@pytest.mark.parametrize(
    ("ours", "threshold", "direction", "verdict"),
    [
        ((0.90, 0.91, 0.92), 0.0, "higher", "supported"),
        ((0.90, 0.91, 0.92), 0.0, "lower", "contradicted"),
        ((0.70, 0.71, 0.72), 0.0, "higher", "contradicted"),
        ((0.79, 0.81, 0.84), 0.0, "higher", "undecided"),
        ((0.90, 0.91, 0.92), 10.0, "higher", "undecided"),
        (BASE, -10.0, "higher", "supported"),
        ((0.8101, 0.8101, 0.8102), 0.0, "higher", "equivalent"),
        ((0.90, math.nan, 0.92), 0.0, "higher", "undecided"),
        ((0.90, 0.91), 0.0, "higher", "not run"),
    ],
)
def test_verdicts(tmp_path: Path, ours: tuple[float, ...], threshold: float, direction: str, verdict: str) -> None:
    runs = table1(tmp_path, {"Ours (Instance)": ours, "Baseline": (0.81, 0.8101, 0.8102) if verdict == "equivalent" else BASE})
    claim = CLAIM | {"threshold": threshold, "direction": direction}
    assert lines(runs, write(tmp_path, claim))["better"]["verdict"] == verdict


def test_every_comparison_must_hold_and_the_mean_counts_a_shared_cell_once(tmp_path: Path) -> None:
    rows = {"Ours (Instance)": (0.85, 0.86, 0.87), "Ours (Class)": (0.90, 0.91, 0.92), "Baseline": (0.70, 0.71, 0.72)}
    both = TEST | {"over": ["Baseline", "Ours (Class)"]}
    path = write(tmp_path, CLAIM | {"tests": [both]}, CLAIM | {"id": "all", "tests": [both], "combine": "every"})
    tested = lines(table1(tmp_path, rows), path)
    assert float(tested["better"]["difference"]) == pytest.approx((15.0 - 5.0) / 2)
    # sd 1 in each: ours enters with weight 1, the two others with a half.
    half = student.ppf(0.975, 1.5**2 / (1 + 2 * 0.0625) * 2) * (1.5 / 3) ** 0.5
    assert float(tested["better"]["high_95"]) == pytest.approx(5.0 + half)
    assert (tested["all"]["verdict"], float(tested["all"]["difference"])) == ("contradicted", pytest.approx(-5.0))
    assert "over Ours (Class)" in tested["all"]["comparison"]


def test_verdicts_are_withheld_where_a_check_is_contradicted_and_untuned_runs_do_not_count(tmp_path: Path) -> None:
    rows = {"Ours (Instance)": (0.9, 0.91, 0.92), "Baseline": BASE, "Ours (Class)": (0.1, 0.11, 0.12)}
    tested = lines(table1(tmp_path, rows), write(tmp_path, CLAIM))
    assert (tested["sane"]["verdict"], tested["better"]["verdict"]) == ("contradicted", "withheld")
    tested = lines(table1(tmp_path / "untuned", rows, tuned=False), write(tmp_path, CLAIM))
    assert [tested["better"][key] for key in ("runs", "runs_planned", "verdict")] == [3, 6, "not run"]


def test_new_seeds_are_judged_alone_and_what_is_measured_each_by_itself(tmp_path: Path) -> None:
    rows = {"Ours (Instance)": (0.1, 0.91, 0.92), "Baseline": (0.2, 0.11, 0.12), "Ours (Class)": (0.2, 0.11, 0.12)}
    measure = {"id": "beside", "title": "Beside", "tests": [TEST | {"rows": ["Ours (Instance)", "Ours (Class)"]}]}
    path = write(tmp_path, CLAIM, CLAIM | {"id": "not there", "tests": [TEST | {"spec": "table3"}]}, measured=[measure])
    claims = yaml.safe_load(path.read_text())
    claims["claims"][1]["tests"] = [{"spec": "figure4", "rows": ["Ours (Instance labels)"], "change": "noise/label_error"}]
    path.write_text(yaml.safe_dump(claims))
    runs = table1(tmp_path, rows)
    assert lines(runs, path)["better"]["verdict"] == "undecided"
    alone = lines(runs, path, [1, 2, 7])
    assert (alone["better"]["verdict"], alone["better"]["runs_planned"], alone["not there"]["runs_planned"]) == ("supported", 4, 0)
    scale = load_scale("paper")
    verdicts = [outcome.verdict for kind, _, outcome in examine(load_claims(path), scale, runs, [1, 2]) if kind == "measured"]
    assert verdicts == ["differs", "undecided"]


def test_one_run_read_at_two_epochs_varies_once_and_the_same_run_untuned_is_missing(tmp_path: Path) -> None:
    column, runs = "CIFAR10, 40%", tmp_path / "runs"
    names = plan_by_hand(load_spec("own_schedule"), load_scale("paper"), runs)
    path = runs / "plans" / "own_schedule.json"
    plan = json.loads(path.read_text())
    cells = {(cell["row"], cell["column"]): cell for cell in plan["cells"]}
    one = cells["One-hot, one schedule", column]
    cells["One-hot, one schedule, best epoch", column]["runs"] = one["runs"]
    cells["One-hot, own schedule", column] |= {"runs": one["runs"], "untuned": ["the drops"]}
    path.write_text(json.dumps(plan))
    for seed, best in enumerate((0.52, 0.61, 0.73)):
        done_run(runs / names["One-hot, one schedule", column, seed], accuracy=(0.5, 0.6, 0.7)[seed], best_val=best)
    test = {"spec": "own_schedule", "over": ["One-hot, one schedule"], "columns": [column]}
    tests = [test | {"rows": [f"One-hot, {row}"]} for row in ("one schedule, best epoch", "own schedule")]
    claims = load_claims(write(tmp_path, CLAIM, measured=[{"id": "beside", "tests": tests}]))
    best, own = (outcome for kind, _, outcome in examine(claims, load_scale("paper"), runs) if kind == "measured")
    assert (best.difference, best.high_95) == pytest.approx((2.0, 2.0 + student.ppf(0.975, 2) / 3**0.5))
    assert (own.verdict, own.runs, own.runs_planned) == ("not run", 0, 3)


def test_changes_constants_and_correlations_are_read_off_the_curves(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for spec in ("figure2", "figure4"):
        for (_, _, seed), name in plan_by_hand(load_spec(spec), load_scale("paper"), runs).items():
            curve = {
                "noise/label_error": [0.40, 0.35, 0.33 + seed / 1000],
                "label/next_class_in_superclass": [0.04, 0.1, 0.3 + seed / 100],
                **{f"class_meta_accuracy/{k:03d}": [0.5, 0.1 * k] for k in range(5)},
                **{f"class_target_probability/{k:03d}": [0.9, (0.1, 0.4, 0.2, 0.6, 0.9)[k] if seed else 0.1 * k] for k in range(5)},
            }
            if not (runs / name).exists():
                done_run(runs / name, curve=curve)
    two = ["class_meta_accuracy/{k}", "class_target_probability/{k}"]
    tests = {
        "falls": {"spec": "figure4", "rows": "Ours (Instance labels)", "change": "noise/label_error"},
        "above": {"spec": "figure2", "rows": "Instance labels", "metric": "label/next_class_in_superclass", "above": 0.01},
        "together": {"spec": "figure2", "rows": "Class labels", "correlation": two},
    }
    tested = lines(runs, write(tmp_path, *(CLAIM | {"id": name, "tests": [test]} for name, test in tests.items())))
    differences = [float(tested[name]["difference"]) for name in tests]
    assert differences == pytest.approx([-6.9, 0.30, (1.0 + 0.9 + 0.9) / 3])


def test_nothing_run_is_said_and_the_page_names_every_claim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--runs", str(tmp_path), "--out", str(tmp_path / "pages")]) == 0
    page = (tmp_path / "pages" / "claims.md").read_text()
    claims = load_claims()
    assert capsys.readouterr().out.startswith(page)
    judged = [*claims.sanity, *claims.claims, *claims.equal_tuning]
    assert all(page.count(claim.text) == len(claims.scales) for claim in judged)
    assert page.count(" not run ") == len(claims.scales) * len(judged)
    assert page.count(": not run.") == len(claims.scales) * len(claims.measured)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"tests": [TEST | {"rows": ["Ours (Instanse)"]}]},
            r"claims\[1\].tests\[0\]: table1 has no row 'Ours \(Instanse\)'. Did you",
        ),
        ({"tests": [TEST | {"above": 1.0}]}, r"a test has exactly one of over, .* this one has over, above"),
        ({"direction": "up"}, r"claims\[1\].direction: "),
        ({"margin": -1.0}, r"claims\[1\].margin: Input should be greater than or equal to 0"),
        ({"tests": [TEST | {"spec": "demo_gap"}]}, r"claims\[1\].tests\[0\]: spec: there is no spec 'demo_gap'"),
        ({"id": "first"}, "two claims are called first"),
    ],
)
def test_wrong_claims_are_named_with_file_and_path(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=rf"claims.yaml: .*{message}"):
        load_claims(write(tmp_path, CLAIM | {"id": "first"}, CLAIM | changed))


def test_a_seed_or_cell_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"claims.yaml: new_seeds.small: no claim has runs with seed 9"):
        load_claims(write(tmp_path, CLAIM, new_seeds={"small": [8, 9]}))
    left_out = {"spec": "table5", "rows": ["Baseline"], "over": ["ResNet18"], "columns": ["nowhere"]}
    with pytest.raises(SpecError, match=r"claims\[0\].tests\[0\]: table5 has no column 'nowhere'"):
        load_claims(write(tmp_path, CLAIM | {"tests": [left_out]}))


FAMILY, RUNS, LEVEL = 15, 9, 0.05
FAMILIES = 1000
#: Three standard errors of a share of 5% among so many families.
TOLERANCE = 3 * (LEVEL * (1 - LEVEL) / FAMILIES) ** 0.5


def families(truth: list[float], sd: float, shared: float = 0.0) -> list[list[Outcome]]:
    """Draw families of claims with these true differences between two cells; ``shared`` is the correlation of the first cells of all."""
    random = np.random.default_rng(0)
    both = np.sqrt(shared) * random.normal(size=(FAMILIES, 1, RUNS)) + np.sqrt(1 - shared) * random.normal(size=(FAMILIES, FAMILY, RUNS))
    one, other = np.array(truth)[:, None] + sd * both, sd * random.normal(size=(FAMILIES, FAMILY, RUNS))
    parts = [cell.var(axis=2, ddof=1) / RUNS for cell in (one, other)]
    error = np.sqrt(parts[0] + parts[1])
    freedom = error**4 / ((parts[0] ** 2 + parts[1] ** 2) / (RUNS - 1))
    difference = one.mean(axis=2) - other.mean(axis=2)
    p_value = 2 * student.sf(abs(difference) / error, freedom)
    half = student.ppf(1 - LEVEL / FAMILY / 2, freedom) * error
    # The intervals are those of the page.
    spread = contrast([(weight, summarize(list(cell[0, 0]), expected=RUNS)) for weight, cell in ((1.0, one), (-1.0, other))])
    assert (half[0, 0], p_value[0, 0]) == pytest.approx((spread.half(1 - LEVEL / FAMILY), spread.p_value(difference[0, 0])))
    claim = claim_of()
    made = zip(*(values.tolist() for values in (difference, half, p_value)), strict=True)
    return [
        [Outcome("", 1, 1, None, verdict_of(claim, d - h, d + h), d, None, None, d - h, d + h, p) for d, h, p in zip(*family, strict=True)]
        for family in made
    ]


def claim_of(**changed: object) -> Claim:
    return Claim.model_validate(CLAIM | changed)


def errs(truth: float, verdict: str) -> bool:
    right = {SUPPORTED: truth > 0, CONTRADICTED: truth < 0, EQUIVALENT: abs(truth) < 1}
    return not right.get(verdict, True)


@pytest.mark.parametrize(
    ("truth", "sd", "shared", "found"),
    [
        ([0.0] * 15, 1.0, 0.0, None),
        ([0.0] * 15, 0.05, 0.0, EQUIVALENT),
        ([1.01] * 15, 0.5, 0.0, SUPPORTED),
        ([0.0] * 8 + [1.01] * 7, 0.5, 0.7, None),
        ([0.0] + [-5.0] * 14, 0.3, 0.0, CONTRADICTED),
    ],
)
def test_a_family_errs_at_its_level(truth: list[float], sd: float, shared: float, found: str | None) -> None:
    verdicts = [[outcome.verdict for outcome in decided([claim_of()] * FAMILY, family, LEVEL)] for family in families(truth, sd, shared)]
    wrong = [any(map(errs, truth, family)) for family in verdicts]
    assert np.mean(wrong) <= LEVEL + TOLERANCE
    if found:
        assert np.mean([family.count(found) / FAMILY for family in verdicts]) > 0.9


def test_holms_levels_for_equivalence_too_would_err_more_often() -> None:
    """Why the rule has Bonferroni's interval there: step by step at the freed levels, small true effects are called too often."""
    wrong = 0
    for family in families([0.0] * 15, 0.5):
        # The p value of a claim is that of whatever it can come out as: different, or within a point.
        scaled = [(abs(outcome.difference), (outcome.high_adjusted - outcome.low_adjusted) / 2, outcome.p_value) for outcome in family]
        freedom = 2 * (RUNS - 1)
        quantile = student.ppf(1 - LEVEL / FAMILY / 2, freedom)
        smallest = sorted((min(p, 2 * student.sf((1 - d) / h * quantile, freedom)), p) for d, h, p in scaled)
        for rank, (either, p) in enumerate(smallest):
            level = LEVEL / (FAMILY - rank)
            if either > level:
                break
            if p <= level:
                wrong += 1
                break
    assert wrong / FAMILIES > 0.15


def test_a_claim_on_every_comparison_is_contradicted_at_a_level_for_all_of_them() -> None:
    claim = claim_of(combine="every")
    part = Outcome("", 1, 1, None, CONTRADICTED, -1.0, None, None, -2.0, -0.1, 0.02)
    for number, verdict in ((2, CONTRADICTED), (3, "undecided")):
        whole = Outcome("", 1, 1, None, CONTRADICTED, -1.0, None, None, -2.0, -0.1, 0.02, parts=(part, *[UNCLEAR] * (number - 1)))
        assert decided([claim], [whole], LEVEL)[0].verdict == verdict


UNCLEAR = Outcome("", 1, 1, None, "undecided", 0.1, None, None, -2.0, 2.0, 0.9)
