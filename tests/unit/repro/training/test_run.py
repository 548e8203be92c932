"""On which device a run is executed and how, how it hears signals, and the refusals before it begins."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from real_runs import tiny

from repro.command import stop_signals
from repro.config.compose import compose
from repro.config.identity import run_id
from repro.data.prepare import prepare
from repro.errors import UserError
from repro.runs.state import read_state
from repro.training.build import build
from repro.training.debug import debug
from repro.training.run import STOP_SIGNALS, _received, choose_device, choose_execution, execute

GPU = torch.device("cuda")


@pytest.mark.parametrize(("given", "refused"), [(None, False), ("", False), ("-1", False), ("0,1", True)])
def test_a_gpu_that_was_given_and_cannot_be_used_is_not_passed_over(
    given: str | None, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    with pytest.raises(UserError, match=r"^exec\.device=cuda: there is no such device here.* Present: cpu"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("device", "more", "expected"),
    [
        ("cpu", [], ("float32", False, False, False)),
        ("cuda", [], ("float32", True, True, True)),
        ("cuda", ["trajectory.gradient=true"], ("float32", True, True, False)),
        ("cuda", ["exec=audit"], ("float32", False, False, False)),
        ("cuda", ["exec=fast"], ("bfloat16", True, True, True)),
    ],
)
def test_how_a_step_is_executed(device: str, more: list[str], expected: tuple[object, ...]) -> None:
    config = compose(["method=instance_labels", "dataset=digits", "seed=0", *more])
    chosen = choose_execution(config, torch.device(device))
    assert (chosen.precision, chosen.allow_tf32, chosen.channels_last, chosen.cuda_graphs) == expected


def test_a_forked_child_does_not_take_a_signal_for_the_run() -> None:
    with stop_signals(STOP_SIGNALS, _received) as received:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
            os.write(writer, bytes([len(received)]))
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reader, 1) == b"\0"
        for end in (reader, writer):
            os.close(end)
        os.kill(os.getpid(), signal.SIGINT)
        assert received == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("more", [["exec.device=mps"], ["dataset=cifar10", "model=resnet18", "paths.data=nowhere"]])
def test_a_run_that_could_not_start_leaves_nothing(tmp_path: Path, more: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.mps.is_available", lambda: False)
    with pytest.raises(UserError):
        execute(tiny(tmp_path, *more))
    assert not list(tmp_path.iterdir())


def test_a_run_does_not_start_over_a_status_that_cannot_be_read(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    folder = tmp_path / run_id(config)
    folder.mkdir()
    (folder / "status.json").write_text("{")
    with pytest.raises(UserError, match=r"status\.json cannot be read.*delete it"):
        execute(config)
    assert (read_state(folder), len(list(folder.iterdir()))) == ("corrupted", 1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["optim.batch_size=2000"], "optim.batch_size=2000: there are 1337 training images, so each step is on all of them."),
        (["noise=uniform", "noise.rate=1.0"], "noise=uniform: labels are drawn whatever the true class is"),
        (["noise=uniform", "noise.rate=0.9", "noise.include_true=false"], "so there is nothing to learn from."),
        (["optim.batch_size=1337", "noise=uniform", "noise.rate=1.0", "noise.include_true=false"], ""),
    ],
)
def test_settings_that_are_hardly_meant_are_said(tmp_path: Path, settings: list[str], said: str, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny(tmp_path, *settings)
    caplog.clear()
    build(config, prepare(config, torch.device("cpu")), torch.device("cpu"), tmp_path)
    assert said in caplog.text if said else not caplog.text


def test_debug_shows_every_metric_and_keeps_no_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny(tmp_path, "method=instance_labels", "exec=debug", "optim.epochs=5", "noise=uniform", "noise.rate=0.4")
    with caplog.at_level("INFO"):
        debug(config)
    for text in ("debug: epoch 2", "test/accuracy", "noise/label_error", "no file was kept"):
        assert text in caplog.text
    assert "debug: epoch 3" not in caplog.text
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"exec\.debug=true keeps no results"):
        execute(config)
