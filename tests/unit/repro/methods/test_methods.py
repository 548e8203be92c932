"""Every registered method, by being registered; and the update rules of the label methods against automatic differentiation."""

from pathlib import Path

import pytest
import torch
from made_inputs import NUM_CLASSES, NUM_INSTANCES, batch_at, build_method, inputs_for, make_context
from torch import Tensor

from repro.config import registry
from repro.engine.method import Batch, Method
from repro.methods.learned.instance_labels import project_onto_simplex


def make_batch(method: Method, seed: int = 0) -> Batch:
    torch.manual_seed(seed)
    rows = torch.randperm(NUM_INSTANCES)[:12]
    scores = torch.log_softmax(torch.randn(12, NUM_CLASSES), 1)
    data = method.context.data
    images = data.transform(data.train.images[rows], None)
    return batch_at(method, rows, scores, step=1, inputs=images)


@pytest.mark.parametrize("name", registry.choices("method"))
def test_targets_are_distributions_and_coefficients_sum_to_one(name: str, tmp_path: Path) -> None:
    method = build_method(name, make_context(inputs_for(name, registry.get("method", name).config(), tmp_path)))
    batch = make_batch(method)
    for _ in range(3):
        targets = method.targets(torch.arange(NUM_INSTANCES))
        assert (targets >= 0).all()
        torch.testing.assert_close(targets.sum(1), torch.ones(NUM_INSTANCES))
        for coefficients in (method.coefficients(batch), method.lookahead_coefficients(batch)):
            assert not coefficients.requires_grad
            assert torch.isfinite(coefficients).all()
            total = coefficients.sum().item()
            assert total == pytest.approx(1.0, abs=1e-6) or (method.weighs and 0.0 <= total < 1.0)
        method.after_step(batch)
        if not method.uses_meta:
            break
        method.update(batch, torch.randn(12, NUM_CLASSES))


@pytest.mark.parametrize("learning_rate", [0.05, 1000.0])
def test_class_labels_step_is_that_of_autodiff_clamped(learning_rate: float) -> None:
    """Eq. 5: alpha moves against the derivative of sum(G * C(alpha)), the batch's images of a class summed."""
    method = build_method("class_labels", learning_rate=learning_rate, initial_target_probability=0.7)
    batch, gradient = make_batch(method), torch.randn(12, NUM_CLASSES)
    alpha = method.class_parameters().clone().requires_grad_()
    own = alpha[batch.observed].unsqueeze(1)
    hot = torch.nn.functional.one_hot(batch.observed, NUM_CLASSES).float()
    coefficients = (hot * (1 - own) + (1 - hot) * own / (NUM_CLASSES - 1)) / 12
    (slope,) = torch.autograd.grad((gradient * coefficients).sum(), alpha)
    method.update(batch, gradient)
    torch.testing.assert_close(method.class_parameters(), (alpha - learning_rate * slope).clamp(0, 1).detach())


def test_class_reduction_mean_divides_by_the_class_count() -> None:
    summed = build_method("class_labels", learning_rate=0.01)
    averaged = build_method("class_labels", learning_rate=0.01, class_reduction="mean")
    batch, gradient = make_batch(summed), torch.randn(12, NUM_CLASSES)
    start = summed.class_parameters().clone()
    summed.update(batch, gradient)
    averaged.update(batch, gradient)
    counts = torch.bincount(batch.observed, minlength=NUM_CLASSES).clamp(min=1)
    torch.testing.assert_close((summed.class_parameters() - start) / counts, averaged.class_parameters() - start)


@pytest.mark.parametrize("curriculum_in_lookahead", [False, True])
def test_instance_labels_step_is_that_of_autodiff(curriculum_in_lookahead: bool) -> None:
    """Eq. 5 on the logits: z moves against the derivative of sum(G * w * softmax(z) / n), the weights w detached."""
    method = build_method(
        "instance_labels", learning_rate=3.0, curriculum="one_minus_entropy", curriculum_in_lookahead=curriculum_in_lookahead
    )
    batch, gradient = make_batch(method), torch.randn(12, NUM_CLASSES)
    method.update(batch, gradient)  # away from the start, where all entropies are equal
    logits = method.state_dict()["logits"][batch.rows].clone().requires_grad_()
    weights = method.lookahead_coefficients(batch) / method.targets(batch.rows) * 12
    (slope,) = torch.autograd.grad((gradient * weights * torch.softmax(logits, 1) / 12).sum(), logits)
    method.update(batch, gradient)
    torch.testing.assert_close(method.state_dict()["logits"][batch.rows], (logits - 3.0 * slope).detach())


def test_instance_labels_touch_only_the_rows_of_the_batch() -> None:
    method = build_method("instance_labels", momentum=0.9)
    batch = make_batch(method)
    before = method.state_dict()["logits"].clone()
    method.update(batch, torch.randn(12, NUM_CLASSES))
    changed = (method.state_dict()["logits"] != before).any(1).nonzero().squeeze(1)
    assert changed.tolist() == sorted(batch.rows.tolist())


@pytest.mark.parametrize("name", ["class_labels", "instance_labels"])
def test_labels_start_alike_and_learn_after_the_warm_up(name: str) -> None:
    method = build_method(name, warmup_epochs=2, initial_target_probability=0.7)
    assert [method.learns_at(epoch) for epoch in range(4)] == [False, False, True, True]
    wanted = torch.full((NUM_INSTANCES, NUM_CLASSES), 0.3 / (NUM_CLASSES - 1))
    wanted[torch.arange(NUM_INSTANCES), method.context.observed] = 0.7
    torch.testing.assert_close(method.targets(torch.arange(NUM_INSTANCES)), wanted)


@pytest.mark.parametrize("parametrization", ["softmax", "simplex", "multiplicative"])
def test_mass_moves_against_the_gradient(parametrization: str) -> None:
    """The sign test: more mass on the class whose coefficient lowers the meta loss, less where it raises it."""
    method = build_method("instance_labels", learning_rate=2.0, initial_target_probability=0.5, parametrization=parametrization)
    batch = make_batch(method)
    before = method.targets(batch.rows)
    gradient = torch.zeros(12, NUM_CLASSES)
    gradient[:, 0], gradient[:, 1] = -1.0, 1.0
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
    """One label is one-hot (H = 0), one uniform (H = log K)."""
    method = build_method("instance_labels", curriculum=curriculum, curriculum_normalized=False, parametrization="simplex")
    rows = torch.tensor([0, 1])
    method.load_state_dict({"logits": torch.cat([torch.eye(NUM_CLASSES)[:1], torch.full((39, NUM_CLASSES), 1 / NUM_CLASSES)])})
    batch = batch_at(method, rows)
    weights = method.coefficients(batch).sum(1) * 2
    torch.testing.assert_close(weights, torch.tensor(expected), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(method.lookahead_coefficients(batch).sum(1) * 2, torch.ones(2))


def test_curriculum_of_uniform_labels_is_finite() -> None:
    method = build_method("instance_labels", curriculum="one_minus_entropy", parametrization="simplex")
    method.load_state_dict({"logits": torch.full((NUM_INSTANCES, NUM_CLASSES), 1 / NUM_CLASSES)})
    assert torch.isfinite(method.coefficients(make_batch(method))).all()


def test_label_smoothing_conventions() -> None:
    """Spreading a over all K classes equals spreading a (K - 1) / K over the others."""
    rows = torch.arange(NUM_INSTANCES)
    uniform = build_method("label_smoothing", alpha=0.2, form="uniform").targets(rows)
    nontarget = build_method("label_smoothing", alpha=0.2 * 4 / 5, form="nontarget").targets(rows)
    torch.testing.assert_close(uniform, nontarget)
    observed = uniform.gather(1, (rows % NUM_CLASSES).unsqueeze(1))
    torch.testing.assert_close(observed, torch.full((NUM_INSTANCES, 1), 0.8 + 0.2 / 5))


def test_projection_onto_the_simplex() -> None:
    """The projection is a distribution, leaves distributions alone, and no other distribution is nearer."""
    torch.manual_seed(0)
    points: Tensor = 3 * torch.randn(50, NUM_CLASSES)
    projected = project_onto_simplex(points)
    torch.testing.assert_close(projected.sum(1), torch.ones(50))
    assert (projected >= 0).all()
    torch.testing.assert_close(project_onto_simplex(projected), projected)
    others = torch.distributions.Dirichlet(torch.ones(NUM_CLASSES)).sample((500,))
    nearest = torch.cdist(points, others).min(1).values
    assert ((points - projected).norm(dim=1) <= nearest + 1e-6).all()
