"""Every registered method, by being registered; and the update rules of the label methods against automatic differentiation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from made_inputs import NUM_CLASSES, NUM_INSTANCES, batch_at, build_method, inputs_for, make_context
from torch import Tensor

from repro.config import registry
from repro.engine.method import Batch, Method

ROWS = torch.arange(NUM_INSTANCES)


def make_batch(method: Method) -> tuple[Batch, Tensor]:
    """Return a batch, and a gradient dL_meta/dC."""
    torch.manual_seed(0)
    rows, data = torch.randperm(NUM_INSTANCES)[:12], method.context.data
    images = data.transform(data.train.images[rows], None)
    return batch_at(method, rows, torch.log_softmax(torch.randn(12, 5), 1), step=1, inputs=images), torch.randn(12, NUM_CLASSES)


@pytest.mark.parametrize("name", registry.choices("method"))
def test_targets_are_distributions_and_coefficients_sum_to_one_and_the_state_is_all_that_changes(name: str, tmp_path: Path) -> None:
    context = make_context(inputs_for(name, tmp_path))
    method, resumed = build_method(name, context), build_method(name, context)
    batch, gradient = make_batch(method)
    for _ in range(3 if method.uses_meta else 1):
        targets = method.targets(ROWS)
        assert (targets >= 0).all()
        torch.testing.assert_close(targets.sum(1), torch.ones(NUM_INSTANCES))
        for coefficients in (method.lookahead_coefficients(batch), method.coefficients(batch)):
            assert not coefficients.requires_grad
            total = coefficients.sum().item()
            assert total == pytest.approx(1.0, abs=1e-6) or (method.weighs and 0.0 <= total < 1.0)
        method.after_step(batch)
        if method.uses_meta:
            method.update(batch, gradient)
            method.after_step(batch)
    resumed.load_state_dict(method.state_dict())
    method.given, resumed.given = None, None  # nothing is drawn for the batch again
    torch.testing.assert_close(resumed.targets(ROWS), method.targets(ROWS), rtol=0, atol=0)
    torch.testing.assert_close(resumed.coefficients(batch), method.coefficients(batch), rtol=0, atol=0)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("learning_rate", [0.05, 1000.0])
def test_class_labels_step_is_that_of_autodiff_clamped(learning_rate: float, reduction: str) -> None:
    """Eq. 5: alpha moves against the derivative of sum(G * C(alpha)), the batch's images of a class summed, or their mean."""
    method = build_method("class_labels", learning_rate=learning_rate, initial_target_probability=0.7, class_reduction=reduction)
    batch, gradient = make_batch(method)
    alpha = method.class_parameters().clone().requires_grad_()
    own, hot = alpha[batch.observed].unsqueeze(1), torch.nn.functional.one_hot(batch.observed, NUM_CLASSES).float()
    coefficients = (hot * (1 - own) + (1 - hot) * own / (NUM_CLASSES - 1)) / 12
    (slope,) = torch.autograd.grad((gradient * coefficients).sum(), alpha)
    slope = slope / hot.sum(0).clamp(min=1) if reduction == "mean" else slope
    method.update(batch, gradient)
    torch.testing.assert_close(method.class_parameters(), (alpha - learning_rate * slope).clamp(0, 1).detach())


@pytest.mark.parametrize("in_lookahead", [False, True])
def test_instance_labels_step_is_that_of_autodiff_on_the_rows_of_the_batch(in_lookahead: bool) -> None:
    """Eq. 5 on the logits: z moves against the derivative of sum(G * w * softmax(z) / n), the weights w detached."""
    method = build_method("instance_labels", learning_rate=3.0, curriculum="one_minus_entropy", curriculum_in_lookahead=in_lookahead)
    batch, gradient = make_batch(method)
    before = method.logits.clone()
    method.update(batch, gradient)  # away from the start, where all entropies are equal
    assert (method.logits != before).any(1).nonzero().squeeze(1).tolist() == sorted(batch.rows.tolist())
    logits = method.logits[batch.rows].clone().requires_grad_()
    weights = method.lookahead_coefficients(batch) / method.targets(batch.rows) * 12
    (slope,) = torch.autograd.grad((gradient * weights * torch.softmax(logits, 1) / 12).sum(), logits)
    method.update(batch, gradient)
    torch.testing.assert_close(method.logits[batch.rows], (logits - 3.0 * slope).detach())


@pytest.mark.parametrize("name", ["class_labels", "instance_labels"])
def test_labels_start_alike_and_learn_after_the_warm_up(name: str) -> None:
    method = build_method(name, warmup_epochs=2, initial_target_probability=0.7)
    assert [method.learns_at(epoch) for epoch in range(4)] == [False, False, True, True]
    wanted = torch.full((NUM_INSTANCES, NUM_CLASSES), 0.3 / (NUM_CLASSES - 1))
    wanted[ROWS, method.context.observed] = 0.7
    torch.testing.assert_close(method.targets(ROWS), wanted)


@pytest.mark.parametrize("parametrization", ["softmax", "simplex", "multiplicative"])
def test_mass_moves_against_the_gradient(parametrization: str) -> None:
    """The sign test: more mass on the class whose coefficient lowers the meta loss, less where it raises it."""
    method = build_method("instance_labels", learning_rate=2.0, initial_target_probability=0.5, parametrization=parametrization)
    batch, gradient = make_batch(method)
    before, gradient = method.targets(batch.rows), torch.tensor([[-1.0, 1.0, 0.0, 0.0, 0.0]]).expand(12, -1)
    method.update(batch, gradient)
    after = method.targets(batch.rows)
    assert (after[:, 0] > before[:, 0]).all()
    assert (after[:, 1] < before[:, 1]).all()
    torch.testing.assert_close(after.sum(1), torch.ones(12))


@pytest.mark.parametrize(
    ("curriculum", "expected"),
    [("one_minus_entropy", [1.0, 0.0]), ("exp_negative_entropy", [1.0, 1 / NUM_CLASSES]), ("entropy", [0.0, 1.6094379])],
)
def test_curriculum_weights(curriculum: str, expected: list[float]) -> None:
    """One label is one-hot (H = 0), the others uniform (H = log K), all of whose weights may vanish."""

    def weights(rows: Tensor, **settings: Any) -> Tensor:
        method = build_method("instance_labels", curriculum=curriculum, parametrization="simplex", **settings)
        method.logits.fill_(1 / NUM_CLASSES)[0] = torch.eye(NUM_CLASSES)[0]
        batch = batch_at(method, rows)
        torch.testing.assert_close(method.lookahead_coefficients(batch).sum(1) * len(rows), torch.ones(len(rows)))
        return method.coefficients(batch).sum(1) * len(rows)

    rows = torch.tensor([0, 1])
    torch.testing.assert_close(weights(rows, curriculum_normalized=False), torch.tensor(expected), atol=1e-6, rtol=1e-5)
    assert weights(rows).mean() == pytest.approx(1.0)
    assert torch.isfinite(weights(ROWS[1:])).all()
