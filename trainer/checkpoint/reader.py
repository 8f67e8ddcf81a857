"""Reading a checkpoint back, on any world size: each rank asks for the shards that it owns now."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from trainer.checkpoint import codec, layout, manifest, tensorfile, verify
from trainer.checkpoint.errors import CheckpointError, DamagedError, one_line
from trainer.checkpoint.manifest import Manifest
from trainer.types import State


class Loaded(NamedTuple):
    """What a checkpoint gives back; all tensors on the CPU."""

    replicated: State
    shards: dict[int, State]
    info: State


def load(source: Manifest | Path, shards: Iterable[int]) -> Loaded:
    """Read the replicated state and the states of some shards. Not a collective.

    Only their files are opened; each is checked against its hash first, because a path can come from a user or
    another rank. Raises CheckpointError, in one line, for anything that is not a good checkpoint with these shards.
    """
    found = source if isinstance(source, Manifest) else manifest.read(Path(source))
    wanted = list(shards)
    if strange := [shard for shard in wanted if type(shard) is not int or not 0 <= shard < found.shards]:
        raise CheckpointError(f"{found.folder}: has shards 0 to {found.shards - 1}, there is no {strange[0]!r}")
    states = {shard: _read(found, layout.shard_stem(shard)) for shard in wanted}
    return Loaded(_read(found, layout.REPLICATED), states, found.info)


def _read(found: Manifest, stem: str) -> State:
    names = found.names(stem)
    verify.check(found, names)
    _, text = layout.file_names(stem)
    tensors: dict[str, Tensor] = {}
    try:
        for name in names:
            if name != text:
                tensors |= tensorfile.unpack(found.folder / name)
        return codec.decode(tensors, manifest.parse_json((found.folder / text).read_bytes()))
    except Exception as error:  # a malicious file with a matching hash can provoke any
        raise DamagedError(f"{found.folder / stem}: {one_line(error)}") from error
