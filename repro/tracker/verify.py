"""The truth against its mirror, row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repro.rundir import read_state
from repro.tracker.contents import Contents, differences
from repro.tracker.fragments import epochs, fragments
from repro.tracker.server import Server


def compare(contents: Contents, mirrored: Sequence[dict[str, Any]], *, whole: bool) -> list[str]:
    """Return what is wrong with the mirror of a run: rows missing, logged twice, out of order, or with other values.

    With ``whole``, every row of ``metrics.jsonl`` must be there; otherwise the last ones may still be missing. Rows after the last of
    a run that is not finished are right: they come from an attempt that was killed, and the next one makes them again.
    """
    truth = {int(row["epoch"]): row for row in contents.rows()}
    held = epochs(mirrored)
    problems = []
    if twice := sorted(epoch for epoch, count in Counter(held).items() if count > 1):
        problems.append(f"{_listed(twice)} more than once")
    elif held != sorted(held):
        problems.append("epochs out of order")
    wanted = truth.keys() if whole else {epoch for epoch in truth if epoch <= max(held, default=-1)}
    if missing := sorted(set(wanted) - set(held)):
        problems.append(f"{_listed(missing)} missing")
    if read_state(contents.folder) == "done" and (surplus := sorted(set(held) - truth.keys())):
        problems.append(f"{_listed(surplus)} not in metrics.jsonl")
    for row in mirrored:
        epoch = int(row.get("epoch", -1))
        if epoch in truth and (found := differences(truth[epoch], row)):
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            problems.append(f"epoch {epoch}: {'; '.join(found[:3])}{more}")
    return problems


def verify(folder: Path, server: Server | None) -> list[str]:
    """Compare a run folder with its offline fragments, or with what ``server`` has; return what is wrong.

    Raises:
        UserError: the folder is no run folder, or the server does not answer.
    """
    contents = Contents(folder)
    if server is not None:
        remote = server.look(contents.run_id)
        if remote is None:
            return [f"{server.place} has no run {contents.run_id}"]
        problems = compare(contents, remote.rows, whole=read_state(folder) != "running")
        if read_state(folder) == "done" and remote.summary.get("truth_sha256") != contents.truth_sha256():
            problems.append("the summary on the server is not that of this metrics.jsonl")
        return problems
    found = fragments(folder)
    if not found:
        return ["there is no offline mirror; --online compares with the server"]
    # What a process has not written yet is not missing.
    return compare(contents, [row for fragment in found for row in fragment.rows()], whole=read_state(folder) != "running")


def _listed(numbers: Sequence[int]) -> str:
    word = "epoch" if len(numbers) == 1 else "epochs"
    shown = ", ".join(map(str, numbers[:5]))
    return f"{word} {shown}" + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
