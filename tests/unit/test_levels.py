"""Levels of the optimizer: how they are stated, how the buffer is ordered, and their steps against torch by hand."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import run
from torch import Tensor, nn

from trainer.build import build_net, build_sync, check_environment
from trainer.cli import parse_train
from trainer.config import Config, ConfigError, NetConfig, OptimConfig, RuntimeConfig, SyncConfig
from trainer.config.levels import LevelConfig, level_of, parse_levels
from trainer.envs import EnvSpec
from trainer.learner import Learner
from trainer.losses import dqn
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, process_group
from trainer.runtime.spans import Spans
from trainer.sync import FlatParameters
from trainer.types import Batch, Rates
from trainer.validate import validate

CPU = torch.device("cpu")
SPEC = EnvSpec("toy", (7,), torch.float32, 5, 1, "repeat", True)
KINDS = ("sgd", "adagrad", "adadelta", "rmsprop", "adam", "radam")
TORSO, HEAD, REST = "torso.layers.0", "head", "rest"


@pytest.fixture(scope="module", autouse=True)
def ranks() -> Iterator[Ranks]:
    with process_group(CPU, Launch(0, 0, 1, 1, False), 30.0) as group:
        yield group


def test_read() -> None:
    assert parse_levels(["torso=rmsprop,lr=0.5,every=2", "head=sgd", "a.b=adam,every=3"]) == [
        LevelConfig("torso", "rmsprop", 0.5, 2),
        LevelConfig("head", "sgd"),
        LevelConfig("a.b", "adam", 1.0, 3),
    ]
    stated = parse_train(["debug", "--optim.levels", "torso=rmsprop,lr=0.5,every=2", "head=sgd"]).config
    assert stated.optim.levels == ("torso=rmsprop,lr=0.5,every=2", "head=sgd")
    validate(stated, 1)


def test_whole_components_and_the_longest_name_win() -> None:
    levels = parse_levels(["torso=sgd", "torso.layers.1=adam", "head=sgd"])
    names = ["torso.layers.1.weight", "torso.layers.10.weight", "torso.x", "torsos.x", "head", "header.weight"]
    assert [level_of(levels, name) for name in names] == [1, 0, 0, 3, 2, 3]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (["torso"], "--optim.levels torso: not a level; write NAME=KIND"),
        (["=sgd"], "--optim.levels =sgd: not a level; write NAME=KIND"),
        (["torso="], "--optim.levels torso=: not a level; write"),
        (["torso=sdg"], "--optim.levels torso=sdg: sdg is not an optimizer; use one of adam, rmsprop, radam, sgd"),
        (["torso=,lr=1"], "--optim.levels torso=,lr=1: an empty name is not an optimizer; use one of"),
        (
            ["torso=sgd,lr=0"],
            "--optim.levels torso=sgd,lr=0: lr=0 is not a multiple of the learning rate; choose a number",
        ),
        (["torso=sgd,lr=-1"], "--optim.levels torso=sgd,lr=-1: lr=-1 is not a multiple"),
        (["torso=sgd,lr=nan"], "--optim.levels torso=sgd,lr=nan: lr=nan is not a multiple"),
        (["torso=sgd,lr=inf"], "--optim.levels torso=sgd,lr=inf: lr=inf is not a multiple"),
        (["torso=sgd,lr=x"], "--optim.levels torso=sgd,lr=x: lr=x is not a multiple"),
        (["torso=sgd,every=0"], "--optim.levels torso=sgd,every=0: every=0 is not a number of updates; choose a whole"),
        (["torso=sgd,every=1.5"], "--optim.levels torso=sgd,every=1.5: every=1.5 is not a number of updates"),
        (["torso=sgd,every=²"], "--optim.levels torso=sgd,every=²: every=² is not a number of updates"),
        (["torso=sgd,every="], "--optim.levels torso=sgd,every=: every= is not a number of updates"),
        (["torso=sgd,eps=1"], "--optim.levels torso=sgd,eps=1: eps=1 is neither lr=... nor every=...; write"),
        (["torso=sgd,"], "--optim.levels torso=sgd,: an empty option is neither lr=... nor every=..."),
        (["torso=sgd,lr=1,lr=2"], "--optim.levels torso=sgd,lr=1,lr=2: lr is given twice; write"),
        (["head=sgd", "torso=sgd", "head=adam"], "--optim.levels head=adam: head is named twice; name every part"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused(told: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        validate(parse_train(["debug", "--optim.levels", *told]).config, 1)
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (("tors=sgd",), "no parameter's name begins with tors; use torso, head, or more of a name, as in torso.layers"),
        (("torso=sgd", "torso.layers=adam"), "--optim.levels torso=sgd: longer names claim all of its parameters"),
    ],
)
def test_a_level_of_nothing_is_refused(told: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_environment(config(OptimConfig(levels=told)), SPEC)
    assert words in str(error.value)


def test_a_level_of_nothing_is_told_in_one_line_before_peers_meet(tmp_path: Path) -> None:
    program = run(["train", "debug", "--optim.levels", "neck=sgd"], tmp_path, ranks=2, expect=2)
    assert len(program.lines) == 1, program.output
    assert program.lines[0].startswith("lockstep: --optim.levels neck=sgd: no parameter's name begins with neck; use")


def test_each_level_is_one_stretch_of_both_networks(ranks: Ranks) -> None:
    told = ("head=sgd", "torso.layers.2=adam", "torso.layers.0=rmsprop")
    ours = Ours(OptimConfig(levels=told), "flat", ranks)
    order = [name for name, _, _ in ours.sync.flat.names]
    stated = ("head.outputs.advantage.0", "torso.layers.2", "torso.layers.0")
    assert order == [f"{layer}.{what}" for layer in stated for what in ("weight", "bias")]
    assert ours.sync.target.names == ours.sync.flat.names
    for flat, net in ((ours.sync.flat, ours.net), (ours.sync.target, ours.target_net)):
        assert_views(flat, net)
    stretches = ours.sync.clipped.stretches
    assert [s.level.name for s in stretches] == ["head", "torso.layers.2", "torso.layers.0"], "no rest where none is"
    assert [s.begin for s in stretches] == [0, *(s.end for s in stretches[:-1])]
    assert stretches[-1].end == ours.sync.flat.data.numel()


def assert_views(flat: FlatParameters, net: nn.Module) -> None:
    named = dict(net.named_parameters())
    assert sorted(named) == sorted(name for name, _, _ in flat.names)
    for name, begin, end in flat.names:
        assert named[name].data_ptr() == flat.data[begin:end].data_ptr(), name
        assert named[name].numel() == end - begin
        if named[name].requires_grad:
            assert named[name].grad is not None
            assert named[name].grad.data_ptr() == flat.grad[begin:end].data_ptr(), name


def test_parts_are_equal_and_whole_registers(ranks: Ranks) -> None:
    net = build_net(config(OptimConfig()), SPEC, CPU)
    total = sum(p.numel() for p in net.parameters())
    flat = FlatParameters(net, parts=3)
    assert flat.each % 16 == 0
    assert flat.each * 3 == flat.whole.numel() == flat.whole_grad.numel()
    assert 0 <= flat.whole.numel() - total < 3 * 16
    parts = [flat.part(i) for i in range(3)]
    assert [p.start for p in parts] == [0, parts[0].stop, parts[1].stop]
    assert parts[2].stop == total == flat.data.numel()
    assert_views(flat, net)
    assert flat.data.data_ptr() == flat.whole.data_ptr()
    many = FlatParameters(net, parts=total)
    assert many.part(total - 1) == slice(total, total), "more parts than registers: nothing is left for the last"


def config(optim: OptimConfig, kind: Any = "flat") -> Config:
    return Config(
        optim=optim, sync=SyncConfig(kind=kind), net=NetConfig(hidden=(9, 6)), runtime=RuntimeConfig(dtype="float64")
    )


class Ours:
    def __init__(self, optim: OptimConfig, kind: str, ranks: Ranks, seed: int = 1) -> None:
        stated = replace(config(optim, kind), seed=seed)
        self.optim = optim
        self.net = build_net(stated, SPEC, CPU)
        self.target_net = build_net(stated, SPEC, CPU).requires_grad_(False)
        self.sync = build_sync(stated, self.net, self.target_net, ranks, Spans())
        loss = functools.partial(dqn, double=True, kind="mse")
        called = self.sync.prepare(self.net)
        self.learner = Learner(called, self.target_net, loss, self.sync, max_grad_norm=optim.max_grad_norm)

    def update(self, batch: Batch, lr: float) -> None:
        self.learner.update(batch, Rates(lr=lr))


def torch_optimizer(kind: str, o: OptimConfig, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    """As torch's documentation has it, without fusing."""
    made: dict[str, Any] = {
        "sgd": functools.partial(torch.optim.SGD, lr=o.lr),
        "adagrad": functools.partial(torch.optim.Adagrad, lr=o.lr, eps=o.eps),
        "adadelta": functools.partial(torch.optim.Adadelta, lr=o.lr, eps=o.eps),
        "adam": functools.partial(torch.optim.Adam, lr=o.lr, eps=o.eps, betas=o.betas),
        "radam": functools.partial(torch.optim.RAdam, lr=o.lr, eps=o.eps, betas=o.betas),
        "rmsprop": functools.partial(torch.optim.RMSprop, lr=o.lr, eps=o.eps, alpha=o.rms_decay, centered=True),
    }
    optimizer: torch.optim.Optimizer = made[kind](weights, foreach=False)
    return optimizer


class ByHand:
    """The same with a list of parameters for each level, and torch's own clip."""

    def __init__(self, optim: OptimConfig, parts: list[tuple[str, str, float, int]]) -> None:
        self.net = build_net(config(optim), SPEC, CPU)
        self.target_net = build_net(config(optim), SPEC, CPU)
        self.clip, self.updates = optim.max_grad_norm, 0
        left = dict(self.net.named_parameters())
        self.parts = []
        for prefix, kind, lr, every in parts:
            names = [name for name in left if prefix == REST or name.startswith(prefix)]
            weights = [left.pop(name) for name in names]
            self.parts.append((weights, torch_optimizer(kind, optim, weights), lr, every, [[] for _ in weights]))
        assert not left

    def update(self, batch: Batch, lr: float) -> float:
        self.net.zero_grad()
        dqn(self.net, self.target_net, batch, Rates(), double=True, kind="mse").loss.mean().backward()
        norm = float(nn.utils.clip_grad_norm_(self.net.parameters(), self.clip if self.clip != math.inf else 1e30))
        self.updates += 1
        for weights, optimizer, multiple, every, kept in self.parts:
            for parameter, gradients in zip(weights, kept, strict=True):
                gradients.append(parameter.grad.clone())
            if self.updates % every == 0:
                for parameter, gradients in zip(weights, kept, strict=True):
                    parameter.grad = torch.stack(gradients).mean(0)
                    gradients.clear()
                optimizer.param_groups[0]["lr"] = multiple * lr
                optimizer.step()
        return norm


def batches(count: int) -> list[Batch]:
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    def one() -> Batch:
        action = torch.randint(0, 5, (16,), generator=g)
        return Batch(normal(16, 7), action, normal(16), normal(16).abs(), normal(16, 7), torch.arange(16))

    return [one() for _ in range(count)]


def assert_close(ours: nn.Module, plain: nn.Module) -> None:
    for (name, a), b in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12, msg=name)


BASE = OptimConfig(lr=1e-3, eps=1e-4, max_grad_norm=1.0)


@pytest.mark.parametrize("sync", ["flat", "ddp", "zero1", "overlap"])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_torch_by_hand(kind: Any, sync: str, ranks: Ranks) -> None:
    """The first layer by `kind` every third update, the head by another every second, the rest at each."""
    other = KINDS[(KINDS.index(kind) + 1) % len(KINDS)]
    optim = replace(BASE, kind="adam", levels=(f"{TORSO}={kind},lr=2.5,every=3", f"{HEAD}={other},lr=0.5,every=2"))
    ours = Ours(optim, sync, ranks)
    plain = ByHand(optim, [(TORSO, kind, 2.5, 3), (HEAD, other, 0.5, 2), (REST, "adam", 1.0, 1)])
    norms = []
    for i, batch in enumerate(batches(25)):
        lr = optim.lr * (1 - i / 50)
        before = copy.deepcopy(ours.net.state_dict())
        ours.update(batch, lr)
        norms.append(plain.update(batch, lr))
        moved = {name for name, value in ours.net.state_dict().items() if not torch.equal(value, before[name])}
        assert any(name.startswith(TORSO) for name in moved) == (i % 3 == 2)
        assert any(name.startswith(HEAD) for name in moved) == (i % 2 == 1)
        assert any(name.startswith("torso.layers.2") for name in moved)
    assert_close(ours.net, plain.net)
    assert min(norms) < 1.0 < max(norms), "both sides of the clip"
    torch.testing.assert_close(ours.learner.drain()["grad_norm"], norms, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_without_levels_every_kind_is_that_of_torch(kind: Any, ranks: Ranks) -> None:
    optim = replace(BASE, kind=kind)
    ours, plain = Ours(optim, "flat", ranks), ByHand(optim, [(REST, kind, 1.0, 1)])
    for batch in batches(25):
        ours.update(batch, optim.lr)
        plain.update(batch, optim.lr)
    assert_close(ours.net, plain.net)


@pytest.mark.parametrize("sync", ["flat", "zero1", "overlap"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_goes_on_bitwise_within_a_period(kind: Any, sync: str, after: int, ranks: Ranks) -> None:
    optim = replace(BASE, levels=(f"torso={kind},every=3", "head=sgd,every=2"))
    old, new = Ours(optim, sync, ranks), Ours(optim, sync, ranks, seed=5)
    every = batches(11)
    for batch in every[:after]:
        old.update(batch, optim.lr)
    state = copy.deepcopy([part.state_dict() for part in (old.net, old.target_net, old.sync)])
    for part, saved in zip((new.net, new.target_net, new.sync), state, strict=True):
        part.load_state_dict(saved)
    for batch in every[after:]:
        old.update(batch, optim.lr)
        new.update(batch, optim.lr)
    assert torch.equal(old.sync.flat.data, new.sync.flat.data)
