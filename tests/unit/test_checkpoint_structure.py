"""A checkpoint whose hashes are right and whose names, types or shapes are not: one line, on every rank."""

from __future__ import annotations

import copy
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import checkpoint
from trainer.build import build_run, inspect_env
from trainer.cli import read_config
from trainer.commands import train as command
from trainer.layout import Layout
from trainer.run import AgreedError, Run
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, process_group
from trainer.runtime.stop import SIGNALS

FIXTURE = Path(__file__).parents[1] / "fixtures" / "format-2"
CPU = torch.device("cpu")


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[tuple[Run, Ranks]]:
    """A run of the fixture's config that has not begun."""
    config, launch = read_config(FIXTURE / "config.json", "fixture"), Launch.read()
    handlers = {sig: signal.getsignal(sig) for sig in SIGNALS}
    spec = inspect_env(config)
    with process_group(CPU, launch, 60.0) as ranks:
        run = build_run(config, Layout(config, 2, 1, 0), spec, ranks, tmp_path, launch)
        for sig, handler in handlers.items():
            signal.signal(sig, handler)
        yield run, ranks
        run.logger.close()
        run.envs.close()


@pytest.fixture(scope="module")
def found() -> checkpoint.Manifest:
    manifest = checkpoint.latest(FIXTURE / "checkpoints", print)
    assert manifest is not None
    return manifest


@pytest.fixture(scope="module")
def stored(found: checkpoint.Manifest) -> checkpoint.Loaded:
    return checkpoint.load(found, range(2))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a state, except the insides of long lists."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value[:1]):
        yield (*path, key)
        if isinstance(part, dict | list):
            yield from places(part, (*path, key))


def spoiled(value: Any) -> list[Any]:
    """What may stand in place of a value but cannot be valid there."""
    if isinstance(value, torch.Tensor):
        return [torch.zeros(*value.shape, 3), "text"]
    return [{"text": 0}, torch.zeros(7, 7)]


def replaced(state: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.copy(state)
    changed[path[0]] = value if len(path) == 1 else replaced(state[path[0]], path[1:], value)
    return changed


def test_it_is_one_line_wherever_it_is(
    fresh: tuple[Run, Ranks], found: checkpoint.Manifest, stored: checkpoint.Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, ranks = fresh
    whole = {"replicated": stored.replicated, "shards": stored.shards}
    accepted, told = [], []
    for path in places(whole):
        # a log that cannot be continued is restarted; a greedy policy has no state
        if len(path) == 1 or "logger" in path or "chooser" in path:
            continue
        value: Any = whole
        for key in path:
            value = value[key]
        for bad in spoiled(value):
            changed = replaced(whole, path, bad)
            loaded = stored._replace(replicated=changed["replicated"], shards=changed["shards"])
            monkeypatch.setattr(checkpoint, "load", lambda *_, loaded=loaded: loaded)
            try:
                command._load(run, found, ranks)
            except AgreedError as error:
                told.append(str(error))
            else:
                accepted.append((path, bad))
    assert len(told) > 100
    assert all("cannot be resumed from (rank 0: " in line and "\n" not in line for line in told)
    assert not accepted, "\n".join(f"{path} {type(bad).__name__}" for path, bad in accepted)


def test_what_was_stored_is_accepted(fresh: tuple[Run, Ranks], found: checkpoint.Manifest) -> None:
    run, ranks = fresh
    command._load(run, found, ranks)
    assert run.step == found.step
