"""Malicious checkpoint files, sealed as someone who knows the format would: never an arbitrary exception."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_checkpoint_damage import NEW, OLD, falls_back, origin, root
from test_checkpoint_fakes import saved

from trainer.checkpoint import CheckpointError, latest, load, manifest
from trainer.checkpoint.errors import DamagedError
from trainer.checkpoint.manifest import seal

__all__ = ["origin", "root"]  # fixtures


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the fields of a manifest and seal it again, as someone who knows the format would."""
    path = folder / "manifest.json"
    fields = json.loads(path.read_bytes())
    del fields["sha256"]
    changed = change(fields)
    path.write_bytes(seal(fields if changed is None else changed))


def test_a_seal_fits_what_is_written(root: Path) -> None:
    before = (root / NEW / "manifest.json").read_bytes()
    rewrite(root / NEW, lambda fields: None)
    assert (root / NEW / "manifest.json").read_bytes() == before


def test_a_newer_format_is_refused_not_skipped(root: Path) -> None:
    rewrite(root / NEW, lambda fields: {"format": "lockstep-checkpoint", "version": 3, "chapters": []})
    for act in (lambda: latest(root, print), lambda: load(root / NEW, [])):
        with pytest.raises(CheckpointError, match="format version 3, but this program knows 2") as caught:
            act()
        assert not isinstance(caught.value, DamagedError)


def test_a_newer_format_is_never_deleted(root: Path) -> None:
    rewrite(root / OLD, lambda fields: fields | {"version": 3})
    saved(root, 3, 3, keep=1)
    assert sorted(path.name for path in root.iterdir()) == [OLD, "step-000000000003"]


def rename_file(to: str) -> Callable[[dict[str, Any]], None]:
    def change(fields: dict[str, Any]) -> None:
        fields["files"][to] = fields["files"].pop("shard-00001.json")

    return change


MALICIOUS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "parent": rename_file("../../x"),
    "absolute": rename_file("/etc/passwd"),
    "inside": rename_file("shard-00001.json/../manifest.json"),
    "more files": lambda f: f["files"].update({"../x": f["files"]["replicated.json"]}),
    "other format": lambda f: f.update(format="else"),
    "older version": lambda f: f.update(version=0),
    "version text": lambda f: f.update(version="1"),
    "version true": lambda f: f.update(version=True),
    "version float": lambda f: f.update(version=1.0),
    "shards huge": lambda f: f.update(shards=10**18),
    "shards negative": lambda f: f.update(shards=-1),
    "shards too few": lambda f: f.update(shards=3),
    "step text": lambda f: f.update(step="2"),
    "step huge": lambda f: f.update(step=10**30),
    "files a list": lambda f: f.update(files=[]),
    "files of null": lambda f: f["files"].update({"replicated.json": None}),
    "size negative": lambda f: f["files"]["replicated.json"].update(size=-1),
    "size missing": lambda f: f["files"]["replicated.json"].pop("size"),
    "sha a number": lambda f: f["files"]["replicated.json"].update(sha256=0),
    "sha short": lambda f: f["files"]["replicated.json"].update(sha256="00"),
    "versions null": lambda f: f.update(versions=None),
    "info null": lambda f: f.update(info=None),
    "info unknown mark": lambda f: f.update(info={"a": {"$call": "x"}}),
    "info tensor": lambda f: f.update(info={"a": {"$tensor": ["/a", "float32"]}}),
    "info bad float": lambda f: f.update(info={"a": {"$float": "00 00 00 00 00 0"}}),
    **{f"no {name}": (lambda f, name=name: f.pop(name)) for name in ("format", "version", "step", "shards", "files")},
    **{f"without {name}": (lambda f, name=name: f.pop(name)) for name in ("world_size", "versions", "info")},
}


@pytest.mark.parametrize("case", MALICIOUS)
def test_a_sealed_manifest_made_to_do_harm(root: Path, case: str) -> None:
    def change(fields: dict[str, Any]) -> None:
        MALICIOUS[case](fields)

    rewrite(root / NEW, change)
    falls_back(root, "manifest.json")


@pytest.mark.parametrize("depth", [5_000, 200_000])
def test_a_manifest_nested_too_deep(root: Path, depth: int) -> None:
    rest = b'", "info": ' + b"[" * depth + b"]" * depth + b"}"
    path = root / NEW / "manifest.json"
    path.write_bytes(b'{\n  "sha256": "' + hashlib.sha256(rest).hexdigest().encode() + rest)
    falls_back(root, "manifest.json")


def replace_file(folder: Path, name: str, raw: bytes) -> None:
    """Replace a file and make the manifest agree."""
    (folder / name).write_bytes(raw)
    record = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    rewrite(folder, lambda fields: fields["files"].update({name: record}))


HEADER = b'{"/a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00" * 7,
        (2**62).to_bytes(8, "little") + HEADER,
        (99_000_000).to_bytes(8, "little") + HEADER,
        len(HEADER).to_bytes(8, "little") + HEADER,
        len(HEADER).to_bytes(8, "little") + HEADER + b"\x00" * 5,
        len(HEADER).to_bytes(8, "little") + HEADER.replace(b"[1]", b"[9]") + b"\x00" * 4,
        len(HEADER).to_bytes(8, "little") + HEADER.replace(b"F32", b"F99") + b"\x00" * 4,
        len(HEADER).to_bytes(8, "little") + HEADER.replace(b"/a", b"/b") + b"\x00" * 4,
        b"\x80\x04\x95" + bytes(40),
    ],
    ids=["empty", "short", "huge", "long", "no data", "spare data", "shape", "dtype", "name", "pickle"],
)
def test_a_tensor_file_made_to_do_harm(root: Path, raw: bytes) -> None:
    replace_file(root / NEW, "replicated.safetensors", raw)
    with pytest.raises(CheckpointError, match="replicated") as caught:
        load(root / NEW, [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"[]", b"nul", b"{}", b'{"a": NaN}', b"\xff", b"[" * 100_000, b"9" * 10_000])
def test_a_json_file_made_to_do_harm(root: Path, text: bytes) -> None:
    replace_file(root / NEW, "shard-00001.json", text)
    with pytest.raises(CheckpointError, match="shard-00001"):
        load(root / NEW, [1])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(["replicated.safetensors", "replicated.json"]))
def test_any_sealed_bytes_load_or_are_a_checkpoint_error(
    root: Path, origin: Path, data: st.DataObject, name: str
) -> None:
    raw = bytearray((origin / NEW / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, min(len(raw), 200) - 1))] = data.draw(st.integers(0, 255))
    shutil.copytree(origin / NEW, root / NEW, dirs_exist_ok=True)
    replace_file(root / NEW, name, bytes(raw))
    with contextlib.suppress(CheckpointError):
        assert isinstance(load(root / NEW, []).replicated, dict)


def test_pickles_are_nowhere_read(root: Path, tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "pickle")
    replace_file(root / NEW, "replicated.safetensors", (tmp_path / "pickle").read_bytes())
    with pytest.raises(CheckpointError):
        load(root / NEW, [])
    package = Path(manifest.__file__).parent
    sources = [path.read_text() for path in package.glob("*.py")]
    assert len(sources) > 5
    assert not any("torch.load" in text or "import pickle" in text for text in sources)


@pytest.mark.timeout(20, method="thread")  # a raised timeout would wait for the reading thread
def test_a_pipe_that_the_manifest_says_is_empty(root: Path) -> None:
    replace_file(root / NEW, "replicated.json", b"")
    (root / NEW / "replicated.json").unlink()
    os.mkfifo(root / NEW / "replicated.json")  # opening it would block forever
    assert "not a regular file" in falls_back(root, "replicated.json")
