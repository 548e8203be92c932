"""Counts that later plans read instead of counting again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from repro.config import registry
from sweeps.plan import count_cache, counting

MODEL: Any = ("small_cnn", '{"width": 4}', (3, 8, 8), 3)


@pytest.fixture(autouse=True)
def _nothing_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    _forget()
    yield
    _forget()


def _forget() -> None:
    """As a new process."""
    for function in (count_cache.counted, count_cache._folder, count_cache._clear, counting.count_step, counting.count_forward):
        function.cache_clear()


def _no_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("counted again")

    monkeypatch.setattr(counting, "_count", refuse)


@pytest.mark.parametrize("sizes", [{"batch": 2}, {"batch": 2, "meta_batch": 3}, {"images": 2}])
def test_a_later_process_reads_what_was_counted(sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    first = count_cache.counted(*MODEL, **sizes)
    _forget()
    _no_counting(monkeypatch)
    again = count_cache.counted(*MODEL, **sizes)
    assert (again.operations, again.peak_bytes, again.float32_peak_bytes) == (first.operations, first.peak_bytes, first.float32_peak_bytes)


def test_other_arguments_are_counted(tmp_path: Path) -> None:
    different = {count_cache.counted(*MODEL, batch=2).flops, count_cache.counted(*MODEL, batch=4).flops}
    different |= {count_cache.counted("small_cnn", '{"width": 8}', (3, 8, 8), 3, batch=2).flops}
    assert len(different) == len(list(tmp_path.glob("counts/*/*.json"))) == 3


def test_other_code_counts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count_cache.counted(*MODEL, images=2)
    _forget()
    monkeypatch.setattr(count_cache, "version", lambda package: "0.0")
    count_cache.counted(*MODEL, images=2)
    assert len(list(tmp_path.glob("counts/*"))) == 2


def test_what_cannot_be_read_is_counted_again(tmp_path: Path) -> None:
    first = count_cache.counted(*MODEL, images=2)
    (file,) = tmp_path.glob("counts/*/*.json")
    whole = file.read_bytes()
    for damage in (b"", b"[]", b"{}", whole[: len(whole) // 2], b"\xff"):
        file.write_bytes(damage)
        _forget()
        assert count_cache.counted(*MODEL, images=2).operations == first.operations
        assert file.read_bytes() == whole


def test_without_a_place_for_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "file"))
    _forget()
    assert count_cache.counted(*MODEL, images=2).flops > 0


def test_a_network_from_elsewhere_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry.get("model", "small_cnn")

    def build(*given: Any, **named: Any) -> Any:
        return known.build(*given, **named)

    monkeypatch.setitem(registry.choices("model"), "small_cnn", registry.Choice("model", "small_cnn", known.config, build))
    assert count_cache.counted(*MODEL, images=2).flops > 0
    assert list(tmp_path.iterdir()) == []


def test_what_old_code_has_left_goes(tmp_path: Path) -> None:
    old, young = tmp_path / "counts" / "old", tmp_path / "counts" / "young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (0, time.time() - 40 * 24 * 3600))
    count_cache.counted(*MODEL, images=2)
    assert young.is_dir()
    assert not old.exists()
