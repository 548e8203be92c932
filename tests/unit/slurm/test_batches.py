from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from slurm.jobs.batches import Batch, make_batches, split
from sweeps.plan.plan import PlannedRun


def run(name: str, *, stage: int = 0, method: str = "m", model: str = "net", inputs: tuple[str, ...] = ()) -> PlannedRun:
    return PlannedRun(name, (), {"method.name": method, "model.name": model}, "missing", inputs, ("table",), name, stage)


def grid(seeds: int, folds: int, methods: tuple[str, ...] = ("replay",)) -> list[PlannedRun]:
    """Folds, and for each method a final of those with one seed."""
    found = [run(f"f{seed}.{fold}") for seed in range(seeds) for fold in range(folds)]
    for method in methods:
        inputs = [tuple(f"f{seed}.{fold}" for fold in range(folds)) for seed in range(seeds)]
        found += [run(f"{method}{seed}", stage=1, method=method, inputs=inputs[seed]) for seed in range(seeds)]
    return found


def batches_of(
    runs: list[PlannedRun], *, done: tuple[str, ...] = (), live: dict[str, str] | None = None, size: int = 1, limit: int = 1000
) -> list[Batch]:
    readers = {name: [item.run_id for item in runs if name in item.inputs] for item in runs for name in item.inputs}
    waited = {item.run_id: [name for name in item.inputs if name not in done] for item in runs}
    missing = [item for item in runs if item.run_id not in (live or {}) and item.run_id not in done]
    return make_batches(missing, waited, readers, live or {}, size=defaultdict(lambda: size), array_limit=limit)


def waits(batches: list[Batch], live: dict[str, str] | None = None) -> dict[str, set[str]]:
    """Return for each run which runs SLURM will have it wait for, as it reads the dependencies; SLURM's ids are 10, 11, ..."""
    jobs = dict(live or {})
    for number, batch in enumerate(batches, 10):
        ids = [f"{number}_{index}" if len(batch.tasks) > 1 else str(number) for index in range(len(batch.tasks))]
        jobs |= {name: job for job, task in zip(ids, batch.tasks, strict=True) for name in task}
    runs_of = {job: {name for name, other in jobs.items() if other == job} for job in jobs.values()}
    found: dict[str, set[str]] = {}
    for batch in batches:
        assert split(batch, jobs) == [batch]
        kind, _, ids_of = (batch.dependency(jobs) or "afterok").partition(":")
        for index, task in enumerate(batch.tasks):
            named = [f"{job}_{index}" if kind == "aftercorr" else job for job in ids_of.split(":") if job]
            found |= {name: set().union(*(runs_of[job] for job in named)) for name in task}
    return found


def test_a_class_is_an_array_and_each_final_waits_for_its_own() -> None:
    """Fewer finals than folds of each: the folds are one array, and cut at the limit."""
    runs = grid(2, 3)
    batches = batches_of(runs, done=("f0.0",), limit=4)
    assert [batch.name for batch in batches] == ["table-m-net", "table-m-net", "table-replay-net", "table-replay-net"]
    assert [len(batch.tasks) for batch in batches] == [4, 1, 1, 1]
    assert [batch.after for batch in batches[2:]] == [(("f0.1", "f0.2"),), (("f1.0", "f1.1", "f1.2"),)]


def test_finals_of_a_grid_are_one_array() -> None:
    batches = batches_of(grid(833, 5, ("replay", "fixed")), limit=1000)
    assert [len(batch.tasks) for batch in batches] == [833] * 7
    assert batches[5].after[3] == tuple(f"f3.{fold}" for fold in range(5))
    found = waits(batches)
    assert found["replay7"] == found["fixed7"] == {f"f7.{fold}" for fold in range(5)}


def test_what_is_in_the_queue_already_is_waited_for_in_its_place() -> None:
    live = {f"f{seed}.{fold}": f"{fold + 1}_{seed}" for seed in range(20) for fold in range(3)}
    batches = batches_of(grid(20, 3), live=live)
    assert [len(batch.tasks) for batch in batches] == [20]
    assert batches[0].dependency(live) == "aftercorr:1:2:3"
    # One of them has another place: its final waits by itself, and those behind it have no array of theirs.
    live["f5.1"] = "9"
    assert [len(batch.tasks) for batch in batches_of(grid(20, 3), live=live)] == [1] * 20


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=30),
    st.integers(1, 4),
    st.integers(1, 7),
)
def test_every_run_once_and_no_pack_mixes_readers(kinds: list[tuple[int, int]], size: int, limit: int) -> None:
    runs = [run(f"r{index}", model=f"net{model}") for index, (model, _) in enumerate(kinds)]
    readers = {f"r{index}": [f"final{reader}"] if reader else [] for index, (_, reader) in enumerate(kinds)}
    batches = make_batches(runs, {}, readers, {}, size=defaultdict(lambda: size), array_limit=limit)
    assert sorted(name for batch in batches for name in batch.runs) == sorted(item.run_id for item in runs)
    for batch in batches:
        assert 1 <= len(batch.tasks) <= limit
        assert batch.width <= size
        for task in batch.tasks:
            assert len({tuple(readers[name]) for name in task}) == 1


@given(st.lists(st.lists(st.integers(0, 11), max_size=4, unique=True), max_size=14), st.integers(1, 3), st.integers(1, 5), st.data())
def test_a_final_waits_for_the_jobs_of_what_it_reads_and_no_others(
    reads: list[list[int]], size: int, limit: int, data: st.DataObject
) -> None:
    """Whatever graph; some of the folds are done, some in the queue."""
    names = [f"f{number}" for number in range(12)]
    state = {name: data.draw(st.sampled_from(["missing", "done", "live"])) for name in names}
    live = {name: data.draw(st.sampled_from(["1", "2", "3"])) + f"_{index}" for index, name in enumerate(names) if state[name] == "live"}
    done = tuple(name for name in names if state[name] == "done")
    finals = [run(f"s{index}", stage=1, method="s", inputs=tuple(names[i] for i in read)) for index, read in enumerate(reads)]
    batches = batches_of([*map(run, names), *finals], done=done, live=live, size=size, limit=limit)
    assert sorted(name for batch in batches for name in batch.runs) == sorted(
        [name for name in names if state[name] == "missing"] + [final.run_id for final in finals]
    )
    found = waits(batches, live)
    packed = {name: set(task) for batch in batches for task in batch.tasks for name in task}
    for final in finals:
        wanted: set[str] = set().union(*(packed.get(name, {name}) for name in final.inputs if name not in done))
        assert found[final.run_id] == wanted
        assert all(set(runs) & set(final.inputs) == set(runs) for runs in [found[final.run_id]]), "no pack has a run that others read"
