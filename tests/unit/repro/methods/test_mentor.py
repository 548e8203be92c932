"""The schedules, the weights and the mentor network of the two MentorNet methods."""

from typing import Any

import pytest
import torch
from made_inputs import NUM_CLASSES, batch_at, build_method, make_context
from torch import Tensor

from repro.config.compose import compose
from repro.engine.method import Batch
from repro.errors import UserError
from repro.methods.shared.loss_curriculum import LossCurriculum, kept
from repro.methods.weights.mentornet_dd import annotate
from repro.randomness import Stream

LOSSES = [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6]


def build(name: str, epochs: int = 100, **settings: Any) -> LossCurriculum:
    return build_method(name, make_context(epochs=epochs), **{"dropout_rates": [0.0], "dropout_spans": [100], **settings})


def batch_with(method: LossCurriculum, losses: list[float], epoch: int, step: int = 0) -> Batch:
    """Return a batch whose images have these losses, the rest of the probability spread over the other classes."""
    rows = torch.arange(len(losses))
    own = torch.tensor(losses, dtype=torch.float64).neg().exp().unsqueeze(1)
    hot = torch.nn.functional.one_hot(method.context.observed[rows], NUM_CLASSES)
    return batch_at(method, rows, (hot * own + (1 - hot) * (1 - own) / (NUM_CLASSES - 1)).log().float(), epoch=epoch, step=step)


def weights_of(method: LossCurriculum, epoch: int, step: int = 0) -> Tensor:
    return method.coefficients(batch_with(method, LOSSES, epoch, step)).sum(1) * len(LOSSES)


@pytest.mark.parametrize(
    ("settings", "epoch", "wanted"),
    [
        ({}, 17, [1.0] * 8),
        ({}, 18, [1.0] * 4 + [0.0] * 4),
        ({}, 89, [1.0] * 4 + [0.0] * 4),
        ({}, 90, [1.0] * 4 + [0.9, 0.7, 0.5, 0.3]),
        ({"linear_width": 0.25}, 99, [1.0] * 4 + [0.6, 0.0, 0.0, 0.0]),
        ({"burn_in": 50}, 49, [1.0] * 8),
        ({"burn_in": 50}, 50, [1.0] * 4 + [0.0] * 4),
    ],
)
def test_the_predefined_curriculum_by_hand(settings: dict[str, Any], epoch: int, wanted: list[float]) -> None:
    """Percentile 0.5 of these losses is 0.9; the width of 1 makes the linear weights 1 - (loss - 0.9)."""
    weights = weights_of(build("mentornet_pd", percentile=0.5, **settings), epoch)
    torch.testing.assert_close(weights, torch.tensor(wanted), atol=1e-5, rtol=0)


def test_the_percentile_moves_once_a_step() -> None:
    method = build("mentornet_pd", percentile=0.75, percentile_decay=0.75)
    first, second = batch_with(method, LOSSES, 30), batch_with(method, [loss + 4.0 for loss in LOSSES], 30)
    method.coefficients(first)
    assert method.average.isnan()
    method.after_step(first)
    assert method.average.item() == pytest.approx(1.25)
    method.after_step(second)
    assert method.average.item() == pytest.approx(0.75 * 1.25 + 0.25 * 5.25)


def test_images_are_left_out_in_proportion_to_their_weights_as_the_step_says() -> None:
    weights = torch.tensor([0.0, 0.2, 0.4, 0.4])

    def staying(count: int, index: int) -> Tensor:
        return kept(weights, torch.arange(4) < count, torch.from_numpy(Stream(0, "test", index).uniform(4)))

    alone = torch.stack([staying(1, index) for index in range(4000)]).double()
    assert (alone.sum(1) == 1).all()
    torch.testing.assert_close(alone.mean(0), weights.double(), atol=0.03, rtol=0)
    # Without replacement: those with weight come before those without.
    assert all(staying(3, index).tolist() == [False, True, True, True] for index in range(50))
    method = build("mentornet_pd", dropout_rates=[0.5])
    first, again, other = (weights_of(method, 0, step) for step in (0, 0, 1))
    assert first.count_nonzero() == 4
    assert (torch.equal(first, again), torch.equal(first, other)) == (True, False)


def test_annotations_follow_the_transition_matrix() -> None:
    matrix, labels = torch.tensor([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [0.1, 0.2, 0.7]]), torch.arange(30_000) % 3
    noisy = annotate(labels, matrix, Stream(0, "test"))
    counts = torch.zeros(3, 3).index_put((labels, noisy), torch.ones(len(labels)), accumulate=True) / 10_000
    torch.testing.assert_close(counts, matrix, atol=0.02, rtol=0)
    assert ((counts > 0) == (matrix > 0)).all()


def test_the_data_driven_mentor_is_learned_once_on_the_clean_split_and_kept() -> None:
    def made(passes: int = 2, **settings: Any) -> LossCurriculum:
        return build("mentornet_dd", epochs=6, mentor_passes=passes, **settings)

    method, random = made(), torch.get_rng_state()
    torch.testing.assert_close(weights_of(method, 0), torch.ones(8))
    assert not method.learned
    weights = weights_of(method, 3)
    assert torch.equal(torch.get_rng_state(), random)
    assert ((weights > 0) & (weights < 1)).all()
    assert torch.equal(weights, weights_of(method, 5))  # the progress is fixed, and so is the mentor
    assert torch.equal(weights, weights_of(made(), 3))
    resumed = made(passes=1)
    resumed.load_state_dict(method.state_dict())
    assert torch.equal(weights, weights_of(resumed, 3))
    moving = made(fixed_progress=False)
    assert not torch.equal(weights_of(moving, 3), weights_of(moving, 5))
    with pytest.raises(UserError, match="split=full contradicts method=mentornet_dd"):
        compose(["dataset=digits", "seed=0", "method=mentornet_dd", "split=full"])
