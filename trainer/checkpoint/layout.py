"""The names in a checkpoint folder, and what each of them means after a crash.

step-000000001000/       a complete checkpoint
.tmp-step-.../           being written, or abandoned in a crash: never read
.old-step-...-0/         complete, set aside while another takes its name: as good as a complete one
.trash-step-...-0/       being deleted: never read
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

MANIFEST = "manifest.json"
REPLICATED = "replicated"

_BLOCK = re.compile(r"(?P<stem>replicated|shard-[0-9]{5,})-[0-9]{1,9}-[0-9]{5,9}\.safetensors")
_FOLDER = re.compile(r"(?P<mark>\.tmp-|\.old-|\.trash-|)step-(?P<step>[0-9]{12,})(-(?P<serial>[0-9]{1,9}))?")


class Entry(NamedTuple):
    """A folder under the root whose name is one of ours."""

    path: Path
    mark: str  # "", ".tmp-", ".old-", ".trash-"
    step: int
    serial: int


def final(root: Path, step: int) -> Path:
    """Name the folder of a complete checkpoint."""
    return root / f"step-{step:012d}"


def temporary(root: Path, step: int) -> Path:
    """Name the folder in which a checkpoint is being written."""
    return root / f".tmp-step-{step:012d}"


def aside(root: Path, mark: str, step: int) -> Path:
    """Name a folder that does not exist yet, for a checkpoint that has to give up its own name."""
    serial = 0
    while (path := root / f"{mark}step-{step:012d}-{serial}").exists():
        serial += 1
    return path


def shard_stem(shard: int) -> str:
    """Name the files of a shard, without their suffixes."""
    return f"shard-{shard:05d}"


def file_names(stem: str) -> tuple[str, str]:
    """Name the two files in which one state is stored."""
    return f"{stem}.safetensors", f"{stem}.json"


def block_name(stem: str, leaf: int, block: int) -> str:
    """Name the file of a block; leaf: index of its `Blocks` among those of the state."""
    return f"{stem}-{leaf}-{block:05d}.safetensors"


def stem_of_block(name: str) -> str | None:
    """Return the stem of the state that a block file belongs to; None: not the name of a block."""
    match = _BLOCK.fullmatch(name)
    return match["stem"] if match else None


def entries(root: Path) -> list[Entry]:
    """List our folders under the root, newest first, a complete one before one set aside. Raises OSError."""
    if not root.exists():
        return []
    found = []
    for path in root.iterdir():
        match = _FOLDER.fullmatch(path.name)
        if match and bool(match["serial"]) == (match["mark"] in (".old-", ".trash-")):
            found.append(Entry(path, match["mark"], int(match["step"]), int(match["serial"] or 0)))
    return sorted(found, key=lambda entry: (entry.step, entry.mark == "", entry.serial), reverse=True)
