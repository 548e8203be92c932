"""A second user of the machine, where root may become one."""

import os
import shutil
import subprocess
import sys

import pytest

#: Becomes nobody, who may read what is closed to others, such as the Python of these tests, and write only what is open to all.
NOBODY = [
    *("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", sys.executable),
]


def _may_become_nobody() -> bool:
    return os.geteuid() == 0 and shutil.which("setpriv") is not None and not subprocess.run([*NOBODY, "-c", ""], check=False).returncode


needs_root = pytest.mark.skipif(not _may_become_nobody(), reason="only root can become another user")
