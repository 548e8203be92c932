"""What all command lines share."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from repro.command import exit_code_of, print_table, stop_signals
from repro.errors import Interrupted, UserError


def raising(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("optim.epoch: no"), 2, "error: optim.epoch: no\n"),
        (Interrupted(signal.SIGTERM), 143, "stopped; the same command resumes.\n"),
        (KeyboardInterrupt(), 130, ""),
        (PermissionError(13, "no", "plan"), 2, "error: [Errno 13] no: 'plan'\nIs it another user's? `chmod -R g+rwX RUNS` by its owner "),
    ],
)
def test_what_ends_a_command_is_its_exit_code(error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(lambda: raising(error)) == code
    printed = capsys.readouterr().err
    assert printed.startswith(words)
    assert len(printed.splitlines()) <= 2


def test_an_error_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_code_of(lambda: raising(ZeroDivisionError()))


def test_a_reader_that_has_seen_enough_ends_the_command_quietly() -> None:
    program = (
        "import sys; from repro.command import exit_code_of; sys.exit(exit_code_of(lambda: [print('x' * 99) for _ in range(9**5)] and 0))"
    )
    command = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    command.stdout.readline()
    command.stdout.close()
    errors = command.stderr.read()
    command.stderr.close()
    assert (command.wait(), errors) == (128 + signal.SIGPIPE, b"")


def test_stop_signals_are_collected_and_the_handlers_put_back() -> None:
    before = signal.getsignal(signal.SIGUSR2)
    told: list[tuple[int, int]] = []
    with stop_signals((signal.SIGUSR2,), lambda number, earlier: told.append((number, len(earlier)))) as received:
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR2)
    assert received == [signal.SIGUSR2] * 2
    assert told == [(signal.SIGUSR2, 0), (signal.SIGUSR2, 1)]
    assert signal.getsignal(signal.SIGUSR2) is before


def test_another_thread_collects_nothing() -> None:
    found: list[list[int]] = []

    def work() -> None:
        with stop_signals((signal.SIGUSR2,)) as received:
            found.append(received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [[]]


def test_columns_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([["a", "bcd"], ["ef", "g"]])
    assert capsys.readouterr().out == "a   bcd\nef  g\n"
