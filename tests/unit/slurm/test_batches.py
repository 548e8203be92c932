from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slurm.jobs.batches import make_batches
from sweeps.plan.plan import PlannedRun


def run(name: str, *, stage: int = 0, method: str = "m", model: str = "net", inputs: tuple[str, ...] = ()) -> PlannedRun:
    return PlannedRun(name, (), {"method.name": method, "model.name": model}, "missing", inputs, ("table",), name, stage)


def test_a_class_is_an_array_and_each_final_waits_for_its_own() -> None:
    folds = [run(f"f{seed}{fold}") for seed in range(2) for fold in range(3)]
    finals = [run(f"s{seed}", stage=1, method="replay", inputs=tuple(f"f{seed}{fold}" for fold in range(3))) for seed in range(2)]
    readers = {name: [final.run_id] for final in finals for name in final.inputs}
    waited = {final.run_id: [name for name in final.inputs if name != "f00"] for final in finals}
    batches = make_batches([*folds, *finals], waited, readers, runs_per_gpu=1, array_limit=4)
    assert [batch.name for batch in batches] == ["table-m-net", "table-m-net", "table-replay-net", "table-replay-net"]
    assert [len(batch.tasks) for batch in batches] == [4, 2, 1, 1]
    assert [batch.after for batch in batches] == [(), (), ("f01", "f02"), ("f10", "f11", "f12")]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=30),
    st.integers(1, 4),
    st.integers(1, 7),
)
def test_every_run_once_and_no_pack_mixes_readers(kinds: list[tuple[int, int]], size: int, limit: int) -> None:
    runs = [run(f"r{index}", model=f"net{model}") for index, (model, _) in enumerate(kinds)]
    readers = {f"r{index}": [f"final{reader}"] if reader else [] for index, (_, reader) in enumerate(kinds)}
    batches = make_batches(runs, {}, readers, runs_per_gpu=size, array_limit=limit)
    assert sorted(name for batch in batches for name in batch.runs) == sorted(item.run_id for item in runs)
    for batch in batches:
        assert 1 <= len(batch.tasks) <= limit
        assert batch.width <= size
        for task in batch.tasks:
            assert len({tuple(readers[name]) for name in task}) == 1
