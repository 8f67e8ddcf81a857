"""Twenty checkpoints and configs made to run code or reach outside: none of them does, each gives one line."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_memory import SHARDS, save_all
from test_checkpoint_hostile import rewrite

from trainer.__main__ import main
from trainer.checkpoint import CheckpointError, latest, load
from trainer.presets import PRESETS

STEP = "step-000000000001"
BLOCK = "shard-00000-0-00001.safetensors"


class Touch:
    """When unpickled, it creates a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (os.system, (f"touch '{self.canary}'",))


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("origin")
    save_all(root / "checkpoints", [1])
    return root


@pytest.fixture
def run_dir(origin: Path, tmp_path: Path) -> Path:
    shutil.copytree(origin, tmp_path / "run")
    return tmp_path / "run"


def put(folder: Path, name: str, raw: bytes) -> None:
    """Replace a file and make the manifest agree, as someone who knows the format would."""
    (folder / name).write_bytes(raw)
    record = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    rewrite(folder, lambda fields: fields["files"].update({name: record}))


def listed_as(folder: Path, name: str) -> None:
    """List the record of a block under another name."""
    rewrite(folder, lambda fields: fields["files"].update({name: fields["files"].pop(BLOCK)}))


def pickled(folder: Path) -> bytes:
    return pickle.dumps(Touch(folder.parents[2] / "canary"))


def torch_file(folder: Path, name: str) -> None:
    torch.save({"x": Touch(folder.parents[2] / "canary")}, folder / "made")
    put(folder, name, (folder / "made").read_bytes())


def header(entry: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps({"/w": entry}).encode()
    return len(text).to_bytes(8, "little") + text + data


def linked(folder: Path, name: str, to: Path) -> None:
    """A link out of the folder, with a record of what it leads to."""
    (folder / name).unlink()
    (folder / name).symlink_to(to)
    raw = to.read_bytes()
    record = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    rewrite(folder, lambda fields: fields["files"].update({name: record}))


HUGE = {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 4]}
STORED: dict[str, Callable[[Path], None]] = {
    "pickle as tensors": lambda f: put(f, "replicated.safetensors", pickled(f)),
    "pickle as a block": lambda f: put(f, BLOCK, pickled(f)),
    "pickle as JSON": lambda f: put(f, "shard-00001.json", pickled(f)),
    "torch.save as tensors": lambda f: torch_file(f, "shard-00000.safetensors"),
    "torch.save as a block": lambda f: torch_file(f, BLOCK),
    "pickle as manifest": lambda f: (f / "manifest.json").write_bytes(pickled(f)) and None,
    "a name in the parent": lambda f: listed_as(f, "../../../outside"),
    "a block's name that leads out": lambda f: listed_as(f, f"{BLOCK}/../../../../outside"),
    "an absolute name": lambda f: listed_as(f, str(f.parents[2] / "outside")),
    "huge shape": lambda f: put(f, BLOCK, header(HUGE, bytes(4))),
    "huge header": lambda f: put(f, BLOCK, (2**60).to_bytes(8, "little") + bytes(64)),
    "negative offsets": lambda f: put(f, BLOCK, header(HUGE | {"shape": [1], "data_offsets": [-4, 0]}, bytes(4))),
    "a mark that calls": lambda f: put(f, "replicated.json", b'{"a": {"$call": ["os.system", "touch x"]}}'),
    "py/reduce": lambda f: put(f, "replicated.json", b'{"py/reduce": [{"py/function": "os.system"}], "$py": 1}'),
    "nested": lambda f: put(f, "replicated.json", b'{"a":' * 100_000 + b"0" + b"}" * 100_000),
    "digits": lambda f: put(f, "replicated.json", b'{"a": ' + b"9" * 100_000 + b"}"),
    "a link to a pickle": lambda f: linked(f, BLOCK, f.parents[2] / "pickle"),
}


def open_newest(run_dir: Path) -> None:
    found = latest(run_dir / "checkpoints", lambda line: None)
    assert found is not None
    load(found, range(SHARDS))


@pytest.mark.parametrize("case", STORED)
def test_a_checkpoint_runs_nothing(case: str, run_dir: Path, tmp_path: Path) -> None:
    folder = run_dir / "checkpoints" / STEP
    (tmp_path / "outside").write_text("secret")
    (tmp_path / "pickle").write_bytes(pickled(folder))
    STORED[case](folder)
    with pytest.raises(CheckpointError) as caught:
        open_newest(run_dir)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "canary").exists()
    assert (tmp_path / "outside").read_text() == "secret"


def config_with(**change: Any) -> bytes:
    fields = PRESETS["debug"]().to_dict()
    for name, value in change.items():
        section, _, field = name.rpartition("__")
        (fields[section] if section else fields)[field] = value
    return json.dumps(fields).encode()


CONFIGS: dict[str, Callable[[Path], bytes]] = {
    "pickle as config": lambda canary: pickle.dumps(Touch(canary)),
    "code in a number": lambda canary: config_with(seed=f"__import__('os').system('touch {canary}')"),
    "nested config": lambda canary: b'{"env":' * 100_000 + b"0" + b"}" * 100_000,
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_runs_nothing(case: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_dir / "config.json").write_bytes(CONFIGS[case](tmp_path / "canary"))
    assert main(["train", "--resume", str(run_dir)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("lockstep: --resume"), said
    assert said.count("\n") == 1, said
    assert not (tmp_path / "canary").exists()


def test_they_are_twenty_and_can_do_harm(tmp_path: Path) -> None:
    assert len(STORED) + len(CONFIGS) == 20
    pickle.loads(pickle.dumps(Touch(tmp_path / "canary")))
    assert (tmp_path / "canary").exists(), "what is never read would run"
