"""A checkpoint of every format version so far, kept as a file: it loads, holds the same, and the run resumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import checkpoints, run
from test_resume import assert_same_checkpoint, outcome

from trainer.checkpoint import latest, load
from trainer.checkpoint.manifest import VERSION

FIXTURES = Path(__file__).parents[1] / "fixtures"
VERSIONS = range(1, VERSION + 1)
SHARDS = range(2)


def fixture(version: int) -> Path:
    """A run of 800 env steps as it was after 600, in that format; see fixtures/README.md."""
    return FIXTURES / f"format-{version}"


def loaded(version: int) -> Any:
    found = latest(fixture(version) / "checkpoints", lambda line: pytest.fail(line))
    assert found is not None
    assert json.loads((found.folder / "manifest.json").read_text())["version"] == version
    return load(found, SHARDS)


def rows(ring: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The rows of a ring, in whichever format they were stored."""
    whole = {name: value for name, value in ring.items() if name not in ("rows", "numbers")}
    for group in ("rows", "numbers"):
        blocks = ring.get(group, [{}])
        whole |= {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
    return whole


def test_there_is_one_of_every_version() -> None:
    assert {path.name for path in FIXTURES.glob("format-*")} == {f"format-{version}" for version in VERSIONS}
    blocks = list((fixture(2) / "checkpoints").rglob("shard-00001-0-*.safetensors"))
    assert len(blocks) > 2, "rows in several files"


def test_all_hold_the_same() -> None:
    first, second = loaded(1), loaded(2)
    assert first.replicated["step"] == second.replicated["step"] == 75
    for shard in SHARDS:
        one, other = (rows(part.shards[shard]["replay"]["ring"]) for part in (first, second))
        assert one.keys() == other.keys() > {"frames", "slots", "written"}
        for name, value in one.items():
            assert torch.equal(value, other[name]), name
        samplers = [part.shards[shard]["replay"]["sampler"] for part in (first, second)]
        assert torch.equal(samplers[0]["priority"], samplers[1]["priority"])


def test_each_goes_on_to_the_same_end(tmp_path: Path) -> None:
    for version in VERSIONS:
        to = tmp_path / str(version)
        shutil.copytree(fixture(version), to)
        said = run(["train", "--resume", str(to)], tmp_path, deadline=60).output
        assert "resumed at 600 env steps" in said
        assert outcome(to)["updates"] == 87
        assert_same_checkpoint(checkpoints(tmp_path / "1")[-1], checkpoints(to)[-1])
