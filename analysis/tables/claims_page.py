"""The page of the claims, its table as CSV, and their forest plots; the blocks that README and the report have of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from analysis.reading.stats import rounded
from analysis.tables.claims import CONTRADICTED, EQUIVALENT, NOT_RUN, SUPPORTED, UNDECIDED, WITHHELD, Outcome, Tested, examine
from analysis.tables.page import csv_bytes, disclaimer_lines, grid_lines
from sweeps.claims import Claim, Claims, Measure, load_claims
from sweeps.scales import PAPER, Scale, load_scale

#: The files, below the folder of the pages.
PAGE, TABLE = "claims.md", "claims.csv"

_HEAD = """\
# What the paper claims, and what these runs say

{count} claims, in our own words, and their tests are in `sweeps/claims.yaml`.

- The difference of a claim is the mean of all its comparisons, each a difference between the means of two cells, in points of test \
accuracy (%) unless the claim says otherwise. Published differences are computed from the published means in the same way.
- The intervals are Welch's, over the variation between runs on the same test images. The 95% interval is shown; the verdicts of a scale \
hold together at {together:g}%.
- *Supported*: the difference is on the claimed side of the threshold (0 unless given), with a p value below {level:g} after Holm's \
correction over all {count} claims. *Contradicted*: on the other side, likewise. *Equivalent*, where neither holds: no difference of a \
point or more, which means that the whole interval at {each:.2f}% (Bonferroni's) lies within the claim's margin around 0; it is one point, \
but 0.1 of a correlation and one in a hundred of a share. *Undecided*: none of these, or a run diverged. *Not run*: runs are missing, or \
have settings that are not tuned yet. *Withheld*: a sanity check of the scale is contradicted.
- A claim that must hold in every comparison shows the comparison that supports it least. Each comparison must support it; against it, one \
counts at the level divided by their number.
- New seeds alone: the same rule on the runs whose seeds nobody had looked at when their number was fixed; — where there are none.
- Scales are never pooled. [claims.csv](claims.csv) has every comparison behind each line.

What was changed, and when: until 24 November 2026 the rule, which was fixed before the first runs, had no *equivalent*, corrected by \
Bonferroni alone and did not count how often a claim on every comparison can be contradicted. It was changed when the verdicts of seeds 0 \
to 2 had been seen and those of all seeds had not, because in simulated families of 15 claims the new rule errs in at most 5% of them. \
Holm's correction is not used for *equivalent*: with it 18% of families of small effects erred.
"""

_FORMS = {
    "sanity": "Sanity:",
    "claim": "Claims, compared as the paper compares:",
    "equal tuning": "Claims on label noise at equal tuning, a family of their own. The paper compares systems on schedules of their "
    "authors; here the same validation images choose a schedule for each, or an epoch. There are such runs at 40% noise only:",
}


def claims_files(runs: Path, claims: Claims | None = None) -> dict[str, bytes]:
    """Return the page, the table and the pictures of the claims from the run folders and plans in ``runs``: name -> content.

    Raises:
        UserError: the claims have a mistake; a plan does not fit its spec.
    """
    # matplotlib takes a second to import.
    from analysis.figures.forest import forest

    claims = claims or load_claims()
    count, level = len(claims.claims), claims.level
    page = [_HEAD.format(count=count, level=level, each=100 * (1 - level / count), together=100 * (1 - level))]
    rows: list[dict[str, Any]] = []
    files: dict[str, bytes] = {}
    for scale in map(load_scale, claims.scales):
        tested, alone = _both(claims, scale, runs)
        rows += claim_rows(scale, tested, "all")
        page += [f"## Scale: {scale.name}", "", *disclaimer_lines(scale)]
        of_claims = _of(tested, "claim")
        if any(outcome.difference is not None for _, outcome in of_claims):
            name = picture(scale)
            files |= {f"{name.removesuffix('png')}{kind}": content for kind, content in forest(scale, of_claims).items()}
            page += [f"![The claims at the scale {scale.name}]({name})", "", f"All seeds, {counts(of_claims)}", ""]
        if alone:
            rows += claim_rows(scale, alone, "new")
            page += [f"The new seeds alone, {counts(_of(alone, 'claim'))}", ""]
        for kind, title in _FORMS.items():
            page += [title, "", *_grid(_of(tested, kind), _of(alone, kind) if kind == "claim" else []), ""]
        page += ["Measured beside the claims, each comparison by itself at 95%, so that one in twenty errs:", ""]
        for measure in claims.measured:
            page += _measured(measure, [outcome for _, of, outcome in tested if of is measure])
    page += ["---", "", "- To rebuild this page: `python -m analysis claims`.", ""]
    return files | {PAGE: "\n".join(page).encode(), TABLE: csv_bytes(rows)}


def _both(claims: Claims, scale: Scale, runs: Path) -> tuple[list[Tested], list[Tested]]:
    """Return what all runs say of the claims, and what those with new seeds say alone, if the scale has such."""
    seeds = claims.new_seeds.get(scale.name)
    return examine(claims, scale, runs), examine(claims, scale, runs, seeds) if seeds else []


def _of(tested: Iterable[Tested], kind: str) -> list[tuple[Claim, Outcome]]:
    return [(claim, outcome) for of, claim, outcome in tested if of == kind and isinstance(claim, Claim)]


def claim_rows(scale: Scale, tested: Iterable[Tested], seeds: str) -> list[dict[str, Any]]:
    """Return the rows of the table: every claim, then its comparisons; ``seeds`` are ``all`` or the ``new`` ones alone."""
    rows = []
    for kind, claim, whole in tested:
        for outcome in (whole, *(whole.parts if len(whole.parts) > 1 else ())):
            row = {"scale": scale.name, "seeds": seeds, "kind": kind if outcome is whole else f"comparison of {kind}", "id": claim.id}
            row |= vars(outcome) | {"text": difference(outcome)}
            del row["parts"]
            rows.append(row | {"threshold": claim.threshold, "margin": claim.margin, "direction": claim.direction})
    return rows


def picture(scale: Scale) -> str:
    """Return the name of the forest plot of a scale, as PNG, below the folder of the pages."""
    return "claims.png" if scale.name == PAPER else f"{scale.name}/claims.png"


def counts(tested: Sequence[tuple[Claim, Outcome]]) -> str:
    """Return how many of the claims have which verdict."""
    number = Counter(outcome.verdict for _, outcome in tested)
    verdicts = (SUPPORTED, CONTRADICTED, EQUIVALENT, UNDECIDED, NOT_RUN, *([WITHHELD] if number[WITHHELD] else []))
    return f"of {len(tested)} claims: {', '.join(f'{number[verdict]} {verdict}' for verdict in verdicts)}."


def short_block(scale: Scale, runs: Path, *, table: bool = False) -> list[str]:
    """Return what the README has of the claims at one scale: the picture and the counts; or a ``table``, for the report."""
    claims = load_claims()
    tested, alone = ([*_of(part, "claim"), *_of(part, "equal tuning")] for part in _both(claims, scale, runs))
    if table:
        body = []
        for index, (claim, outcome) in enumerate(tested):
            # A scale may have no new seeds.
            new = _verdict(alone[index][1]) if alone else "—"
            body.append([claim.text, _published(claim, outcome), difference(outcome), outcome.verdict, new])
        return grid_lines(["claim", "paper", "here (95% interval)", "verdict", "new seeds alone"], body)
    of_claims, of_new = tested[: len(claims.claims)], alone[: len(claims.claims)]
    lines = [f"![The claims, each with the paper's difference, ours and the verdict](paper_tables/{picture(scale)})", ""]
    return [*lines, f"At this scale, {counts(of_claims)}", *([f"From the new seeds alone, {counts(of_new)}"] if of_new else [])]


def _grid(tested: Sequence[tuple[Claim, Outcome]], alone: Sequence[tuple[Claim, Outcome]]) -> list[str]:
    header = ["claim", "where", "paper", "difference (95% interval)", "runs", "verdict"]
    body = [
        [claim.text, claim.source, _published(claim, outcome), difference(outcome), _done(outcome), outcome.verdict]
        for claim, outcome in tested
    ]
    if alone:
        header += ["new seeds alone", "verdict"]
        body = [[*line, difference(outcome), _verdict(outcome)] for line, (_, outcome) in zip(body, alone, strict=True)]
    return grid_lines(header, body, left=2)


def _measured(measure: Measure, outcomes: Sequence[Outcome]) -> list[str]:
    if not any(outcome.runs for outcome in outcomes):
        return [f"{measure.title}: not run.", ""]
    body = [[outcome.comparison, difference(outcome), _done(outcome), outcome.verdict] for outcome in outcomes]
    return [f"{measure.title}:", "", *grid_lines(["comparison", "difference (95% interval)", "runs", "verdict"], body), ""]


def _done(outcome: Outcome) -> str:
    return f"{outcome.runs} of {outcome.runs_planned}"


def _verdict(outcome: Outcome) -> str:
    return outcome.verdict if outcome.runs_planned else "—"


def _published(claim: Claim, outcome: Outcome) -> str:
    return claim.published or ("—" if outcome.published is None else f"{outcome.published:+.1f}")


def difference(outcome: Outcome) -> str:
    """Return the difference of ``outcome`` with its 95% interval as pages have it; — where there is none."""
    if outcome.difference is None:
        return "—"
    if math.isnan(outcome.difference):
        return "diverged"
    digits = 1 if abs(outcome.difference) >= 1.0 else 2
    text = f"{outcome.difference:+.{digits}f}"
    if outcome.low_95 is None or outcome.high_95 is None:
        return text
    return f"{text} ({rounded(outcome.low_95, 1.0, digits)} to {rounded(outcome.high_95, 1.0, digits)})"
