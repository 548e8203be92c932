"""No run of any spec gets another id: a changed default, method or spec would silently leave finished results behind.

``run_ids.txt`` has a line ``scale spec run_id`` for each run of the specs at the paper's scale and at the scale ``smoke``, as nothing was
tuned. A change of ids that is meant is noted with ``python tests/golden/test_run_ids.py``, and its commit says why. A new spec is noted in
the same way, once its results are to be kept; until then it is not looked at.
"""

import os
from pathlib import Path

import pytest

from sweeps.plan import make_plan
from sweeps.scales import load_scale
from sweeps.spec import known_specs, load_spec

LIST = Path(__file__).with_name("run_ids.txt")
SCALES = ("paper", "smoke")


def lines(scale: str) -> list[str]:
    specs = [load_spec(name) for name in sorted(known_specs())]
    runs = make_plan(specs, load_scale(scale), Path("/nonexistent")).runs
    return sorted(f"{scale} {spec} {run_id}" for run_id, run in runs.items() for spec in run.specs)


@pytest.mark.parametrize("scale", ["paper", pytest.param("smoke", marks=pytest.mark.slow)])
def test_run_ids(scale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_TUNED", "/nonexistent")
    noted = {line for line in LIST.read_text().splitlines() if line.startswith(scale + " ")}
    specs = {line.split()[1] for line in noted}
    found = {line for line in lines(scale) if line.split()[1] in specs}
    assert sorted(noted - found) == []
    assert sorted(found - noted) == [], "run ids that are not noted; if they are meant: python tests/golden/test_run_ids.py"


if __name__ == "__main__":
    os.environ["REPRO_TUNED"] = "/nonexistent"
    LIST.write_text("".join(line + "\n" for scale in SCALES for line in lines(scale)))
