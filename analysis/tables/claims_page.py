"""The page and the table of the claims; how they are answered stands in :mod:`analysis.tables.claims`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from analysis.reading.stats import rounded
from analysis.tables.claims import Outcome, examine
from analysis.tables.formats import csv_bytes, grid_lines
from analysis.tables.page import disclaimer_lines
from sweeps.claims import Claim, Claims, load_claims
from sweeps.spec import Scale, load_scale

#: The files, below the folder of the pages.
PAGE, TABLE = "claims.md", "claims.csv"

_HEAD = """\
# What the paper claims, and what these runs say

{count} claims, in our own words, and their tests are in `sweeps/claims.yaml`. The rule was fixed before the runs:

- The difference of a claim is the mean of all its comparisons, each a difference between the means of two cells, in points of test \
accuracy (%) unless the claim says otherwise. Published differences are computed from the published means in the same way.
- The intervals are Welch's, over the variation between runs on the same test images. The 95% interval is shown; the verdict uses the \
interval at {each:.2f}%, so that all {count} verdicts of a scale hold together at {together:g}%.
- *Supported*: the whole interval lies on the claimed side of the margin (0 unless given). *Contradicted*: on the other side. \
*Undecided*: the interval contains the margin, or a run diverged. *Not run*: runs are missing, or have settings that are not tuned yet. \
*Withheld*: a sanity check of the scale is contradicted.
- A claim that must hold in every comparison shows the comparison that supports it least; its verdict is over all comparisons.
- Scales are never pooled. [claims.csv](claims.csv) has every comparison behind each line.
"""


def claims_files(runs: Path, claims: Claims | None = None) -> dict[str, bytes]:
    """Return the page and the table of the claims from the run folders and plans in ``runs``: name -> content.

    Raises:
        UserError: the claims have a mistake; a plan does not fit its spec.
    """
    claims = claims or load_claims()
    count, level = len(claims.claims), claims.level
    page = [_HEAD.format(count=count, each=100 * (1 - level / count), together=100 * (1 - level))]
    rows = []
    for scale in map(load_scale, claims.scales):
        tested = examine(claims, scale, runs)
        page += [f"## Scale: {scale.name}", "", *disclaimer_lines(scale)]
        for kind, title in (("sanity", "Sanity:"), ("claim", "Claims:")):
            page += [title, "", *_grid([(claim, outcome) for of, claim, outcome in tested if of == kind]), ""]
        for kind, claim, whole in tested:
            for outcome in (whole, *(whole.parts if len(whole.parts) > 1 else ())):
                row = {"scale": scale.name, "kind": kind if outcome is whole else f"comparison of {kind}", "id": claim.id, **vars(outcome)}
                del row["parts"]
                rows.append(row | {"margin": claim.margin, "direction": claim.direction})
    page += ["---", "", "- To rebuild this page: `python -m analysis claims`.", ""]
    return {PAGE: "\n".join(page).encode(), TABLE: csv_bytes(rows)}


def short_table(scale: Scale, runs: Path) -> list[str]:
    """Return the lines of a Markdown table of the claims at one scale, for the README."""
    tested = [(claim, outcome) for kind, claim, outcome in examine(load_claims(), scale, runs) if kind == "claim"]
    body = [[claim.text, _published(claim, outcome), _difference(outcome), outcome.verdict] for claim, outcome in tested]
    return grid_lines(["claim", "paper", "here (95% interval)", "verdict"], body)


def _grid(outcomes: Sequence[tuple[Claim, Outcome]]) -> list[str]:
    body = []
    for claim, outcome in outcomes:
        numbers = [_published(claim, outcome), _difference(outcome), f"{outcome.runs} of {outcome.runs_planned}"]
        body.append([claim.text, claim.source, *numbers, outcome.verdict])
    return grid_lines(["claim", "where", "paper", "difference (95% interval)", "runs", "verdict"], body, left=2)


def _published(claim: Claim, outcome: Outcome) -> str:
    return claim.published or ("—" if outcome.published is None else f"{outcome.published:+.1f}")


def _difference(outcome: Outcome) -> str:
    if outcome.difference is None:
        return "—"
    if math.isnan(outcome.difference):
        return "diverged"
    digits = 1 if abs(outcome.difference) >= 1.0 else 2
    text = f"{outcome.difference:+.{digits}f}"
    if outcome.low_95 is None or outcome.high_95 is None:
        return text
    return f"{text} ({rounded(outcome.low_95, 1.0, digits)} to {rounded(outcome.high_95, 1.0, digits)})"
