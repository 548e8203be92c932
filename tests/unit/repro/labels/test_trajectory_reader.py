"""Label trajectories: written by the recorder, block by block, and read back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made_inputs import NUM_CLASSES, NUM_INSTANCES, build_method
from sealed import seal

from repro.errors import UserError
from repro.labels.recorder import Layout, Recorder
from repro.labels.trajectory import open_trajectory
from repro.runs.manifest import sha256

ROWS, STEP = torch.arange(NUM_INSTANCES), torch.zeros(1, dtype=torch.int64)
INDICES = 10 * np.arange(NUM_INSTANCES)[::-1].astype(np.int64)


@pytest.mark.parametrize("kind", ["instance", "class"])
def test_what_was_recorded_is_read_also_by_a_run_that_stopped_within_an_epoch(tmp_path: Path, kind: str) -> None:
    method = build_method(f"{kind}_labels")
    layout = Layout(kind, epochs=3, rows=NUM_INSTANCES if kind == "instance" else 1, num_classes=NUM_CLASSES)
    recorder, wanted = Recorder(tmp_path / "labels", layout, method, when="after"), []
    recorder.begin(INDICES, completed_epochs=0)
    for epoch in (1, 2):
        recorder.note("after", ROWS, STEP)
        wanted.append(recorder.block.float().numpy().copy())
        state = {name: value.clone() if name == "block" else value for name, value in recorder.state_dict().items()}
        recorder.note("before", ROWS, STEP)  # not what is recorded
        for parameter in method.state_dict().values():
            parameter.mul_(0.5)
        recorder.end_epoch(epoch)
    # The checkpoint knows one epoch and the block of the second.
    resumed = Recorder(tmp_path / "labels", layout, method, when="after")
    resumed.load_state_dict(state)
    resumed.begin(INDICES, completed_epochs=1)
    resumed.end_epoch(2)
    assert resumed.sha256s() == recorder.sha256s()
    assert all(sha256((tmp_path / name).read_bytes()) == digest for name, digest in resumed.sha256s().items())
    seal(tmp_path)
    labels = open_trajectory(tmp_path / "labels")
    assert (labels.kind, labels.epochs, labels.planned, labels.num_classes, labels.when) == (kind, 2, 3, NUM_CLASSES, "after")
    np.testing.assert_array_equal([labels.block(epoch) for epoch in (0, 1)], wanted)
    assert labels.rows_of(np.array([390, 1, 0, 999])).tolist() == [0, -1, NUM_INSTANCES - 1, -1]
    (file,) = (tmp_path / "labels").glob("*.f*")
    file.write_bytes(file.read_bytes()[:-4])
    resumed.load_state_dict(resumed.state_dict())
    with pytest.raises(UserError, match="the 2 epochs that the checkpoint knows are not what the run wrote"):
        resumed.begin(INDICES, completed_epochs=2)
