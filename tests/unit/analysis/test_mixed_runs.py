"""Pages whose runs come from several versions of the code, ways of execution or machines say so."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_tables import SPEC, cell, fill
from run_folders import Suite, change, done_run


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path, SPEC)


def test_runs_of_several_commits_are_said_to_be(suite: Suite) -> None:
    places = [("Instance", "Clean", 0), ("Instance", "40%", 0)]
    fill(suite, *places)
    done_run(suite.folder(*places[0]), accuracy=0.95, sha="f" * 40, ended="2025-02-02T03:04:05Z")
    done_run(suite.folder(*places[1]), accuracy=0.95, dirty="d" * 64)
    change(suite.folder("One-hot", "Clean", 0), "provenance.json", {"earlier_git": [{"sha": "e" * 40, "dirty_sha256": None}]})
    page = suite.make().page
    assert (
        "- **Mixed code**: the runs come from 3 versions of the code, so differences between them may be the code's:\n"
        "  - commit 0123456789ab: 10 runs\n"
        f"  - commit 0123456789ab with uncommitted changes (sha256 {'d' * 12}): 1 run\n"
        "  - commit ffffffffffff: 1 run\n"
        "- **Mixed code**: 1 run began with another version of the code (commit eeeeeeeeeeee) and resumed with this one.\n"
    ) in page
    assert "- Newest run: 2025-02-02T03:04:05Z." in page


def test_runs_executed_otherwise_are_told_apart(suite: Suite) -> None:
    fill(suite)
    exact = {"precision": "float32", "allow_tf32": False, "channels_last": False, "compile": False, "cuda_graphs": False}
    for index, place in enumerate(suite.names):
        execution = exact if index else exact | {"precision": "bfloat16", "cuda_graphs": True}
        change(suite.folder(*place), "provenance.json", {"execution": execution})
    page = suite.make().page
    assert "- PyTorch 2.15.0, cpu (abacus): 11 runs.\n" in page
    assert "- PyTorch 2.15.0, cpu (abacus), bfloat16, cuda graphs: 1 run.\n" in page
    assert cell(page, "One-hot", 1) == "91.0 ± 1.0 ‡"
    assert (
        "- ‡ One-hot, Clean: its runs were executed in different ways, which changes numbers: "
        "float32, one operation after another: 2 runs; bfloat16, cuda graphs: 1 run.\n"
    ) in page
    assert (page.count("‡"), suite.make().contents["tried.tex"].count(rb"$^{\ddagger}$")) == (2, 1)
    change(suite.folder("One-hot", "Clean", 1), "provenance.json", {"execution": exact | {"label_gradient": "float32"}})
    assert "label gradient in float32: 1 run" in suite.make().page
    # A whole cell in another way than the others is told apart by the list of software.
    for place in suite.names:
        if place[:2] == ("One-hot", "Clean"):
            change(suite.folder(*place), "provenance.json", {"execution": exact | {"allow_tf32": True}})
    assert "‡" not in suite.make().page


def test_a_cell_of_several_kinds_of_gpu_says_so(suite: Suite) -> None:
    fill(suite)

    def computed_on(seed: int, *gpus: str | None) -> None:
        attempts = [{"count": 1, "facts": {"device": "cuda", "gpu": gpu} if gpu else {"device": "cpu"}} for gpu in gpus]
        change(suite.folder("One-hot", "Clean", seed), "provenance.json", {"attempts": attempts})

    for seed in range(3):
        computed_on(seed, "A100")
    assert "‡" not in suite.make().page
    computed_on(1, "A100", "H100")
    computed_on(2, None)
    page = suite.make().page
    assert cell(page, "One-hot", 1) == "91.0 ± 1.0 ‡"
    assert (
        "- ‡ One-hot, Clean: its runs were computed on different GPUs, which changes the last digits: "
        "A100: 1 run; A100, then H100: 1 run; no GPU: 1 run.\n"
    ) in page
    # Also one that moved in the middle, as all of its cell did.
    for seed in range(3):
        computed_on(seed, "A100", "H100")
    assert "A100, then H100: 3 runs.\n" in suite.make().page


def on(processor: str, **more: object) -> dict[str, object]:
    """An attempt on a processor."""
    return {"count": 1, "facts": {"device": "cpu", "processor": processor, "cpu_capability": "AVX2", "threads": 1} | more}


def test_runs_on_several_machines_are_told_apart(suite: Suite) -> None:
    fill(suite)
    without = suite.make().page
    folders = [suite.folder(*place) for place in suite.names]
    for folder in folders[1:]:
        change(folder, "provenance.json", {"attempts": [on("Abacus")]})
    # One kind of machine, and a run that does not say: nothing to tell.
    assert suite.make().page == without
    gpu = {"count": 1, "facts": {"device": "cuda", "gpu": "Brain", "driver": "1.2", "cuda": "13.2", "cudnn": 92600, "processor": "Abacus"}}
    change(folders[1], "provenance.json", {"attempts": [on("Abacus", threads=2)]})
    change(folders[2], "provenance.json", {"attempts": [on("Slide rule", cpu_capability="AVX512")]})
    change(folders[3], "provenance.json", {"attempts": [on("Abacus"), gpu]})
    assert (
        "- **Mixed machines**: the runs come from different machines or thread counts, so the last digits may differ:\n"
        "  - Abacus, AVX2, 1 thread: 8 runs\n"
        "  - Abacus, AVX2, 2 threads: 1 run\n"
        "  - Brain, driver 1.2, CUDA 13.2, cuDNN 92600: 1 run\n"
        "  - Slide rule, AVX512, 1 thread: 1 run\n"
        "- **Mixed machines**: 1 run began on another machine; the last one is counted.\n"
    ) in suite.make().page
