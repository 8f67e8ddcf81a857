"""Damage, and files made to do harm: noticed, named, never loaded, never an arbitrary exception."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_checkpoint_fakes import loaded_generation, saved

from trainer.checkpoint import CheckpointError, latest, layout, load, manifest
from trainer.checkpoint.errors import DamagedError
from trainer.checkpoint.manifest import seal

NEW, OLD = "step-000000000002", "step-000000000001"
FILES = ["manifest.json", "replicated.json", "replicated.safetensors", "shard-00001.json", "shard-00003.safetensors"]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("origin")
    saved(root, 1, 1)
    saved(root, 2, 2)
    return root


@pytest.fixture
def root(origin: Path, tmp_path: Path) -> Path:
    shutil.copytree(origin, tmp_path / "run")
    return tmp_path / "run"


def falls_back(root: Path, name: str) -> str:
    """See that the older one is chosen, and the file named in one line of warning; return that line."""
    warnings: list[str] = []
    found = latest(root, warnings.append)
    assert found is not None
    assert found.folder.name == OLD
    assert loaded_generation(found.folder) == 1
    assert len(warnings) == 1
    assert f"{NEW}/{name}: " in warnings[0]
    assert "\n" not in warnings[0]
    with pytest.raises(CheckpointError):
        load(root / NEW, range(4))
    return warnings[0]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("seed", range(12))
def test_one_flipped_bit(root: Path, name: str, seed: int) -> None:
    path = root / NEW / name
    raw = bytearray(path.read_bytes())
    bit = random.Random(seed).randrange(8 * len(raw))
    raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)
    falls_back(root, name)


def test_a_bit_of_every_byte_of_a_manifest(root: Path) -> None:
    path = root / NEW / "manifest.json"
    whole = path.read_bytes()
    for at in range(len(whole)):
        raw = bytearray(whole)
        raw[at] ^= 1 << at % 8
        path.write_bytes(raw)
        with pytest.raises(DamagedError):
            manifest.read(root / NEW)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0.0, 0.5, -1])
def test_truncated(root: Path, name: str, keep: float) -> None:
    size = (root / NEW / name).stat().st_size
    os.truncate(root / NEW / name, size - 1 if keep < 0 else int(size * keep))
    falls_back(root, name)


@pytest.mark.parametrize("name", FILES)
def test_grown(root: Path, name: str) -> None:
    with (root / NEW / name).open("ab") as file:
        file.write(b" ")
    falls_back(root, name)


@pytest.mark.parametrize("name", FILES)
def test_deleted(root: Path, name: str) -> None:
    (root / NEW / name).unlink()
    falls_back(root, name)


@pytest.mark.parametrize("name", FILES)
def test_replaced_by_that_of_another_generation(root: Path, name: str) -> None:
    shutil.copy(root / OLD / name, root / NEW / name)
    warnings: list[str] = []
    found = latest(root, warnings.append)
    assert found is not None
    assert found.folder.name == OLD
    assert len(warnings) == 1
    if name != "manifest.json":
        falls_back(root, name)


def test_a_whole_folder_under_the_name_of_another(root: Path) -> None:
    shutil.rmtree(root / NEW)
    shutil.copytree(root / OLD, root / NEW)
    warnings: list[str] = []
    found = latest(root, warnings.append)
    assert found is not None
    assert found.folder.name == OLD
    assert "belongs to step 1" in warnings[0]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link"])
def test_not_a_file(root: Path, name: str, kind: str) -> None:
    path = root / NEW / name
    path.unlink()
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "dangling link":
            path.symlink_to("nowhere")
    falls_back(root, name)


@pytest.mark.timeout(20)
def test_a_pipe_that_the_manifest_says_is_empty(root: Path) -> None:
    replace_file(root / NEW, "replicated.json", b"")
    (root / NEW / "replicated.json").unlink()
    os.mkfifo(root / NEW / "replicated.json")  # opening it would wait for ever
    assert "not a regular file" in falls_back(root, "replicated.json")


def test_a_file_in_place_of_a_folder(root: Path) -> None:
    shutil.rmtree(root / NEW)
    (root / NEW).touch()
    falls_back(root, "manifest.json")


def test_none_good_is_an_error_not_a_fresh_start(root: Path) -> None:
    (root / NEW / "replicated.json").unlink()
    (root / OLD / "shard-00000.json").unlink()
    warnings: list[str] = []
    with pytest.raises(CheckpointError, match="none of 2 checkpoints is good") as caught:
        latest(root, warnings.append)
    assert f"{NEW}/replicated.json" in str(caught.value)
    assert len(warnings) == 2


def test_one_set_aside_comes_after_its_successor_and_before_older_ones(root: Path) -> None:
    for serial in (0, 1):
        shutil.copytree(root / NEW, root / f".old-{NEW}-{serial}")
    names = [entry.path.name for entry in layout.entries(root)]
    assert names == [NEW, f".old-{NEW}-1", f".old-{NEW}-0", OLD]
    (root / NEW / "replicated.json").unlink()
    (root / f".old-{NEW}-1" / "manifest.json").unlink()
    warnings: list[str] = []
    found = latest(root, warnings.append)
    assert found is not None
    assert found.folder.name == f".old-{NEW}-0"
    assert len(warnings) == 2
    assert loaded_generation(saved(root, 3, 3)) == 3
    assert sorted(path.name for path in root.iterdir()) == [OLD, "step-000000000003"]


def test_an_unfinished_one_alone_is_a_fresh_start(root: Path) -> None:
    shutil.rmtree(root / OLD)
    (root / NEW).rename(root / f".tmp-{NEW}")
    warnings: list[str] = []
    assert latest(root, warnings.append) is None
    assert len(warnings) == 1


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="NotADirectoryError"):
        latest(tmp_path / "file", print)


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
    rewrite(root / NEW, lambda fields: {"format": "lockstep-checkpoint", "version": 2, "chapters": []})
    for act in (lambda: latest(root, print), lambda: load(root / NEW, [])):
        with pytest.raises(CheckpointError, match="format version 2, but this program knows 1") as caught:
            act()
        assert not isinstance(caught.value, DamagedError)


def test_a_newer_format_is_never_deleted(root: Path) -> None:
    rewrite(root / OLD, lambda fields: fields | {"version": 2})
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
