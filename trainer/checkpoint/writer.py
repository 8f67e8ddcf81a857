"""Writing a checkpoint: all ranks together, and either completely or not at all."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint import layout, manifest, retention, snapshot, verify
from trainer.checkpoint.disk import Disk
from trainer.checkpoint.errors import CheckpointError, UntidyError, one_line
from trainer.checkpoint.manifest import FileRecord, Manifest
from trainer.checkpoint.ranks import Ranks, agree
from trainer.checkpoint.snapshot import Part
from trainer.types import State

_DISK = Disk()


def save(
    root: Path,
    step: int,
    replicated: State,
    shards: Mapping[int, State],
    info: State,
    ranks: Ranks,
    keep: int,
    disk: Disk = _DISK,
) -> Path:
    """Store a checkpoint and delete all but the newest `keep`; return its folder. A collective.

    `replicated`, `info` and `keep` are rank 0's; `shards` are those that this rank owns, over all ranks 0, 1, ...
    The root must be one folder that all ranks see. Writing is synchronous: the states may change afterwards.
    Raises CheckpointError on every rank if anything fails on one; what was stored before is then still there, unless
    it is an UntidyError: the new checkpoint is complete and only old ones could not be deleted.
    """

    def parts() -> list[Part]:
        states = {layout.shard_stem(shard): state for shard, state in shards.items()}
        if ranks.rank == 0:
            states[layout.REPLICATED] = replicated
        return [snapshot.refer(stem, state) for stem, state in states.items()]

    save_parts(root, step, parts, list(shards), info, ranks, keep, disk, {})
    return layout.final(root, step)


def save_parts(
    root: Path,
    step: int,
    parts: Callable[[], list[Part]],
    shards: Sequence[int],
    info: State,
    ranks: Ranks,
    keep: int,
    disk: Disk,
    written: dict[str, FileRecord],
) -> None:
    """Store what `parts` returns on this rank, as `save` does, and note the files in `written`. A collective.

    Whatever `parts` raises fails the save on all ranks.
    """
    doing = f"saving the checkpoint of step {step}"
    try:
        _save(root, step, parts, shards, info, ranks, keep, disk, doing, written)
    except CheckpointError as error:
        # Every rank is here, having passed the same gather: nobody writes into the temporary folder any more.
        if ranks.rank == 0:
            try:
                retention.recover(root, disk)
            except OSError as failed:  # of the same type as on the other ranks
                raise type(error)(f"{error}; cleaning up failed as well: {one_line(failed)}") from error
        raise


def _save(
    root: Path,
    step: int,
    parts: Callable[[], list[Part]],
    shards: Sequence[int],
    info: State,
    ranks: Ranks,
    keep: int,
    disk: Disk,
    doing: str,
    written: dict[str, FileRecord],
) -> None:
    lead = ranks.rank == 0
    folder = layout.temporary(root, step)

    def prepare() -> dict[str, Any]:
        if type(step) is not int or step < 0 or keep < 1:
            raise ValueError(f"step must be at least 0 and keep at least 1, not {step!r} and {keep!r}")
        if strange := [shard for shard in shards if type(shard) is not int]:
            raise ValueError(f"shards are numbered by integers, not {strange[0]!r}")
        if lead:
            disk.make(root)
            retention.recover(root, disk)
            disk.make(folder)
        return {"step": step, "shards": list(shards)}

    def write() -> dict[str, list[Any]]:
        written.update(snapshot.write(parts(), folder, disk))
        return {name: [record.size, record.sha256] for name, record in written.items()}

    def commit() -> None:
        if lead:
            files = {name: FileRecord(*record) for part in everyones for name, record in part.items()}
            content = Manifest(folder, step, count, ranks.world_size, _versions(), files, info)
            verify.check_sizes(content)  # this rank has to see what the others wrote
            disk.write(folder / layout.MANIFEST, [manifest.to_bytes(content)])
            disk.sync(folder)
            retention.commit(root, step, disk)

    def prune() -> None:
        if lead:
            retention.prune(root, step, keep, disk)

    count = _check_agreement(agree(ranks, doing, prepare))
    everyones = agree(ranks, doing, write)
    agree(ranks, doing, commit)
    try:
        agree(ranks, f"the checkpoint of step {step} is complete, but deleting older ones", prune)
    except CheckpointError as error:
        raise UntidyError(str(error)) from error.__cause__


def _check_agreement(plans: list[dict[str, Any]]) -> int:
    """Return the number of shards. Raises CheckpointError, on every rank alike, since all see the same plans."""
    steps = [plan["step"] for plan in plans]
    if len(set(steps)) > 1:
        raise CheckpointError(f"ranks disagree on the step to save: {steps}")
    owned = sorted(shard for plan in plans for shard in plan["shards"])
    if owned != list(range(len(owned))):
        raise CheckpointError(f"shards must be 0, 1, ... each on one rank, not {[plan['shards'] for plan in plans]}")
    return len(owned)


def _versions() -> dict[str, str]:
    try:
        lockstep = metadata.version("lockstep")
    except metadata.PackageNotFoundError:
        lockstep = "not installed"
    return {"torch": str(torch.__version__), "python": platform.python_version(), "lockstep": lockstep}
