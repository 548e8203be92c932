"""What the tests of jobs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from slurm.jobs.queue import this_cluster


@pytest.fixture(autouse=True)
def _cluster_is_asked_anew() -> Iterator[None]:
    """A test that answers for SLURM must not answer for the next one."""
    this_cluster.cache_clear()
    yield
    this_cluster.cache_clear()
