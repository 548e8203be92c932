"""Calls that another process makes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from repro.errors import UserError
from sweeps.plan.apart import Apart
from sweeps.spec.data import Place, SpecError
from sweeps.spec.load import load_spec


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Apart:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    return Apart()


def test_results_prints_and_mistakes_come_back(apart: Apart, capfd: pytest.CaptureFixture[str]) -> None:
    here = Place(Path("site.yaml"), 3)
    other = apart(os.getpid)
    assert other != os.getpid()
    assert apart(os.getpid) == other
    apart(print, "one", "two")
    assert capfd.readouterr().out == "one two\n"
    with pytest.raises(ZeroDivisionError) as caught:
        apart(divmod, 1, 0)
    assert "result = function(*arguments)" in caught.value.__notes__[0], "where it was raised"
    assert str(apart(here.error, "x: wrong")) == "site.yaml:3: x: wrong"
    with pytest.raises(SpecError, match="Did you mean 'demo'"):
        apart(load_spec, "demmo")
    apart.close()
    apart.close()
    with pytest.raises(ProcessLookupError):
        os.kill(other, 0)
    assert apart(os.getpid) != other
    apart.close()


def test_where_pytorch_is_there_is_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", subprocess)
    assert Apart()(os.getpid) == os.getpid()


def test_a_process_that_is_killed_is_named(apart: Apart) -> None:
    with pytest.raises(UserError, match="there is too little memory"):
        apart(os.kill, apart(os.getpid), signal.SIGKILL)
    apart.close()
    assert apart(os.getpid)
    apart.close()


def test_ctrl_c_is_for_the_command_alone(apart: Apart) -> None:
    apart(os.kill, apart(os.getpid), signal.SIGINT)
    assert apart(abs, -1) == 1
    apart.close()
