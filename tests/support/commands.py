"""Commands as a user calls them, ``python -m NAME ...``, in processes of their own that do not each import PyTorch for seconds.

A server has imported what comes from other packages. A command is a fork of it, which imports the suite from where it is called.
"""

import atexit
import functools
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from glob import glob
from pathlib import Path
from tempfile import TemporaryDirectory

TIME_LIMIT_S = 600

SERVER = f"""
import json, os, runpy, signal, sys
import hydra, matplotlib.pyplot, pandas, PIL.Image, pydantic, scipy.stats, sklearn.datasets, torch, tqdm, wandb
for request in sys.stdin:
    words, cwd, environment, files = json.loads(request)
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    signal.alarm({TIME_LIMIT_S})
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in enumerate(files, 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[:0] = [cwd, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        exec(words[1])
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
    break
"""


@functools.cache
def _server() -> "subprocess.Popen[str]":
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)
    return server


def python(*words: str, cwd: Path, environment: Mapping[str, str] = os.environ) -> "subprocess.CompletedProcess[str]":
    """Return what ``python WORDS`` does in ``cwd``; ``words`` begin with ``-m``, ``-c`` or the path of a program."""
    server = _server()
    assert server.stdin
    assert server.stdout
    with TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        request = [words, str(cwd), dict(environment), list(map(str, files))]
        print(json.dumps(request), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(words, code, *(path.read_text(encoding="utf-8") for path in files))


def command(line: str, *, cwd: Path, environment: Mapping[str, str] = os.environ) -> "subprocess.CompletedProcess[str]":
    """Return what a line of a page does: ``python -m NAME ...``, with a comment or without, and paths with ``*``."""
    program, *words = (found for word in shlex.split(line, comments=True) for found in sorted(glob(word, root_dir=cwd)) or [word])
    assert program == "python"
    return python(*words, cwd=cwd, environment=environment)
