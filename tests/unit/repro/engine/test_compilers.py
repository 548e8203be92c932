"""What compiled steps need beside PyTorch."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn
from torch._inductor import config

from repro.config.compose import compose
from repro.engine.compiled import Programs, missing_compiler
from repro.engine.optimizer import make_optimizer
from repro.errors import UserError


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only folder in which commands are looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with config.patch({"cpp.cxx": (None, "g++")}):
        yield tmp_path


def install(tools: Path, name: str) -> None:
    (tools / name).touch(mode=0o755)


def test_on_a_cpu_it_is_a_compiler_of_cpp(tools: Path) -> None:
    install(tools, "gcc")
    assert "there is no g++ ($CXX" in str(missing_compiler("cpu"))
    install(tools, "g++")
    assert missing_compiler("cpu") is None
    with config.patch({"cpp.cxx": "ccache mine"}):
        assert "there is no ccache mine ($CXX" in str(missing_compiler("cpu"))
        install(tools, "ccache")
        assert missing_compiler("cpu") is None


def test_on_a_gpu_it_is_a_compiler_of_c(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tools, "g++")
    assert "there is no gcc or clang ($CC" in str(missing_compiler("cuda"))
    install(tools, "clang")
    assert missing_compiler("cuda") is None
    monkeypatch.setenv("CC", "mine")
    assert "there is no mine ($CC" in str(missing_compiler("cuda"))
    install(tools, "mine")
    assert missing_compiler("cuda") is None
    assert missing_compiler("mps") is None


def test_a_step_without_its_compiler_is_refused_before_it_is_taken(tools: Path) -> None:
    recipe = compose(["method=one_hot", "dataset=digits", "seed=0"]).optim
    optimizer = make_optimizer(nn.Linear(2, 2), recipe)
    with pytest.raises(UserError, match=r"^exec\.compile=true: on a CPU .* Install one, or use exec\.compile=false\.$"):
        Programs(lambda *given: (), list, [optimizer], compile_step=True, cuda_graphs=False)
    Programs(lambda *given: (), list, [optimizer], compile_step=False, cuda_graphs=False)
