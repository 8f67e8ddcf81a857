"""Writing a checkpoint: all ranks together, and either completely or not at all."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint import codec, layout, manifest, retention, tensorfile, verify
from trainer.checkpoint.disk import Disk
from trainer.checkpoint.errors import CheckpointError, one_line
from trainer.checkpoint.manifest import FileRecord, Manifest
from trainer.checkpoint.ranks import Ranks, agree
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

    `replicated`, `info` and `keep` are rank 0's; `shards` are those that this rank owns, together 0, 1, ...
    The root must be one folder that all ranks see. Writing is synchronous: the states may change afterwards.
    Raises CheckpointError on every rank if anything fails on one; what was stored before is then still there, unless
    the message says that the new checkpoint is complete and only old ones could not be deleted.
    """
    doing = f"saving the checkpoint of step {step}"
    try:
        _save(root, step, replicated, shards, info, ranks, keep, disk, doing)
    except CheckpointError as error:
        # Every rank is here, having passed the same gather: nobody writes into the temporary folder any more.
        if ranks.rank == 0:
            try:
                retention.recover(root, disk)
            except OSError as failed:
                raise CheckpointError(f"{error}; cleaning up failed as well: {one_line(failed)}") from error
        raise
    return layout.final(root, step)


def _save(
    root: Path,
    step: int,
    replicated: State,
    shards: Mapping[int, State],
    info: State,
    ranks: Ranks,
    keep: int,
    disk: Disk,
    doing: str,
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
        states = {layout.shard_stem(shard): state for shard, state in shards.items()}
        if lead:
            states[layout.REPLICATED] = replicated
        written = (item for stem, state in states.items() for item in _write_state(folder, stem, state, disk))
        return {name: [record.size, record.sha256] for name, record in written}

    def commit() -> None:
        if lead:
            files = {name: FileRecord(*record) for part in parts for name, record in part.items()}
            content = Manifest(folder, step, count, ranks.world_size, _versions(), files, info)
            verify.check_sizes(content)  # this rank has to see what the others wrote
            disk.write(folder / layout.MANIFEST, [manifest.to_bytes(content)])
            disk.sync(folder)
            retention.commit(root, step, disk)

    count = _check_agreement(agree(ranks, doing, prepare))
    parts = agree(ranks, doing, write)
    agree(ranks, doing, commit)
    agree(
        ranks,
        f"the checkpoint of step {step} is complete, but deleting older ones",
        lambda: retention.prune(root, step, keep, disk) if lead else None,
    )


def _write_state(folder: Path, stem: str, state: State, disk: Disk) -> Iterator[tuple[str, FileRecord]]:
    tensors, node = codec.encode(state)
    binary, text = layout.file_names(stem)
    yield binary, disk.write(folder / binary, tensorfile.pack(tensors))
    yield text, disk.write(folder / text, [json.dumps(node, allow_nan=False).encode()])


def _check_agreement(plans: list[dict[str, Any]]) -> int:
    """Return the number of shards. Raises CheckpointError, on every rank alike as all see the same plans."""
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
