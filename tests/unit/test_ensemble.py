"""The batched ensemble that is measured takes the steps of the runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.ensemble import Ensemble, measure
from benchmarks.execution import Execution, our_step
from benchmarks.problem import make_learner, make_problem
from repro.errors import UserError
from repro.step import MetaBatch

CPU = torch.device("cpu")


def test_equals_the_runs_alone_in_float64() -> None:
    problem = make_problem("digits_cnn", device=CPU, batch=8, meta_batch=12)
    problem = replace(problem, inputs=problem.inputs.double(), meta=MetaBatch(problem.meta.inputs.double(), problem.meta.targets))
    learners = [make_learner(problem) for _ in range(2)]
    for index, learner in enumerate(learners):
        learner.model.double()
        learner.method.logits = learner.method.logits.double()  # type: ignore[attr-defined]
        for parameter in learner.model.parameters():
            parameter.data.mul_(1.0 + 0.1 * index)
    config = problem.config
    rates = {"learning_rate": config.optim.learning_rate, "label_rate": 50.0, "weight_decay": config.optim.weight_decay}
    ensemble = Ensemble(learners, problem, **rates)
    for _ in range(3):
        ensemble()
        for learner in learners:
            our_step(problem, learner, Execution())(problem.inputs, problem.rows, problem.meta)
    for index, learner in enumerate(learners):
        for name, value in learner.model.named_parameters():
            torch.testing.assert_close(ensemble.parameters[name][index], value.detach(), rtol=1e-9, atol=1e-11)
        for name, value in learner.model.named_buffers():
            torch.testing.assert_close(ensemble.buffers[name][index].to(value.dtype), value, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(ensemble.logits[index], learner.method.state_dict()["logits"], rtol=1e-9, atol=1e-11)


def test_rows_of_both_ways_and_a_wrong_ensemble(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = measure("digits_cnn", 2, device=CPU, batch=8, meta_batch=12, repeats=1)
    assert [row["what"] for row in rows] == ["one by one", "ensemble"]
    assert rows[0]["ratio"] == 1.0
    monkeypatch.setattr(Ensemble, "__call__", lambda self: None)
    with pytest.raises(UserError, match="moves otherwise"):
        measure("digits_cnn", 2, device=CPU, batch=8, meta_batch=12, repeats=1)
