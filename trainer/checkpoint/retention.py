"""Which folders stay: cleaning up after a crash, and keeping the newest few.

Nothing complete is deleted before a newer one is in place.
"""

from __future__ import annotations

from pathlib import Path

from trainer.checkpoint import layout, manifest, verify
from trainer.checkpoint.disk import Disk
from trainer.checkpoint.errors import CheckpointError, DamagedError


def recover(root: Path, disk: Disk) -> None:
    """Remove what an interrupted save left, and restore the name of a checkpoint that was set aside."""
    for entry in layout.entries(root):
        if entry.mark in (".tmp-", ".trash-"):
            disk.remove(entry.path)
        elif entry.mark == ".old-" and not (name := layout.final(root, entry.step)).exists():
            disk.rename(entry.path, name)
            disk.sync(root)


def commit(root: Path, step: int, disk: Disk) -> None:
    """Give the written folder its final name; a folder that already has it is set aside, not deleted."""
    name = layout.final(root, step)
    if name.exists() or name.is_symlink():
        disk.rename(name, layout.aside(root, ".old-", step))
    disk.rename(layout.temporary(root, step), name)
    disk.sync(root)


def prune(root: Path, step: int, keep: int, disk: Disk) -> None:
    """Delete all but the checkpoint just saved and the newest `keep - 1` complete ones before it.

    Later steps are left alone: they belong to another course of this run, and are for its user to judge.
    """
    room = keep - 1
    for entry in layout.entries(root):
        if entry.mark not in ("", ".old-") or entry.step > step or entry.path == layout.final(root, step):
            continue
        if entry.mark == "":
            try:
                complete = _looks_complete(entry.path)
            except CheckpointError:  # from a newer version, and for it to judge
                continue
            if complete and room > 0:
                room -= 1
                continue
        # First moved away in one step: no half-deleted folder ever has the name of a complete one.
        trash = layout.aside(root, ".trash-", entry.step)
        disk.rename(entry.path, trash)
        disk.remove(trash)
    disk.sync(root)


def _looks_complete(folder: Path) -> bool:
    """Check all but the hashes, which would mean reading everything again at each save.

    Raises CheckpointError if the format is newer than this program.
    """
    try:
        verify.check_sizes(manifest.read(folder))
    except DamagedError:
        return False
    return True
