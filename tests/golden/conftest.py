"""Puts the tensors of the golden tests on the device that ``REPRO_TEST_DEVICE`` names."""

from collections.abc import Iterator

import pytest
import torch
from golden_device import DEVICE


def pytest_collection_modifyitems() -> None:
    # Skipping would look like passing to whoever asked for the GPU.
    if DEVICE not in ("cpu", "cuda"):
        raise pytest.UsageError(f"REPRO_TEST_DEVICE={DEVICE}: must be cpu or cuda.")
    if DEVICE == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("REPRO_TEST_DEVICE=cuda, but PyTorch finds no CUDA GPU here.")


@pytest.fixture(autouse=True)
def on_the_device(request: pytest.FixtureRequest) -> Iterator[None]:
    """New tensors are made on the device, except in a module that imports ``DEVICE``: that one places its tensors itself."""
    if DEVICE == "cpu":
        yield
        return
    cudnn = torch.backends.cudnn
    before = (cudnn.allow_tf32, cudnn.deterministic)
    cudnn.allow_tf32, cudnn.deterministic = False, True
    torch.set_default_device(None if hasattr(request.module, "DEVICE") else DEVICE)
    yield
    torch.set_default_device(None)
    cudnn.allow_tf32, cudnn.deterministic = before
