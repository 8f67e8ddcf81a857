"""Whether a checkpoint is what was written, and which one to resume from."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trainer.checkpoint import layout, manifest
from trainer.checkpoint.errors import CheckpointError, DamagedError, one_line
from trainer.checkpoint.manifest import Manifest

_THREADS = 8  # reading and hashing both release the GIL


def latest(root: Path, warn: Callable[[str], None]) -> Manifest | None:
    """Return the newest checkpoint whose every byte is as written; None if none was ever completed.

    Damaged and unfinished ones are skipped, with a line to `warn` that names the file and the reason. Only rank 0 need
    do this; the others can be told the folder. Changes nothing on disk.
    Raises CheckpointError if there are checkpoints but none is good, or one has a newer format.
    """
    try:
        entries = layout.entries(root)
    except OSError as error:
        raise CheckpointError(f"{root}: {one_line(error)}") from error
    damaged = []
    for entry in entries:
        if entry.mark == ".tmp-":
            warn(f"checkpoint skipped: {entry.path}: unfinished, its save was interrupted")
        if entry.mark not in ("", ".old-"):
            continue
        try:
            found = manifest.read(entry.path)
            if found.step != entry.step:
                raise DamagedError(f"{entry.path / layout.MANIFEST}: belongs to step {found.step}")
            check(found, found.files)
        except DamagedError as error:
            warn(f"checkpoint skipped: {error}")
            damaged.append(str(error))
        else:
            return found
    if damaged:
        raise CheckpointError(
            f"{root}: none of {len(damaged)} checkpoints is good ({damaged[0]}); "
            "restore one, or move them away to start from scratch"
        )
    return None


def check(found: Manifest, names: Iterable[str]) -> None:
    """Compare the named files, size and content, with what was written. Raises DamagedError."""
    names = list(names)
    check_sizes(found, names)
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(lambda name: _check_hash(found, name), names):
            pass


def check_sizes(found: Manifest, names: Iterable[str] | None = None) -> None:
    """Compare the sizes of files, by default all, with what was written. Raises DamagedError."""
    for name in found.files if names is None else names:
        path, size = found.folder / name, found.files[name].size
        try:
            status = path.stat()
        except OSError as error:
            raise DamagedError(f"{path}: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            raise DamagedError(f"{path}: not a regular file")
        if status.st_size != size:
            raise DamagedError(f"{path}: {status.st_size} bytes, {size} were written")


def _check_hash(found: Manifest, name: str) -> None:
    path = found.folder / name
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DamagedError(f"{path}: {one_line(error)}") from error
    if digest != found.files[name].sha256:
        raise DamagedError(f"{path}: its sha256 does not match what was written")
