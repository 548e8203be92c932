"""W&B's offline files in a run folder: one fragment for each attempt, read with W&B's own reader.

A fragment is a log of records in blocks of 32 KiB (the format of LevelDB's log). A process that is killed can leave its last record
cut short; W&B's reader stops there, and its upload then leaves out the fragments after it. :func:`repair` cuts such an end off.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.files import number

#: Bytes in front of the first record; a fragment that has no more holds nothing.
HEADER_BYTES = 7

_BLOCK_BYTES = 32 * 1024
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4

#: Seconds that W&B's reader may take for one fragment.
_READ_LIMIT_S = 120


@dataclass(frozen=True)
class Fragment:
    """The offline file of one attempt; ``name`` is its folder's, which begins with the time of its start."""

    path: Path

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.path.parent.name

    def empty(self) -> bool:
        """Say whether it holds no record."""
        return self.path.stat().st_size <= HEADER_BYTES

    def sha256(self) -> str:
        """Return the sha256 of the file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def records(self) -> list[dict[str, Any]]:
        """Return every whole record, in order.

        Raises:
            UserError: W&B's reader does not start or does not end.
        """
        if self.empty():
            return []
        # Without the client's own command-line program there is no reader, so it is started through Python.
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(self.path)]
        try:
            output = subprocess.run(command, capture_output=True, text=True, timeout=_READ_LIMIT_S, check=False).stdout
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"{self.path}: `wandb leet inspect` does not read it ({error}).") from error
        found = []
        for line in output.splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                found.append(record)
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Return its history rows, in order, names joined by dots where W&B nests.

        Raises:
            UserError: as :meth:`records`.
        """
        return [dict(record["history"].get("item", {})) for record in self.records() if record.get("type") == "history"]


def fragments(folder: Path) -> list[Fragment]:
    """Return the offline fragments of the run folder, first attempt first."""
    return [Fragment(path) for path in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))]


def epochs(rows: Sequence[dict[str, Any]]) -> list[int]:
    """Return the epochs of history rows, in order."""
    return [int(number(row["epoch"])) for row in rows if "epoch" in row]


def last_epoch(folder: Path) -> int:
    """Return the last epoch that the fragments of earlier attempts hold, or -1.

    Only what is on the disk counts: a killed attempt had not written all it was given. Epochs grow from fragment to fragment, so
    the last one that holds any has the answer.

    Raises:
        UserError: as :meth:`Fragment.records`.
    """
    for fragment in reversed(fragments(folder)):
        if held := epochs(fragment.rows()):
            return max(held)
    return -1


def whole_bytes(content: bytes) -> int:
    """Return how many bytes of a fragment's content are whole records, header included; 0 where the header is cut short."""
    if len(content) < HEADER_BYTES:
        return 0
    position = whole = HEADER_BYTES
    inside = False
    while True:
        left_in_block = _BLOCK_BYTES - position % _BLOCK_BYTES
        if left_in_block < HEADER_BYTES:  # too short for a record's head: zeros up to the next block
            if not inside and position + left_in_block <= len(content) and not any(content[position : position + left_in_block]):
                whole = position + left_in_block
            position += left_in_block
            continue
        if position + HEADER_BYTES > len(content):
            return whole
        checksum, length, kind = struct.unpack_from("<IHB", content, position)
        end = position + HEADER_BYTES + length
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or (kind in (_FULL, _FIRST)) == inside or HEADER_BYTES + length > left_in_block:
            return whole
        if end > len(content) or zlib.crc32(content[position + HEADER_BYTES - 1 : end]) != checksum:
            return whole
        position, inside = end, kind in (_FIRST, _MIDDLE)
        if not inside:
            whole = end


def repair(fragment: Fragment) -> int:
    """Cut off what a kill left half written, and return how many bytes that were. Only for fragments whose process is dead."""
    content = fragment.path.read_bytes()
    whole = whole_bytes(content)
    # A cut header is left alone: it holds nothing, and an empty fragment is passed over.
    if 0 < whole < len(content):
        os.truncate(fragment.path, whole)
        return len(content) - whole
    return 0
