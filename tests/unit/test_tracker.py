"""The parts of the W&B mirror that need neither a client nor a server."""

from __future__ import annotations

import math
import shlex
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from repro.files import write_json
from repro.labels import Layout
from repro.metric_names import METRICS, definition_of, is_headline
from repro.metrics import LabelTotals, entropy
from repro.tracker.__main__ import _parser
from repro.tracker.contents import as_logged, differences, summary_names
from repro.tracker.environment import PUBLIC_SERVER, api_key, base_url, probe
from repro.tracker.fragments import Fragment, repair, whole_bytes
from repro.tracker.names import table
from repro.tracker.pictures import heatmap, histograms

BLOCK = 32 * 1024


def log(*records: bytes) -> bytes:
    """Return a W&B log of these records, written by hand from the format's description."""
    content = b":W&B\xe1\xbe\x00"
    for record in records:
        kind, rest = 1, record
        while True:
            room = BLOCK - len(content) % BLOCK
            if room < 7:
                content += bytes(room)
                continue
            part, rest = rest[: room - 7], rest[room - 7 :]
            kind = (1 if not rest else 2) if kind == 1 else (4 if not rest else 3)
            body = bytes([kind]) + part
            content += struct.pack("<IH", zlib.crc32(body), len(part)) + body
            if not rest:
                break
            kind = 0
    return content


def test_whole_records_of_a_log() -> None:
    records = [b"a" * 100, b"b" * 70_000, b"c" * 32_000, b"", b"d" * 10]
    ends = [len(log(*records[:count])) for count in range(len(records) + 1)]
    whole = log(*records)
    assert whole_bytes(whole) == len(whole)
    for cut in [*range(0, len(whole), 997), *ends, *(end - 1 for end in ends), len(whole) - 5]:
        expected = max((end for end in ends if end <= cut), default=0)
        assert whole_bytes(whole[:cut]) == expected, cut
    damaged = bytearray(whole)
    damaged[ends[2] - 3] ^= 1
    assert whole_bytes(bytes(damaged)) == ends[1]


def test_repair_cuts_only_what_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "offline-run-20260101_000000-x" / "run-x.wandb"
    path.parent.mkdir()
    whole = log(b"a" * 100, b"b" * 100)
    for content, cut in ((whole, 0), (whole[:-1], 106), (whole[:7], 0), (whole[:3], 0)):
        path.write_bytes(content)
        assert repair(Fragment(path)) == cut
        assert path.stat().st_size == len(content) - cut
    assert Fragment(path).empty()


def test_heat_map() -> None:
    rows = [{"epoch": epoch, "class_target_probability/000": 0.0, "class_target_probability/001": epoch / 4} for epoch in range(5)]
    image = heatmap(rows, epochs=9)
    assert image is not None
    assert image.shape == (320, 640, 3)
    assert image.dtype == np.uint8
    cells = image[::160, ::64].astype(int)
    assert (cells[0, :5] == cells[0, 0]).all()
    brightness = cells[1, :5].sum(axis=1)
    assert (np.diff(brightness) > 0).all()
    assert (cells[:, 5:] == 128).all()
    assert (cells[1, 0] == cells[0, 0]).all()
    assert heatmap([{"epoch": 0, "test/loss": 1.0}], epochs=3) is None
    unknown = heatmap([{"epoch": 0, "class_target_probability/000": "NaN"}], epochs=0)
    assert unknown is not None
    assert (unknown == 128).all()


@pytest.mark.parametrize("kind", ["instance", "class"])
def test_histograms(kind: str, tmp_path: Path) -> None:
    layout = Layout(kind=kind, epochs=2, rows=4, num_classes=3)
    folder = tmp_path / "labels"
    folder.mkdir()
    first, second = np.full((4, 3), 1 / 3), np.array([[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0.9, 0.05, 0.05]])
    (folder / layout.file_name).write_bytes(first.astype(layout.dtype).tobytes() + second.astype(layout.dtype).tobytes())
    (folder / "indices.i64").write_bytes(np.arange(4, dtype="<i8").tobytes())
    noted = {"schema": 1, "kind": kind, "file": layout.file_name, "dtype": layout.dtype.str, "when": "after", "shape": [2, 4, 3]}
    write_json(folder / "layout.json", noted | {"indices": "indices.i64", "num_instances": 4})
    assert histograms(tmp_path, 0) == histograms(tmp_path, 3) == histograms(tmp_path / "none", 1) == {}
    ((name, (counts, edges)),) = histograms(tmp_path, 2).items()
    assert definition_of(name).mirror_only
    if kind == "instance":
        assert name == "label/entropy_histogram"
        values = [entropy(torch.tensor(row).unsqueeze(0)).item() for row in second]
        assert counts.sum() == 4
        assert histograms(tmp_path, 1)[name][0].sum() == 4
        assert edges[-1] == pytest.approx(math.log(3), rel=2e-3)
    else:
        assert name == "label/class_parameter_histogram"
        values = list(second[-1])
        assert counts.sum() == 3
    assert (counts == np.histogram(values, bins=edges)[0]).all()


def test_quantiles_by_hand() -> None:
    observed = torch.zeros(11, dtype=torch.int64)
    mass = torch.linspace(1.0, 0.0, 11, dtype=torch.float64)
    totals = LabelTotals(2)
    for part in (slice(0, 4), slice(4, 11)):
        totals.add(torch.stack([mass[part], 1 - mass[part]], dim=1), observed[part], observed[part])
    row = totals.metrics(noisy=False)
    assert [row[f"label/target_probability_q{percent}"] for percent in (10, 50, 90)] == pytest.approx([0.1, 0.5, 0.9])
    assert row["label/entropy_q10"] == pytest.approx(0.0)
    assert row["label/entropy_q90"] == pytest.approx(entropy(torch.tensor([[0.4, 0.6]])).item())
    # Results of a run stay what they were before there were quantiles.
    assert not any(is_headline(name) for name in row if "_q" in name)
    assert is_headline("label/entropy")


def test_comparing_rows() -> None:
    truth = {"epoch": 3, "step": 30, "test/loss": "NaN", "test/accuracy": 1.0, "time/epoch_s": 1.0}
    assert as_logged(truth) | {"test/loss": 0.0} == truth | {"test/loss": 0.0}
    assert math.isnan(as_logged(truth)["test/loss"])
    mirrored = {"epoch": 3, "step": 30, "test/loss": "NaN", "test/accuracy": 1, "time/epoch_s": 2.0, "_runtime": 1}
    assert differences(truth, mirrored) == []
    assert differences(truth, mirrored | {"test/accuracy": 0.9999999}) == ["test/accuracy is 0.9999999, not 1.0"]
    assert differences(truth, {name: value for name, value in mirrored.items() if name != "test/loss"}) == ["test/loss is missing"]
    assert differences(truth, mirrored | {"test/loss": {"max": 1}}) == ["test/loss is {'max': 1}, not nan"]
    assert summary_names("test/accuracy")["last"] == "final_test_accuracy"


def test_which_server_and_which_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_BASE_URL", "WANDB_API_KEY", "WANDB_CONFIG_DIR", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert base_url() == PUBLIC_SERVER
    settings = tmp_path / ".config" / "wandb" / "settings"
    settings.parent.mkdir(parents=True)
    settings.write_text("[default]\nbase_url = https://wandb.example.org/\n")
    assert base_url() == "https://wandb.example.org"
    settings.write_text("not a settings file")
    assert base_url() == PUBLIC_SERVER
    assert api_key(PUBLIC_SERVER) is None
    assert "there is no API key" in (probe() or "")
    (tmp_path / ".netrc").write_text("machine wandb.example.org login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert api_key("https://wandb.example.org") == "secret"
    assert api_key(PUBLIC_SERVER) is None
    monkeypatch.setenv("WANDB_API_KEY", "other")
    assert api_key("https://wandb.example.org") == "other"
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert "cannot be reached" in (probe() or "")


def test_documentation_lists_every_metric() -> None:
    """`python -m repro.tracker metrics` prints what stands between the two marks."""
    text = (Path(__file__).parents[2] / "docs" / "wandb.md").read_text()
    stands = text.partition("<!-- metrics: begin -->\n")[2].partition("<!-- metrics: end -->")[0]
    assert stands == table()
    assert all(f"`{metric.name}`" in stands for metric in METRICS)


def test_documented_commands_are_understood() -> None:
    root = Path(__file__).parents[2]
    lines = [line.strip() for name in ("README.md", "docs/wandb.md") for line in (root / name).read_text().splitlines()]
    commands = [line.partition("#")[0].partition("&gt;")[0] for line in lines if line.startswith("python -m repro.tracker ")]
    assert len(commands) >= 10
    for command in commands:
        _parser().parse_args(shlex.split(command)[3:])


def test_nothing_loads_wandb_before_it_is_needed() -> None:
    code = "import sys, repro.run, repro.tracker.__main__; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
