"""The manifest of a run: the size and sha256 of every file that anybody reads again, as they were when the run wrote them.

``manifest.json`` is written with every checkpoint and, complete, before the run says ``done``. It notes what was handed to the disk, not
what lies there at the end, so a bit that flips, a file that is cut or one of another run is found by whoever reads it next. A file that is
read epoch by epoch has a sha256 for each of its blocks, so that nobody has to read all of it first.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from repro.errors import UserError
from repro.files import read_json, write_text

FILE = "manifest.json"
SCHEMA = 1

#: What a run folder holds beside the files of its manifest: who runs it, which code was taken as equal, what is gone when it is done, and
#: what the W&B mirror knows.
NOT_LISTED = frozenset({FILE, "status.json", "lease.json", "code.json", "checkpoint.pt", "checkpoint.previous.pt", "sync.json"})

#: What stands before a manifest's own sha256.
_SIGN = ',\n "sha256": "'

#: Bytes that are hashed at a time.
_CHUNK = 2**20


class DamagedError(UserError):
    """A file of a run is not what the run wrote."""


@dataclass(frozen=True)
class Entry:
    """What one file must be: its bytes, and the sha256 of all of it, or of each of its blocks of ``block_bytes`` where that is not 0."""

    size: int
    sha256: str = ""
    block_bytes: int = 0
    blocks: tuple[str, ...] = ()


def entry_of(content: bytes | IO[bytes], block_bytes: int = 0) -> Entry:
    """Return the entry of a file that holds ``content``, with a sha256 for each block if ``block_bytes`` is not 0."""
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    size, whole, blocks = 0, hashlib.sha256(), []
    while part := file.read(block_bytes or _CHUNK):
        size += len(part)
        if block_bytes:
            blocks.append(hashlib.sha256(part).hexdigest())
        else:
            whole.update(part)
    return Entry(size, "" if block_bytes else whole.hexdigest(), block_bytes, tuple(blocks))


@dataclass
class Manifest:
    """The manifest of the run in ``folder``.

    Attributes:
        folder: the run folder.
        run_id: its id, which is the folder's name once it is in its place.
        complete: whether the run was done when it was written; only then can its files be read.
        files: path in the folder -> what the file must be.
        changing: of an unfinished run, what changes from attempt to attempt -> the sha256 of what may lie there, newest first.
    """

    folder: Path
    run_id: str
    complete: bool = False
    files: dict[str, Entry] = field(default_factory=dict)
    changing: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def write(self) -> None:
        """Write it to its folder."""
        write_text(self.folder / FILE, self._text())

    def _text(self) -> str:
        """Return what the file holds: JSON, a line a file, and at the end the sha256 of all that stands before it."""
        files = {
            name: {"size": entry.size, "block_bytes": entry.block_bytes, "blocks": entry.blocks}
            if entry.block_bytes
            else {"size": entry.size, "sha256": entry.sha256}
            for name, entry in sorted(self.files.items())
        }
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(item)}" for name, item in files.items())
        head = {"schema": SCHEMA, "run_id": self.run_id, "complete": self.complete, "changing": self.changing}
        body = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items())
        return _signed(f'{{\n{body},\n "files": {{\n{lines}\n }}')

    def expect(self, name: str, content: bytes) -> None:
        """Note that ``content`` is about to be written as ``name``, beside what may lie there now, and write the manifest.

        A kill at any moment leaves files that the manifest knows: of checkpoints there are three between two renames.
        """
        digest = hashlib.sha256(content).hexdigest()
        self.changing[name] = (digest, *(known for known in self.changing.get(name, ()) if known != digest))[:3]
        self.write()

    def expects(self, name: str, content: bytes) -> bool:
        """Say whether ``content`` was written as ``name``."""
        return hashlib.sha256(content).hexdigest() in self.changing.get(name, ())

    def read_bytes(self, name: str) -> bytes:
        """Return what the file ``name`` holds.

        Raises:
            DamagedError: it is missing, cannot be read, or is not what the run wrote.
        """
        entry = self.entry(name)
        try:
            content = (self.folder / name).read_bytes()
        except OSError as error:
            raise self.damaged(name, error.strerror or str(error)) from error
        if problem := _difference(entry_of(content, entry.block_bytes), entry):
            raise self.damaged(name, problem)
        return content

    def read_json(self, name: str) -> Any:
        """Return the value in the JSON file ``name``; raises what :meth:`read_bytes` raises."""
        try:
            return json.loads(self.read_bytes(name))
        except (ValueError, RecursionError) as error:
            raise self.damaged(name, f"it is no JSON: {error}") from error

    def check_block(self, name: str, index: int, content: Any) -> None:
        """Check that ``content``, anything with a buffer, is block ``index`` of the file ``name``.

        Raises:
            DamagedError: it is not.
        """
        entry = self.entry(name)
        if index >= len(entry.blocks) or hashlib.sha256(content).hexdigest() != entry.blocks[index]:
            raise self.damaged(name, _changed_block(index, entry))

    def size(self, name: str) -> int:
        """Return the bytes of the file ``name``, which it must have; its content is not looked at.

        Raises:
            DamagedError: it has not, or is missing.
        """
        entry = self.entry(name)
        if problem := self._misfit(name, entry):
            raise self.damaged(name, problem)
        return entry.size

    def entry(self, name: str) -> Entry:
        """Return what the file ``name`` must be.

        Raises:
            DamagedError: the manifest does not know the file, or the run is not finished.
        """
        if not self.complete:
            raise self.damaged(FILE, "the run was not finished when it was written")
        if name not in self.files:
            raise self.damaged(FILE, f"it does not list {name}")
        return self.files[name]

    def damaged(self, name: str, problem: str) -> DamagedError:
        """Return the error that the file ``name`` is not what the run wrote."""
        return DamagedError(
            f"run {self.folder.name}: {self.folder / name} is not what the run wrote ({problem}). Put it back from a copy, or move the run "
            "folder away and train the run again."
        )

    def first_misfit(self) -> str | None:
        """Return what is wrong with the first file whose size is not right, without reading any; ``None`` if all are."""
        return next((f"{name}: {problem}" for name, entry in self.files.items() if (problem := self._misfit(name, entry))), None)

    def _misfit(self, name: str, entry: Entry) -> str | None:
        try:
            size = (self.folder / name).stat().st_size
        except OSError as error:
            return error.strerror or str(error)
        return None if size == entry.size else _difference(Entry(size), entry)

    def misfits(self) -> list[str]:
        """Read every file and return what is wrong, a line a file; also that the run was not finished."""
        found = [] if self.complete else [f"{FILE}: the run was not finished when it was written"]
        for name, entry in self.files.items():
            try:
                with (self.folder / name).open("rb") as file:
                    problem = _difference(entry_of(file, entry.block_bytes), entry)
            except OSError as error:
                problem = error.strerror or str(error)
            if problem:
                found.append(f"{name}: {problem}")
        return found


def open_manifest(folder: Path) -> Manifest:
    """Return the manifest of the run in ``folder``.

    Raises:
        DamagedError: there is none, it is not as it was written, or it is that of another run.
    """
    manifest = Manifest(folder, folder.name)
    try:
        text = (folder / FILE).read_text(encoding="utf-8")
        stored = json.loads(text)
        if stored["schema"] != SCHEMA:
            raise manifest.damaged(FILE, f"its schema is {stored['schema']}, this code reads {SCHEMA}")
        if _signed(text.rpartition(_SIGN)[0]) != text:
            raise manifest.damaged(FILE, "its own sha256 is another")
        if stored["run_id"] != folder.name:
            raise manifest.damaged(FILE, f"it is that of {stored['run_id']}")
        files = {
            name: Entry(item["size"], item.get("sha256", ""), item.get("block_bytes", 0), tuple(item.get("blocks", ())))
            for name, item in stored["files"].items()
        }
        changing = {name: tuple(sums) for name, sums in stored["changing"].items()}
        return Manifest(folder, folder.name, stored["complete"], files, changing)
    except FileNotFoundError as error:
        raise DamagedError(
            f"run {folder.name}: {folder / FILE} is missing, so nobody can tell whether the run's files are what it wrote. "
            "Put it back from a copy, or move the run folder away and train the run again."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise manifest.damaged(FILE, f"it cannot be read: {error}") from error


def _signed(text: str) -> str:
    """Return the text of a manifest whose last entry is the sha256 of what stands before it."""
    return f'{text}{_SIGN}{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'


def _difference(found: Entry, wanted: Entry) -> str | None:
    if found.size != wanted.size:
        return f"it has {found.size} bytes, {wanted.size} were written"
    wrong = [index for index, pair in enumerate(zip(found.blocks, wanted.blocks, strict=False)) if pair[0] != pair[1]]
    if wrong:
        return _changed_block(wrong[0], wanted)
    return None if found == wanted else "its content has changed"


def _changed_block(index: int, entry: Entry) -> str:
    return f"its block {index + 1} of {len(entry.blocks)} has changed"


def seal(folder: Path, run_id: str | None = None) -> Manifest:
    """Write the complete manifest of a run folder from the files as they lie there; ``run_id`` if the folder is not in its place yet."""
    top = [path.name for path in folder.iterdir() if path.is_file() and path.name not in NOT_LISTED and not path.name.startswith(".")]
    labels = [f"labels/{path.name}" for path in (folder / "labels").glob("[!.]*")]
    files = {name: _entry_on_disk(folder, name) for name in sorted(top + labels)}
    manifest = Manifest(folder, run_id or folder.name, complete=True, files=files)
    manifest.write()
    return manifest


def _entry_on_disk(folder: Path, name: str) -> Entry:
    """Return the entry of a file; the blocks of a label trajectory are its epochs."""
    path = folder / name
    block_bytes = 0
    if path.parent.name == "labels" and path.suffix in (".f16", ".f32"):
        # A trajectory that its layout does not fit is refused by its readers, whatever its blocks.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            _, rows, num_classes = read_json(path.parent / "layout.json")["shape"]
            block_bytes = max(0, int(rows) * int(num_classes) * (2 if path.suffix == ".f16" else 4))
    with path.open("rb") as file:
        return entry_of(file, block_bytes)
