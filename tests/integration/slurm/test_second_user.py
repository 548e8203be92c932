"""Another Unix user on the same SLURM, with the same folder of runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from box import Box
from lab import Lab, plain

from slurm.jobs.ledger import Ledger
from slurm.jobs.queue import this_cluster

#: Becomes nobody, who may read what is closed to others, such as the Python of these tests, and write only what is open to all.
NOBODY = [
    *("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", sys.executable),
]


@pytest.fixture
def shared(make_box: Callable[..., Box], monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A lab whose folder others can reach; those of pytest are closed to them."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    tried = subprocess.run([*NOBODY, "-c", ""], capture_output=True, text=True, check=False) if shutil.which("setpriv") else None
    if tried is None or tried.returncode != 0:
        pytest.skip(f"nobody cannot run this Python here: {tried.stderr if tried else 'no setpriv'}")
    box = make_box()
    folder = Path(tempfile.mkdtemp(prefix="shared-", dir="/tmp"))
    folder.chmod(0o755)
    monkeypatch.setenv("SLURM_CONF", str(box.config))
    monkeypatch.setenv("PATH", os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"]))
    this_cluster.cache_clear()
    yield Lab(box, folder, plain(2, epochs=3000))
    this_cluster.cache_clear()
    box.empty()
    shutil.rmtree(folder)


def as_nobody(trial: Lab, command: str, *more: str) -> subprocess.CompletedProcess[str]:
    words = ["-m", "slurm", command, *more, "--cluster", str(trial.site), "--runs", str(trial.runs)]
    environment = os.environ | {"HOME": str(trial.folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([*NOBODY, *words], env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)


@pytest.mark.slurm
def test_a_second_user_sees_and_does_no_harm(shared: Lab) -> None:
    """One run trains and one waits; the second user could write all of it, and may go on with it once its owner has given it up."""
    assert shared.submit("--max-parallel", "1") == 0
    shared.wait(lambda: shared.epoch(shared.ids[0]) >= 1)
    for path in (shared.runs, *shared.runs.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    (item,) = Ledger(shared.runs).read()
    ledger = {path: path.read_bytes() for path in (shared.runs / "slurm").rglob("*") if path.name in ("batch.json", "trial.json")}
    owner = f"elsewhere: {item.user} on box"
    status = as_nobody(shared, "status", "trial")
    assert (status.returncode, f"2 runs: 2 {owner}" in status.stdout) == (0, True), status
    submit = as_nobody(shared, "submit", str(shared.spec), "--yes", "--retry")
    assert submit.returncode == 0, submit.stderr
    assert f"not submitted, 2 runs: {owner}" in submit.stdout
    assert "submitted 0 runs with 0 calls of sbatch" in submit.stdout
    assert as_nobody(shared, "cancel", "trial").returncode == 1
    assert as_nobody(shared, "summary").stdout.startswith("no accounts: ")
    assert {path: path.read_bytes() for path in ledger} == ledger
    assert [one.token for one in Ledger(shared.runs).read()] == [item.token]
    assert set(shared.box.run("squeue", "-h", "-o", "%u").split()) == {item.user}
    assert list(shared.states().values()) == ["running", "queued"]
    assert shared.call("cancel", "trial") == 0
    shared.wait_until_over()
    assert "2 runs: 2 cancelled" in as_nobody(shared, "status", "trial").stdout
