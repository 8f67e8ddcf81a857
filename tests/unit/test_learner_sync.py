"""The learner and every sync at world size 1 against plain torch: same weights, bit for bit; and the flat buffers."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer.build import build_net, build_sync
from trainer.config import Config, LossConfig, NetConfig, OptimConfig, RuntimeConfig, SyncConfig
from trainer.envs import EnvSpec
from trainer.learner import Learner
from trainer.losses import dqn
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, process_group
from trainer.runtime.spans import Spans
from trainer.sync import FlatParameters
from trainer.types import Batch, Rates

CPU = torch.device("cpu")
ADAM = OptimConfig(kind="adam", lr=1e-3, eps=1e-6)
RMSPROP = OptimConfig(kind="rmsprop", lr=2.5e-4, eps=0.01, rms_decay=0.95)
MOMENTUM = replace(RMSPROP, rms_momentum=0.9)
ACTIONS = 16


@pytest.fixture(scope="module", autouse=True)
def ranks() -> Iterator[Ranks]:
    with process_group(CPU, Launch(0, 0, 1, 1, False), 30.0) as group:
        yield group


def spec(shape: tuple[int, ...]) -> EnvSpec:
    dtype = torch.uint8 if len(shape) == 3 else torch.float32
    return EnvSpec("toy", shape, dtype, ACTIONS, 1, "repeat", True)


def config(optim: OptimConfig, dtype: Any = "float32", hidden: tuple[int, ...] = (33, 17)) -> Config:
    return Config(
        optim=optim, net=NetConfig(hidden=hidden), loss=LossConfig(double=True), runtime=RuntimeConfig(dtype=dtype)
    )


class Ours:
    """A learner as `build` assembles it."""

    def __init__(self, stated: Config, kind: Any, shape: tuple[int, ...], ranks: Ranks) -> None:
        self.net = build_net(stated, spec(shape), CPU)
        self.target_net = build_net(stated, spec(shape), CPU).requires_grad_(False)
        stated = replace(stated, sync=replace(stated.sync, kind=kind))
        self.sync = build_sync(stated, self.net, self.target_net, ranks, Spans())
        self.flat, self.flat_target = self.sync.flat, self.sync.target
        loss = functools.partial(dqn, double=True, kind="mse")
        called = self.sync.prepare(self.net)
        assert (called is self.net) == (kind != "ddp")
        self.learner = Learner(called, self.target_net, loss, self.sync, max_grad_norm=stated.optim.max_grad_norm)


class Plain:
    """The same, as anyone would write it with torch alone."""

    def __init__(self, stated: Config, shape: tuple[int, ...]) -> None:
        self.net = build_net(stated, spec(shape), CPU)
        self.target_net = build_net(stated, spec(shape), CPU).requires_grad_(False)
        o = stated.optim
        self.clip = o.max_grad_norm
        self.optimizer: torch.optim.Optimizer
        if o.kind == "adam":
            self.optimizer = torch.optim.Adam(self.net.parameters(), lr=o.lr, betas=o.betas, eps=o.eps, fused=True)
        else:
            self.optimizer = torch.optim.RMSprop(
                self.net.parameters(), lr=o.lr, alpha=o.rms_decay, eps=o.eps, momentum=o.rms_momentum, centered=True
            )

    def update(self, batch: Batch, lr: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        dqn(self.net, self.target_net, batch, Rates(), double=True, kind="mse").loss.mean().backward()
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.clip if self.clip != math.inf else 1e30)
        self.optimizer.step()
        return float(norm)


def batches(shape: tuple[int, ...], count: int, dtype: torch.dtype = torch.float32) -> list[Batch]:
    g = torch.Generator().manual_seed(0)

    def obs() -> Tensor:
        if len(shape) == 3:
            return torch.randint(0, 256, (32, *shape), generator=g, dtype=torch.uint8)
        return torch.randn(32, *shape, generator=g)

    out = []
    for _ in range(count):
        ret = torch.randn(32, generator=g).to(dtype)
        discount = 0.99 * (torch.rand(32, generator=g) > 0.2).to(dtype)
        out.append(Batch(obs(), torch.randint(0, ACTIONS, (32,), generator=g), ret, discount, obs(), torch.arange(32)))
    return out


def same(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())


SHAPES = [((8,), (32, 16)), ((4, 10, 10), (32,))]
"""Every parameter a multiple of the vector width: after a remainder torch's fused Adam rounds by scalar code."""


@pytest.mark.parametrize("kind", ["flat", "ddp", "local_sgd", "gossip", "zero1", "overlap", "server"])
@pytest.mark.parametrize("optim", [ADAM, RMSPROP, MOMENTUM], ids=["adam", "rmsprop", "momentum"])
@pytest.mark.parametrize(("shape", "hidden"), SHAPES, ids=["mlp", "conv"])
def test_world_size_one_is_the_plain_optimizer_bitwise(
    kind: str, optim: OptimConfig, shape: tuple[int, ...], hidden: tuple[int, ...], ranks: Ranks
) -> None:
    stated = config(optim, hidden=hidden)
    ours, plain = Ours(stated, kind, shape, ranks), Plain(stated, shape)
    assert same(ours.net, plain.net), "one config, one start"
    for i, batch in enumerate(batches(shape, 30)):
        lr = optim.lr * (1 - i / 40)
        ours.learner.update(batch, Rates(lr=lr))
        plain.update(batch, lr)
        if i % 10 == 9:
            ours.sync.refresh(1.0)
            plain.target_net.load_state_dict(plain.net.state_dict())
            assert same(ours.target_net, plain.target_net)
    assert same(ours.net, plain.net)


@pytest.mark.parametrize("kind", ["flat", "ddp", "local_sgd", "gossip", "zero1", "overlap", "server"])
@pytest.mark.parametrize("optim", [ADAM, RMSPROP, MOMENTUM], ids=["adam", "rmsprop", "momentum"])
def test_odd_sizes_are_the_plain_optimizer_up_to_its_rounding(kind: str, optim: OptimConfig, ranks: Ranks) -> None:
    stated = config(optim, "float64")
    ours, plain = Ours(stated, kind, (7,), ranks), Plain(stated, (7,))
    for batch in batches((7,), 30, torch.float64):
        ours.learner.update(batch, Rates(lr=optim.lr))
        plain.update(batch, optim.lr)
    for ours_p, plain_p in zip(ours.net.parameters(), plain.net.parameters(), strict=True):
        torch.testing.assert_close(ours_p, plain_p, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", ["flat", "ddp", "local_sgd", "gossip", "zero1", "overlap", "server"])
@pytest.mark.parametrize("optim", [ADAM, RMSPROP], ids=["adam", "rmsprop"])
def test_clipping_is_torch_clip_grad_norm(kind: str, optim: OptimConfig, ranks: Ranks) -> None:
    stated = config(replace(optim, max_grad_norm=0.6), "float64")
    ours, plain = Ours(stated, kind, (7,), ranks), Plain(stated, (7,))
    norms = []
    for batch in batches((7,), 30, torch.float64):
        ours.learner.update(batch, Rates(lr=optim.lr))
        norms.append(plain.update(batch, optim.lr))
    assert min(norms) < 0.6 < max(norms), "both sides of the clip"
    torch.testing.assert_close(ours.learner.drain()["grad_norm"], norms, rtol=1e-12, atol=0)
    for ours_p, plain_p in zip(ours.net.parameters(), plain.net.parameters(), strict=True):
        torch.testing.assert_close(ours_p, plain_p, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "compress"),
    [*(("flat", each) for each in ("fp16", "bf16", "int8", "topk", "powersgd")), ("ddp", "fp16"), ("ddp", "powersgd")],
)
def test_alone_nothing_is_compressed(kind: str, compress: Any, ranks: Ranks) -> None:
    stated = config(ADAM, hidden=(32, 16))
    ours = Ours(replace(stated, sync=SyncConfig(compress=compress)), kind, (8,), ranks)
    plain = Plain(stated, (8,))
    for batch in batches((8,), 8):
        ours.learner.update(batch, Rates(lr=ADAM.lr))
        plain.update(batch, ADAM.lr)
    assert same(ours.net, plain.net)
    assert ours.sync.report()["megabytes_sent"] == 0


def assert_views(flat: FlatParameters, module: nn.Module) -> None:
    begin = 0
    for name, parameter in module.named_parameters():
        end = begin + parameter.numel()
        assert parameter.data_ptr() == flat.data[begin:end].data_ptr(), name
        if parameter.requires_grad:
            assert parameter.grad is not None
            assert parameter.grad.data_ptr() == flat.grad[begin:end].data_ptr(), name
        assert flat.name_at(begin) == flat.name_at(end - 1) == name
        begin = end
    assert begin == flat.data.numel()


@pytest.mark.parametrize("kind", ["flat", "ddp", "local_sgd", "gossip", "zero1", "overlap", "server"])
def test_parameters_and_gradients_stay_views(kind: str, ranks: Ranks) -> None:
    ours = Ours(config(ADAM), kind, (7,), ranks)
    assert_views(ours.flat, ours.net)
    other = build_net(replace(config(ADAM), seed=9), spec((7,)), CPU)
    for batch in batches((7,), 3):
        ours.learner.update(batch, Rates(lr=1e-3))
        assert_views(ours.flat, ours.net)
    ours.net.load_state_dict(other.state_dict())
    assert_views(ours.flat, ours.net)
    assert_views(ours.flat_target, ours.target_net)
    assert torch.equal(ours.flat.data, torch.cat([p.flatten() for p in other.parameters()]))
    assert ours.flat.grad.abs().sum() > 0
    ours.sync.zero_grad()
    assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in ours.net.parameters())
    ours.flat.data.data.fill_(2.0)
    assert all(bool((p == 2).all()) for p in ours.net.parameters())


def test_refresh_copies_or_averages(ranks: Ranks) -> None:
    ours = Ours(config(ADAM), "flat", (7,), ranks)
    start = ours.flat_target.data.detach().clone()
    for batch in batches((7,), 5):
        ours.learner.update(batch, Rates(lr=1e-2))
    online = ours.flat.data.detach().clone()
    assert torch.equal(ours.flat_target.data, start), "the target moves in refresh alone"
    ours.sync.refresh(0.25)
    torch.testing.assert_close(ours.flat_target.data.detach(), start + 0.25 * (online - start))
    ours.sync.refresh(1.0)
    assert torch.equal(ours.flat_target.data, online)
    assert torch.equal(ours.flat.data, online)
    assert int(ours.sync.diverged()) == 0
    assert ours.sync.blame() == ""


@pytest.mark.parametrize("kind", ["flat", "ddp", "local_sgd", "gossip", "zero1", "overlap", "server"])
@pytest.mark.parametrize("optim", [ADAM, RMSPROP, MOMENTUM], ids=["adam", "rmsprop", "momentum"])
@pytest.mark.parametrize("after", [0, 6])
def test_state_round_trip_continues_bitwise(kind: str, optim: OptimConfig, after: int, ranks: Ranks) -> None:
    stated = config(optim)
    old, new = Ours(stated, kind, (7,), ranks), Ours(replace(stated, seed=5), kind, (7,), ranks)
    every = batches((7,), 12)
    for batch in every[:after]:
        old.learner.update(batch, Rates(lr=optim.lr))
    state = copy.deepcopy([x.state_dict() for x in (old.net, old.target_net, old.sync, old.learner)])
    for part, saved in zip((new.net, new.target_net, new.sync, new.learner), state, strict=True):
        part.load_state_dict(saved)
    for batch in every[after:]:
        for side in (old, new):
            side.learner.update(batch, Rates(lr=optim.lr))
    assert same(old.net, new.net)
    assert new.learner.updates == 12


def test_metrics_wait_for_drain(ranks: Ranks) -> None:
    ours = Ours(config(ADAM), "flat", (7,), ranks)
    assert ours.learner.drain() == {}
    every = batches((7,), 3)
    losses = []
    for batch in every:
        losses.append(ours.learner.loss(ours.net, ours.target_net, batch, Rates()).loss.mean().item())
        out = ours.learner.update(batch, Rates(lr=1e-3))
        assert out.priority.shape == (32,)
    drained = ours.learner.drain()
    assert drained["td_loss"] == losses
    assert len(drained["grad_norm"]) == len(drained["q_values"]) == 3
    assert ours.learner.drain() == {}
