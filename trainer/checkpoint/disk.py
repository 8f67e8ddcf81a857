"""Everything that a checkpoint does to the file system, as a few durable actions.

Every action passes `point` first: a test that raises or kills there covers every place where a machine can stop.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint.manifest import FileRecord

_CHUNK = 4 << 20
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def _pass(action: str, path: Path) -> None:
    """Let an action happen."""


@dataclass(frozen=True)
class Disk:
    """The durable actions; each raises OSError as the system does."""

    point: Callable[[str, Path], None] = _pass

    def make(self, folder: Path) -> None:
        """Make a folder and its parents, durably."""
        if folder.is_dir():
            return
        self.make(folder.parent)
        self.point("mkdir", folder)
        folder.mkdir(exist_ok=True)
        self.sync(folder.parent)

    def write(self, path: Path, chunks: Iterable[bytes | memoryview]) -> FileRecord:
        """Write a new file through to the device; return its size and hash, computed while writing."""
        digest, size = hashlib.sha256(), 0
        self.point("create", path)
        with path.open("xb") as file:
            for chunk in chunks:
                self.point("write", path)
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            self.point("fsync", path)
            file.flush()
            os.fsync(file.fileno())
        return FileRecord(size, digest.hexdigest())

    def link(self, source: Path, target: Path) -> bool:
        """Give a file a second name, in another folder; return whether the file system can do that."""
        self.point("link", target)
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno in _NO_LINKS:
                return False
            raise
        return True

    def copy(self, source: Path, target: Path) -> FileRecord:
        """Write a copy of a file, as `write` does."""
        with source.open("rb") as file:
            return self.write(target, iter(lambda: file.read(_CHUNK), b""))

    def sync(self, folder: Path) -> None:
        """Make the entries of a folder durable."""
        self.point("sync", folder)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a folder another name in the same parent, in one step."""
        self.point("rename", source)
        source.rename(target)

    def remove(self, folder: Path) -> None:
        """Delete a folder and all that is in it; a link is deleted, not its target."""
        if not folder.is_symlink():
            for path in sorted(folder.rglob("*"), reverse=True):
                self._remove_one(path)
        self._remove_one(folder)

    def _remove_one(self, path: Path) -> None:
        self.point("remove", path)
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
