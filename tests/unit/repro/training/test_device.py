"""Where a run trains, and what it does where it cannot."""

from __future__ import annotations

import pytest
import torch

from repro.errors import UserError
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
