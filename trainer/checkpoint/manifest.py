"""The manifest: what a complete checkpoint consists of. Written last, and sealed with a hash of its own.

The seal is the first field and covers every byte after it, so that a damaged version number is seen as damage, not as
another version. Later format versions must keep it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.checkpoint import codec, layout
from trainer.checkpoint.errors import CheckpointError, DamagedError, one_line
from trainer.types import State

FORMAT = "lockstep-checkpoint"
VERSION = 2
"""1: a state is two files. 2: and one more file for each block of its `Blocks`, if it has any."""

_MAX_BYTES = 64 << 20
_SEAL = b'{\n  "sha256": "'
_SEALED = len(_SEAL) + 64
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRecord:
    """What a file must be."""

    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """One complete checkpoint."""

    folder: Path
    step: int
    shards: int
    world_size: int  # that wrote it; any other may read it
    versions: dict[str, str]  # of torch, python, lockstep
    files: dict[str, FileRecord]
    info: State

    def names(self, stem: str) -> list[str]:
        """Name the files of one state: its tensors, its JSON, its blocks."""
        blocks = (name for name in self.files if layout.stem_of_block(name) == stem)
        return [*layout.file_names(stem), *sorted(blocks)]


def to_bytes(manifest: Manifest) -> bytes:
    """Render a manifest file. Raises TypeError for an `info` that is not JSON."""
    tensors, info = codec.encode(manifest.info)
    if tensors:
        raise TypeError(f"info{next(iter(tensors))}: tensors belong in the state")
    return seal(
        {
            "format": FORMAT,
            "version": VERSION,
            "step": manifest.step,
            "shards": manifest.shards,
            "world_size": manifest.world_size,
            "versions": manifest.versions,
            "files": {name: asdict(record) for name, record in sorted(manifest.files.items())},
            "info": info,
        }
    )


def seal(fields: dict[str, Any]) -> bytes:
    """Render the fields of a manifest, preceded by the hash of their text."""
    rest = json.dumps({"": "", **fields}, indent=2, allow_nan=False).encode().removeprefix(b'{\n  "": "') + b"\n"
    return _SEAL + hashlib.sha256(rest).hexdigest().encode() + rest


def read(folder: Path) -> Manifest:
    """Read the manifest of a checkpoint; the other files are not read.

    Raises DamagedError if there is none or it is malformed, CheckpointError if its format is newer than this program.
    """
    path = folder / layout.MANIFEST
    try:
        return _parse(folder, _read_bytes(path))
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise DamagedError(f"{path}: missing, so the checkpoint is unfinished") from None
    except Exception as error:  # whatever a malicious file can provoke: RecursionError, OverflowError, ...
        raise DamagedError(f"{path}: {one_line(error)}") from error


def parse_json(text: bytes) -> Any:
    """Parse strict JSON. Raises ValueError (NaN and Infinity are not JSON) and RecursionError."""
    return json.loads(text, parse_constant=_refuse_constant)


def _read_bytes(path: Path) -> bytes:
    if not path.is_file() and path.exists():
        raise ValueError("not a regular file")
    with path.open("rb") as file:
        raw = file.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES} bytes")
    return raw


def _parse(folder: Path, raw: bytes) -> Manifest:
    if raw[: len(_SEAL)] != _SEAL or raw[len(_SEAL) : _SEALED] != hashlib.sha256(raw[_SEALED:]).hexdigest().encode():
        raise ValueError("its sha256 does not match, so the file was damaged or edited")
    fields = parse_json(raw)
    if fields["format"] != FORMAT:
        raise ValueError(f"its format is {str(fields['format'])[:40]!r}, not {FORMAT!r}")
    version = _count(fields, "version")
    if version > VERSION:
        raise CheckpointError(
            f"{folder}: format version {version}, but this program knows {VERSION}: update it to read this checkpoint"
        )
    if version < 1:
        raise ValueError(f"its format version is {version}, and they begin at 1")
    shards = _count(fields, "shards")
    files = {str(name): _record(record) for name, record in fields["files"].items()}
    _check_names(files, shards)
    versions = {str(name): str(value) for name, value in fields["versions"].items()}
    step, world_size = _count(fields, "step"), _count(fields, "world_size")
    return Manifest(folder, step, shards, world_size, versions, files, codec.decode({}, fields["info"]))


def _check_names(files: dict[str, FileRecord], shards: int) -> None:
    # Exactly the names that this program gives: none of them leads out of the folder.
    if len(files) < 2 * (shards + 1):
        raise ValueError(f"it lists {len(files)} files for {shards} shards")
    stems = {layout.REPLICATED, *map(layout.shard_stem, range(shards))}
    whole = {name for stem in stems for name in layout.file_names(stem)}
    if missing := sorted(whole - files.keys()):
        raise ValueError(f"it does not list {missing[0]}")
    for name in files.keys() - whole:
        if layout.stem_of_block(name) not in stems:
            raise ValueError(f"it lists {name[:80]!r}, which is not the name of a file in a checkpoint")


def _record(record: Any) -> FileRecord:
    sha256 = record["sha256"]
    if type(sha256) is not str or not _SHA256.fullmatch(sha256):
        raise ValueError("a sha256 is not 64 hexadecimal digits")
    return FileRecord(_count(record, "size"), sha256)


def _count(fields: Any, name: str) -> int:
    value = fields[name]
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{name} is not a count: {str(value)[:40]}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
