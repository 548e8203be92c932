"""These tests need a CUDA device, or a CUDA driver that does nothing (``REPRO_NULL_CUDA``): ``make test-cuda`` runs them on either."""

from collections.abc import Iterator

import pytest
import torch
from null_cuda import folder, loaded


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.cuda)


@pytest.fixture(autouse=True)
def a_cuda_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not torch.cuda.is_available():
        where = "REPRO_NULL_CUDA is set: `make test-cuda` loads it" if folder() else "no CUDA device, and REPRO_NULL_CUDA names no driver"
        pytest.skip(where)
    if loaded():
        # cuDNN would ask it how the weights of an LSTM lie.
        monkeypatch.setattr(torch, "_use_cudnn_rnn_flatten_weight", lambda: False)
    deterministic = torch.get_deterministic_debug_mode()
    yield
    torch.set_deterministic_debug_mode(deterministic)
