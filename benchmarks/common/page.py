"""A small table for the terminal, and the same on a dated page under ``docs/benchmarks`` with what is needed to judge and repeat it."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from analysis.tables.formats import grid_lines
from repro.files import write_text
from repro.runs.provenance import device_name, git_state, versions

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "benchmarks"


@dataclass(frozen=True)
class Table:
    """A table of text; numbers stand right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""

    def __str__(self) -> str:
        """Return it as aligned Markdown."""
        signs = tuple("0123456789+-.")
        columns = enumerate(zip(*self.rows, strict=True))
        words = [index for index, cells in columns if not all(cell.startswith(signs) or cell in ("", "—") for cell in cells)]
        return "\n".join(grid_lines(self.columns, self.rows, left=words))


@dataclass(frozen=True)
class Page:
    """What a measurement found; ``name`` is part of the file's name, ``notes`` say what is measured and how, a paragraph each."""

    name: str
    title: str
    tables: Sequence[Table]
    notes: Sequence[str]

    def render(self, device: torch.device, when: datetime) -> str:
        """Return the page as Markdown: date, machine, versions and command, then the tables, then the notes."""
        git = git_state()
        changes = " with uncommitted changes" if git["dirty_sha256"] else ""
        facts = [
            ("Date", f"{when:%Y-%m-%d}"),
            ("Hardware", hardware(device)),
            ("Threads", f"{torch.get_num_threads()} of PyTorch"),
            ("Versions", ", ".join(f"{name} {version}" for name, version in _versions().items())),
            ("Code", "not in a repository" if git["sha"] is None else git["sha"][:12] + changes),
        ]
        head = "\n".join(f"- {name}: {value}" for name, value in facts)
        body = "\n\n".join(f"## {table.title}\n\n{table}" if table.title else str(table) for table in self.tables)
        command = f"python benchmarks/{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}".strip()
        again = f"To repeat it, with nothing else running:\n\n    {command}"
        return "\n\n".join([f"# {self.title}", head, again, body, *self.notes]) + "\n"

    def write(self, device: torch.device, folder: Path = FOLDER, when: datetime | None = None) -> Path:
        """Write the page as ``DATE-NAME-DEVICE.md``, over one of the same day, and return its path."""
        moment = when or datetime.now(UTC)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{moment:%Y-%m-%d}-{self.name}-{device.type}.md"
        write_text(path, self.render(device, moment))
        return path


def hardware(device: torch.device) -> str:
    """Return the processor, its cores that this process may use, the memory, and the GPU if one was measured."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor = device_name(torch.device("cpu")).removeprefix("cpu (").removesuffix(")")
    text = f"{processor}, {cores} cores, {memory:.0f} GiB of memory"
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        text += f"; {properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return text


def _versions() -> dict[str, str]:
    found = {name: version for name, version in versions().items() if name in ("python", "torch", "torchvision", "numpy")}
    for package in ("higher", "torchopt", "triton"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
