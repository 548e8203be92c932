"""A dataset's published files on a disk of the node, before a run reads them: copied once, for all processes of the node."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from pathlib import Path

from repro.config.schema import Config
from repro.data.published_files import files_of as files_of
from repro.errors import UserError
from repro.files import write_bytes
from repro.runs.lock import hold

logger = logging.getLogger(__name__)

#: Seconds that a process waits while another one copies.
WAIT_S = 900.0


def staged(config: Config) -> Config:
    """Return ``config`` with the copies in ``paths.scratch`` for ``paths.data``, once they are there and as published.

    A copy is written beside itself and renamed, so a kill leaves a whole file or none. Where copies cannot be made, a warning says why, and
    the files are read where they are. Without ``paths.scratch``, or for a dataset without files, ``config`` is returned as it is.
    """
    files = files_of(config.dataset.name)
    if files is None or not config.paths.scratch:
        return config
    try:
        data, scratch = (Path(folder).expanduser() for folder in (config.paths.data, config.paths.scratch))
        scratch.mkdir(parents=True, exist_ok=True)
        with hold(scratch / f".{files.dataset}.lock", timeout_s=WAIT_S):
            for name, md5 in files.md5.items():
                _stage(data / name, scratch / name, md5)
    except (UserError, OSError, RuntimeError) as error:
        logger.warning("paths.scratch=%s is not used, the dataset is read from %s: %s", config.paths.scratch, config.paths.data, error)
        return config
    return dataclasses.replace(config, paths=dataclasses.replace(config.paths, data=str(scratch)))


def _stage(source: Path, target: Path, md5: str) -> None:
    if target.is_file() and _md5(target.read_bytes()) == md5:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{target.name}.*.tmp"):
        leftover.unlink()  # of a copy that was killed; the lock says that nobody is writing it
    content = source.read_bytes()
    if _md5(content) != md5:
        raise UserError(f"{source} is not the published file.")
    write_bytes(target, content)
    logger.info("%s was copied to %s.", source, target)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
