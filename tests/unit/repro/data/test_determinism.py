"""Random numbers are functions of names, the same everywhere and for ever."""

from __future__ import annotations

import numpy as np
import pytest

from repro.randomness import Stream, seeded, sha256_of


def test_pinned_numbers() -> None:
    """If these change, every split, noise pattern and batch order of every published run changes."""
    assert Stream(0, "order", 3).permutation(8).tolist() == [0, 3, 2, 4, 1, 7, 5, 6]
    assert Stream(1, "noise").integers(6, 100).tolist() == [79, 52, 69, 53, 45, 9]
    assert Stream(0, "init").torch_seed() == 8862645507913195499


def test_names_tell_streams_apart() -> None:
    draws = {Stream(*names).raw(1)[0] for names in [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1)]}
    assert len(draws) == 5


def test_uniform_fills_the_interval_evenly() -> None:
    values = Stream(0, "test").uniform(100_000)
    assert values.min() >= 0.0
    assert values.max() < 1.0
    assert np.histogram(values, 10, (0, 1))[0] == pytest.approx(10_000, abs=400)


def test_permutation_is_one() -> None:
    assert sorted(Stream(0, "test").permutation(1000).tolist()) == list(range(1000))


def test_hash_sees_values_types_and_shapes() -> None:
    base = np.arange(6)
    hashes = {sha256_of(base), sha256_of(base.reshape(2, 3)), sha256_of(base.astype(np.int32)), sha256_of(base + 1)}
    assert len(hashes) == 4
    assert sha256_of(base.astype(">i8")) == sha256_of(base.astype("<i8"))


def test_seeded_numbers_come_from_their_stream_and_leave_the_generator_alone() -> None:
    import torch

    torch.manual_seed(5)
    wanted = torch.rand(2)
    torch.manual_seed(5)
    drawn = []
    for name in ("a", "a", "b"):
        with seeded(Stream(0, name)):
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.rand(2), wanted)
