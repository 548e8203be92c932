import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
from pathlib import Path

import pytest
from made_plans import call, driver, plan_of, wait_until

from sweeps.local.progress import Outcome, Progress, completed_epochs, last_row

WIDTH = 100


def test_completed_epochs_are_read_from_whole_lines(tmp_path: Path) -> None:
    assert completed_epochs(last_row(tmp_path)) == 0
    rows = [json.dumps({"epoch": epoch, "much": "x" * 9000}) + "\n" for epoch in range(20)]
    (tmp_path / "metrics.jsonl").write_text("".join(rows))
    assert completed_epochs(last_row(tmp_path)) == 19
    (tmp_path / "metrics.jsonl").write_text("".join(rows)[:-5])
    assert completed_epochs(last_row(tmp_path)) == 18
    (tmp_path / "metrics.jsonl").write_text("[1]\n")
    assert completed_epochs(last_row(tmp_path)) == 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(written: str) -> list[str]:
    """What a terminal shows: its lines, without spaces at their ends."""
    lines: list[list[str]] = [[]]
    row = column = 0
    for part in re.findall(r"\x1b\[A|[^\x1b]", written):
        if part == "\x1b[A":
            row -= 1
            assert row >= 0
        elif part == "\n":
            row += 1
            column = 0
            if row == len(lines):
                lines.append([])
        elif part == "\r":
            column = 0
        else:
            line = lines[row]
            line.extend(" " * (column + 1 - len(line)))
            line[column] = part
            column += 1
    return ["".join(line).rstrip() for line in lines]


def test_the_lines_on_a_terminal_count_runs_and_epochs(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"d": "c", "f": "abde"}, **dict.fromkeys("abcdef", "done"))
    for name, epoch in {"a": 0, "b": 1}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps({"epoch": epoch, "test/accuracy": 0.5}) + "\n")
    stream = Terminal()
    outcome = Outcome(done={"e"})
    progress = Progress(plan, outcome, stream)
    progress.refresh([plan.runs["a"], plan.runs["b"]], [])
    shown = screen(stream.getvalue())
    assert shown[0].startswith("1/6 runs done, stage 1/3, 2 running, 0 failed:  25%|"), "what an earlier call has trained counts"
    assert "| 3/12 [" in shown[0]
    assert shown[1:] == ["  epoch 0/2, test/accuracy 0.5000  fake: a", "  epoch 1/2, test/accuracy 0.5000  fake: b"]
    before = len(stream.getvalue())
    progress.refresh([plan.runs["a"], plan.runs["b"]], [])
    assert "fake: a" not in stream.getvalue()[before:]

    outcome.done.add("a")
    progress.finished(plan.runs["a"], "in 1 s")
    outcome.failed["c"] = "ValueError: no"
    progress.failed(plan.runs["c"])
    outcome.skipped |= {"d": "its input c failed", "f": "c failed, which its input d needs"}
    progress.skipped(plan.runs["d"])
    progress.skipped(plan.runs["f"])
    progress.refresh([plan.runs["b"]], [])
    shown = screen(stream.getvalue())
    assert shown[0] == "[2/6] FAILED: fake: c (c): ValueError: no"
    assert shown[1] == "[2/6] skipped: fake: d (d): its input c failed"
    assert shown[3].startswith("2/6 runs done, stage 1/3, 1 running, 1 failed, 2 skipped:  83%|")
    assert "| 5/6 [" in shown[3]
    assert shown[4:] == ["", "  epoch 1/2, test/accuracy 0.5000  fake: b"]
    progress.close()
    shown = screen(stream.getvalue())
    assert "5/6" in shown[3]
    assert shown[4:] == ["", ""]


def test_the_stage_is_the_first_that_is_not_over(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"b": "a", "c": "b"}, **dict.fromkeys("abc", "done"))
    stream = Terminal()
    outcome = Outcome(done={"a"})
    progress = Progress(plan, outcome, stream)
    assert "stage 2/3" in screen(stream.getvalue())[0]
    outcome.done.add("b")
    progress.finished(plan.runs["b"], "elsewhere")
    progress.refresh([], [plan.runs["c"]])
    assert "2/3 runs done, stage 3/3, 0 running, 1 elsewhere, 0 failed:" in screen(stream.getvalue())[0]
    progress.close()


def on_terminal(process_of: object) -> tuple[subprocess.Popen[str], list[bytes], threading.Thread]:
    """Start a planner whose messages go to a terminal; return it, what it has written so far, and the thread that reads."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, WIDTH, 0, 0))
    process: subprocess.Popen[str] = process_of(slave)
    os.close(slave)
    written: list[bytes] = []

    def read() -> None:
        try:
            while chunk := os.read(master, 4096):
                written.append(chunk)
        except OSError:  # how Linux says that the other end is closed
            os.close(master)

    reader = threading.Thread(target=read)
    reader.start()
    return process, written, reader


def test_a_terminal_shows_running_runs_and_is_clean_after_ctrl_c(tmp_path: Path) -> None:
    process, written, reader = on_terminal(lambda slave: driver(tmp_path, "slow", "abcd", inputs={"d": "abc"}, terminal=slave))

    def shown() -> list[str]:
        return screen(b"".join(written).decode(errors="replace"))

    wait_until(lambda: [line for line in shown() if line] and len([line for line in shown() if "test/accuracy 0.1250" in line]) == 2)
    first, *runs = [line for line in shown() if line]
    assert re.match(r"0/4 runs done, stage 1/2, 2 running, 0 failed:   0%\|.*\| 0/8 \[", first)
    assert runs == [f"  epoch 0/2, test/accuracy 0.1250  fake: {name}" for name in "ab"]
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=300)
    reader.join()
    assert process.returncode == 130
    lines = [line for line in shown() if line]
    assert lines[0].startswith("stopping: 2 runs save their state")
    assert lines[1].startswith("0/4 runs done, stage 1/2, 0 running, 0 failed:")
    assert len(lines) == 2
    assert all(len(line) <= WIDTH for line in lines[1:])


def test_a_terminal_is_left_with_one_line_when_all_is_done(tmp_path: Path) -> None:
    process, written, reader = on_terminal(lambda slave: driver(tmp_path, "done", "abcd", inputs={"d": "abc"}, terminal=slave))
    process.communicate(timeout=300)
    reader.join()
    assert process.returncode == 0
    (line,) = [line for line in screen(b"".join(written).decode()) if line]
    assert re.match(r"4/4 runs done, 0 running, 0 failed: 100%\|.*\| 8/8 \[", line)


def test_elsewhere_than_on_a_terminal_each_finished_run_has_a_plain_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(plan_of(tmp_path, {"b": "a"}, a="done", b="done"))
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"\d+ s", "N s", line) for line in lines] == [
        "[1/2] done in N s: fake: a (a)",
        "[2/2] done in N s: fake: b (b)",
    ]
