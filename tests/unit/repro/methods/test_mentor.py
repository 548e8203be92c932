"""The schedules, the weights and the mentor network of the two MentorNet methods."""

import pytest
import torch
from made_inputs import NUM_CLASSES, batch_at, build_method, make_context
from torch import Tensor

from repro.config.compose import compose
from repro.engine.method import Batch
from repro.errors import UserError
from repro.methods.shared.loss_curriculum import LossCurriculum, kept, percent_done, rate_at
from repro.methods.weights.mentornet_dd import Lessons, Mentor, MentorNetDDConfig, annotate, teach
from repro.randomness import Stream

NONE_LEFT_OUT = {"dropout_rates": [0.0], "dropout_spans": [100]}


def batch_with(method: LossCurriculum, losses: list[float], epoch: int, step: int = 0) -> Batch:
    """Return a batch whose images have these losses, the rest of the probability spread over the other classes."""
    rows = torch.arange(len(losses))
    observed = method.context.observed[rows]
    own = torch.tensor(losses, dtype=torch.float64).neg().exp().unsqueeze(1)
    hot = torch.nn.functional.one_hot(observed, NUM_CLASSES)
    scores = (hot * own + (1 - hot) * (1 - own) / (NUM_CLASSES - 1)).log().float()
    return batch_at(method, rows, scores, epoch=epoch, step=step)


def weights_of(method: LossCurriculum, losses: list[float], epoch: int, step: int = 0) -> Tensor:
    return method.coefficients(batch_with(method, losses, epoch, step)).sum(1) * len(losses)


LOSSES = [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6]


def test_the_predefined_curriculum_by_hand() -> None:
    """Percentile 0.5 of these losses is 0.9; the width of 1 makes the linear weights 1 - (loss - 0.9)."""
    method = build_method("mentornet_pd", make_context(epochs=100), percentile=0.5, **NONE_LEFT_OUT)
    torch.testing.assert_close(weights_of(method, LOSSES, 17), torch.ones(8))
    for epoch in (18, 89):
        torch.testing.assert_close(weights_of(method, LOSSES, epoch), torch.tensor([1.0] * 4 + [0.0] * 4))
    torch.testing.assert_close(weights_of(method, LOSSES, 90), torch.tensor([1.0] * 4 + [0.9, 0.7, 0.5, 0.3]))
    wider = build_method("mentornet_pd", make_context(epochs=100), percentile=0.5, linear_width=0.25, **NONE_LEFT_OUT)
    torch.testing.assert_close(weights_of(wider, LOSSES, 99), torch.tensor([1.0] * 4 + [0.6, 0.0, 0.0, 0.0]), atol=1e-5, rtol=0)
    held = build_method("mentornet_pd", make_context(epochs=100), percentile=0.5, burn_in=50, **NONE_LEFT_OUT)
    torch.testing.assert_close(weights_of(held, LOSSES, 49), torch.ones(8))
    assert weights_of(held, LOSSES, 50).sum() == 4


def test_the_percentile_moves_once_a_step() -> None:
    method = build_method("mentornet_pd", make_context(epochs=100), percentile=0.75, percentile_decay=0.75)
    first = batch_with(method, LOSSES, 30)
    assert method.state_dict()["average"].isnan()
    for _ in range(2):
        method.coefficients(first)
    method.after_step(first)
    assert method.state_dict()["average"].item() == pytest.approx(1.25)
    second = batch_with(method, [loss + 4.0 for loss in LOSSES], 30)
    method.after_step(second)
    assert method.state_dict()["average"].item() == pytest.approx(0.75 * 1.25 + 0.25 * 5.25)


def test_rates_hold_for_their_spans() -> None:
    """The authors' schedule of DD: 0.5 for 17 percent, 0.05 for 78, 0.9 for 5."""
    found = [rate_at(percent, [0.5, 0.05, 0.9], [17, 78, 5]) for percent in (0, 16, 17, 94, 95, 99)]
    assert found == [0.5, 0.5, 0.05, 0.05, 0.9, 0.9]
    assert rate_at(50, [0.3], [10]) == 0.3
    assert [percent_done(epoch, 40) for epoch in (0, 7, 39, 40)] == [0, 17, 97, 99]


def test_images_are_left_out_in_proportion_to_their_weights() -> None:
    weights = torch.tensor([0.0, 0.2, 0.4, 0.4])

    def staying(count: int, index: int) -> Tensor:
        return kept(weights, torch.arange(4) < count, torch.from_numpy(Stream(0, "test", index).uniform(4)))

    alone = torch.stack([staying(1, index) for index in range(4000)]).double()
    assert (alone.sum(1) == 1).all()
    torch.testing.assert_close(alone.mean(0), weights.double(), atol=0.03, rtol=0)
    assert staying(4, 0).all()
    # Without replacement: those with weight come before those without.
    assert all(staying(3, index).tolist() == [False, True, True, True] for index in range(50))


def test_what_is_left_out_is_a_function_of_the_step() -> None:
    method = build_method("mentornet_pd", make_context(epochs=100), dropout_rates=[0.5], dropout_spans=[100])
    first = weights_of(method, LOSSES, 0, 0)
    assert first.count_nonzero() == 4
    assert torch.equal(first, weights_of(method, LOSSES, 0, 0))
    assert any(not torch.equal(first, weights_of(method, LOSSES, 0, step)) for step in range(1, 5))


def test_annotations_follow_the_transition_matrix() -> None:
    matrix = torch.tensor([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [0.1, 0.2, 0.7]])
    labels = torch.arange(30_000) % 3
    noisy = annotate(labels, matrix, Stream(0, "test"))
    counts = torch.zeros(3, 3).index_put((labels, noisy), torch.ones(len(labels)), accumulate=True) / 10_000
    torch.testing.assert_close(counts, matrix, atol=0.02, rtol=0)
    assert ((counts > 0) == (matrix > 0)).all()


def test_a_mentor_learns_to_tell_high_losses_from_low_ones() -> None:
    torch.manual_seed(0)
    right = (torch.rand(600) < 0.6).float()
    losses = torch.where(right == 1.0, 0.5, 2.5) + 0.3 * torch.randn(600)
    lessons = Lessons(losses, losses - 1.0, torch.randint(0, 100, (600,)), right)
    mentor = Mentor()
    teach(mentor, lessons, MentorNetDDConfig(mentor_learning_rate=0.01, mentor_passes=20), seed=0)
    with torch.no_grad():
        said = torch.sigmoid(mentor(lessons.losses, lessons.differences, lessons.percent))
    assert ((said > 0.5) == (right == 1.0)).float().mean() > 0.97


def test_the_data_driven_mentor_is_learned_once_on_the_clean_split_and_kept() -> None:
    method = build_method("mentornet_dd", make_context(epochs=6), mentor_passes=2, **NONE_LEFT_OUT)
    torch.testing.assert_close(weights_of(method, LOSSES, 0), torch.ones(8))
    assert set(method.state_dict()) == {"average"}
    state = torch.get_rng_state()
    found = weights_of(method, LOSSES, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert ((found > 0) & (found < 1)).all()
    assert not method.coefficients(batch_with(method, LOSSES, 3)).requires_grad
    learned = method.state_dict()
    assert torch.equal(found, weights_of(method, LOSSES, 5))  # the progress is fixed, and so is the mentor
    again = build_method("mentornet_dd", make_context(epochs=6), mentor_passes=2, **NONE_LEFT_OUT)
    assert torch.equal(found, weights_of(again, LOSSES, 3))
    resumed = build_method("mentornet_dd", make_context(epochs=6), mentor_passes=1, **NONE_LEFT_OUT)
    resumed.load_state_dict({name: value.clone() for name, value in learned.items()})
    assert torch.equal(found, weights_of(resumed, LOSSES, 3))


def test_progress_that_is_not_fixed_is_that_of_training() -> None:
    method = build_method("mentornet_dd", make_context(epochs=6), mentor_passes=2, fixed_progress=False, **NONE_LEFT_OUT)
    assert not torch.equal(weights_of(method, LOSSES, 3), weights_of(method, LOSSES, 5))


def test_contradictions_are_named() -> None:
    base = ["dataset=digits", "seed=0"]
    with pytest.raises(UserError, match=r"method.dropout_spans=\[17, 83\]: must be as many as method.dropout_rates=\[0.5\]"):
        compose([*base, "method=mentornet_pd", "method.dropout_rates=[0.5]"])
    with pytest.raises(UserError, match="split=full contradicts method=mentornet_dd"):
        compose([*base, "method=mentornet_dd", "split=full"])
