"""What part of a state to write and what is on disk already: settled in an instant, written while training goes on.

Small tensors are copied. `Blocks` are not: those that did not change since an earlier checkpoint become links to its
files, and the others are fetched one by one when it is their turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from trainer.checkpoint import codec, layout, tensorfile
from trainer.checkpoint.disk import Disk
from trainer.checkpoint.errors import DamagedError
from trainer.checkpoint.manifest import FileRecord
from trainer.types import Blocks, State


@dataclass
class Base:
    """What this rank put into a complete checkpoint, for a later one to refer to."""

    folder: Path
    files: dict[str, FileRecord]
    blocks: dict[str, dict[str, Blocks]]  # stem -> place in the state -> what was stored
    usable: bool = True  # False once one of the files was found missing or damaged


@dataclass
class Part:
    """One state, ready to be written."""

    stem: str
    tensors: dict[str, Tensor]
    node: Any
    blocks: dict[str, Blocks]  # by their place in the state
    wanted: list[list[tuple[str, str, int]]] = field(default_factory=list)  # of each, in order: file, place, block
    kept: list[str] = field(default_factory=list)  # files of the base
    base: Base | None = None

    def release(self) -> None:
        """Let the owners of blocks overwrite them again."""
        for blocks in self.blocks.values():
            blocks.release()


def refer(stem: str, state: State) -> Part:
    """Return a state that is written before anything changes it; nothing is copied."""
    part = Part(stem, *codec.encode_with_blocks(state))
    _claim(part, None)
    return part


def freeze(stem: str, state: State, base: Base | None) -> Part:
    """Return a state that is written while its owners go on: copies of what is small, claims on what is large."""
    part = Part(stem, *codec.encode_with_blocks(state))
    part.tensors = {name: tensor.to("cpu", copy=True) for name, tensor in part.tensors.items()}
    try:
        _claim(part, base)
    except BaseException:
        part.release()
        raise
    return part


def _claim(part: Part, base: Base | None) -> None:
    """Divide blocks into those to be written and those that the base has."""
    part.base = base
    earlier = base.blocks.get(part.stem, {}) if base is not None else {}
    for leaf, (place, blocks) in enumerate(part.blocks.items()):
        names = [layout.block_name(part.stem, leaf, block) for block in range(blocks.count)]
        wanted = blocks.want(earlier.get(place))
        part.wanted.append([(names[block], place, block) for block in wanted])
        part.kept += [names[block] for block in sorted(set(range(blocks.count)) - set(wanted))]


def write(parts: Sequence[Part], folder: Path, disk: Disk) -> Iterator[tuple[str, FileRecord]]:
    """Write the files of states, blocks first since they hold up their owners; yield the name and record of each."""
    queues = [(part, queue) for part in parts for queue in part.wanted]
    for turn in range(max((len(queue) for _, queue in queues), default=0)):
        for part, queue in queues:
            if turn < len(queue):
                name, place, block = queue[turn]
                # One block is in memory at a time: nothing here holds on to it.
                yield name, disk.write(folder / name, tensorfile.pack(_block(part, place, block)))
    for part in parts:
        part.release()
        for name in part.kept:
            yield name, _link(part.base, name, folder, disk)
        binary, text = layout.file_names(part.stem)
        yield binary, disk.write(folder / binary, tensorfile.pack(part.tensors))
        yield text, disk.write(folder / text, [json.dumps(part.node, allow_nan=False).encode()])


def _block(part: Part, place: str, block: int) -> dict[str, Tensor]:
    return codec.encode_block(place, block, part.blocks[place].take(block))


def _link(base: Base | None, name: str, folder: Path, disk: Disk) -> FileRecord:
    """Put a file of the base into `folder` as well: as a link, or as a copy where the file system has no links."""
    assert base is not None, "only a base keeps blocks from being wanted"
    source, record = base.folder / name, base.files[name]
    try:
        if not disk.link(source, folder / name) and disk.copy(source, folder / name) != record:
            raise DamagedError(f"{source}: is not what was written, which a later checkpoint was to share")
    except Exception:
        base.usable = False
        raise
    return record
