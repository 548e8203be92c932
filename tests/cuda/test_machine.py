"""The doctor's checks run on CUDA; what they find on a driver that computes nothing means nothing."""

from __future__ import annotations

import pytest
import torch

from benchmarks.common.null_cuda import loaded
from repro import doctor

SIZES = doctor.Sizes(width=4, batch=8, meta_batch=16, steps=2)


@pytest.mark.parametrize("check", doctor.CHECKS, ids=lambda check: str(check.__name__))
def test_checks(check: doctor.Check) -> None:
    if check is doctor.check_golden and loaded():
        pytest.skip("the golden tests have a test of their own here")
    found = check(torch.device("cuda"), SIZES)
    assert found.text
    assert found.good or loaded(), found
