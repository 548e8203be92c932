"""Shared set-up. Tensor shapes in annotations are checked at run time here, and only here."""

import os
import signal
from collections.abc import Iterator

# Forked test workers and the runs that tests start share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_ERROR_REPORTING"] = "false"

import jaxtyping
import pytest

# Tests send Ctrl-C to what they start, also where they themselves run in the background of a script, which ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)


_hook = jaxtyping.install_import_hook(
    ["repro.engine.lookahead", "repro.engine.step", "repro.engine.method", "repro.methods", "repro.training.metrics"], "beartype.beartype"
)


@pytest.fixture
def double(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compute in float64, but for tests that are marked to compute in float32."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if request.node.get_closest_marker("float32") else torch.float64)
    yield
    torch.set_default_dtype(before)
