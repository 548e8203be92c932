"""Where a run trains, and how: the choice of its execution by its first step, beside that of float32."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from repro.config.compose import compose
from repro.config.schema import Config
from repro.data.prepare import prepare
from repro.errors import UserError
from repro.files import read_json
from repro.training import guard
from repro.training.build import build
from repro.training.loop import Training
from repro.training.run import choose_device


@pytest.mark.parametrize(("given", "refused"), [(None, False), ("", False), ("-1", False), ("0", True), ("0,3", True), ("GPU-9f", True)])
def test_gpus_that_cannot_be_used_are_not_passed_over(given: str | None, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job with a GPU and no usable CUDA would otherwise train on the CPU for days."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    if refused:
        with pytest.raises(UserError, match=rf"CUDA_VISIBLE_DEVICES={given}.*exec\.device=cpu trains on the CPU"):
            choose_device("auto")
    else:
        assert choose_device("auto").type == "cpu"
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(UserError, match=r"^exec\.device=cuda: there is no such device here, or PyTorch cannot use it"):
        choose_device("cuda")


REAL = guard.CANDIDATES
LAST = "float32, one operation after another"
CPU = {"bfloat16": {"precision": "bfloat16"}, "channels last": {"channels_last": True}, LAST: {}}


@pytest.fixture(autouse=True)
def candidates_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    every = {"precision": "float32"}
    monkeypatch.setattr(guard, "CANDIDATES", {name: every | settings for name, settings in CPU.items()})


def settings(folder: Path, *more: str) -> Config:
    given = ["method=instance_labels", "dataset=digits", "seed=0", "tracker=none", "exec.device=cpu", f"paths.runs={folder}"]
    return compose([*given, *more])


class Made:
    """Makes trainings, and remembers with which settings."""

    def __init__(self, config: Config) -> None:
        self.folder = Path(config.paths.runs)
        self.data = prepare(config, torch.device("cpu"))
        self.asked: list[Config] = []

    def __call__(self, config: Config) -> Training:
        self.asked.append(config)
        return build(config, self.data, torch.device("cpu"), self.folder)


def compared(config: Config, make: Any) -> tuple[Any, dict[str, float]]:
    return guard.compared(config, list(CPU), Path(config.paths.runs) / "guard", "A GPU", make)


def test_the_fastest_within_the_bounds_is_taken_and_kept(tmp_path: Path) -> None:
    config = settings(tmp_path)
    make = Made(config)
    chosen, measured = compared(config, make)
    assert chosen.precision == "bfloat16"
    assert all(1e-5 < measured[name] <= bound for name, bound in guard.BOUNDS.items())
    assert [asked.exec.precision for asked in make.asked] == ["float32", "bfloat16"]
    assert not any(asked.trajectory.record for asked in make.asked)
    # Another seed and number of epochs are runs of the kind; another batch is another kind.
    assert compared(settings(tmp_path, "seed=1", "optim.epochs=3"), make) == (chosen, {})
    assert len(make.asked) == 2
    compared(settings(tmp_path, "optim.batch_size=32"), make)
    assert len(make.asked) == 4


@pytest.mark.parametrize("name", guard.BOUNDS)
def test_what_is_too_far_is_not_taken_and_said(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guard, "BOUNDS", {**guard.BOUNDS, name: 1e-5})
    config = settings(tmp_path)
    with caplog.at_level(logging.WARNING):
        chosen, measured = compared(config, Made(config))
    assert (chosen.precision, chosen.channels_last) == ("float32", True)
    assert measured[name] <= 1e-5
    assert "not executed in bfloat16: its first step is too far from that of float32 (guard/labels" in caplog.text
    (path,) = (tmp_path / "guard").iterdir()
    kept = read_json(path)
    assert kept["chosen"] == "channels last"
    assert kept["distances"]["bfloat16"][name] > 1e-5


def test_what_fails_is_not_taken_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = settings(tmp_path)
    make = Made(config)

    def broken(asked: Config) -> Training:
        if asked.exec.precision == "bfloat16" or asked.exec.channels_last:
            raise RuntimeError("no kernel\nand more")
        return make(asked)

    with caplog.at_level(logging.WARNING):
        chosen, measured = compared(config, broken)
    assert (chosen.precision, chosen.channels_last, measured) == ("float32", False, {})
    assert "not executed in bfloat16: its first step failed: no kernel" in caplog.text


def test_the_first_step_that_learns_is_compared(tmp_path: Path) -> None:
    """Where labels are learned later on, the first epochs say nothing about their gradient."""
    config = settings(tmp_path, "method.warmup_epochs=3", "optim.epochs=5")
    _, labels = guard.first_step(config, Made(config))
    assert labels.norm() > 0


def test_distances_that_say_nothing_are_infinite() -> None:
    zero, one = torch.zeros(3), torch.ones(3)
    assert guard.distance([one, zero], [one, zero]) == {"guard/labels": 0.0, "guard/parameters": 0.0}
    assert guard.distance([zero, zero], [zero, zero])["guard/parameters"] == float("inf")
    assert guard.distance([one, one], [one, zero])["guard/labels"] == float("inf")
    assert guard.distance([one * float("nan"), zero], [one, zero])["guard/parameters"] == float("inf")


def test_a_cpu_is_as_it_was(tmp_path: Path) -> None:
    chosen, measured = guard.choose(settings(tmp_path), torch.device("cpu"), None, lambda _: pytest.fail("compared"))
    assert (chosen.precision, chosen.allow_tf32, chosen.cuda_graphs, measured) == ("float32", False, False, {})


def test_an_interrupted_run_goes_on_as_it_began(tmp_path: Path) -> None:
    earlier = {"precision": "bfloat16", "channels_last": True, "cuda_graphs": True}
    chosen, _ = guard.choose(settings(tmp_path), torch.device("cuda"), earlier, lambda _: pytest.fail("compared"))
    assert (chosen.precision, chosen.channels_last, chosen.cuda_graphs) == ("bfloat16", True, True)


def test_what_was_named_is_not_chosen(tmp_path: Path) -> None:
    named = settings(tmp_path, "exec=audit", "exec.allow_tf32=true")
    assert guard.choose(named, torch.device("cuda"), None, lambda _: pytest.fail("compared")) == (named.exec, {})


def test_a_choice_of_ones_own_contradicts_auto(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"exec\.channels_last=true contradicts exec\.precision=auto.*exec=audit"):
        settings(tmp_path, "exec.channels_last=true")


@pytest.mark.parametrize(("capability", "first"), [((7, 0), "float32"), ((8, 0), "bfloat16")])
def test_older_gpus_do_not_try_what_they_have_no_units_for(
    capability: tuple[int, int], first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "CANDIDATES", REAL)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    found = guard.candidates_on(torch.device("cuda"))
    assert (found[0], found[-1]) == (first, LAST)
    assert len(found) == (2 if first == "float32" else 5)
