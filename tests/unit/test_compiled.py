"""The compiled update against the eager one: gradients, priorities, metrics; and what happens where there is none."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import run as run_program
from members import MEMBERS, SLOW
from running import build, close, go, leaves
from running import same as equal
from teachers import fill
from torch import Tensor

from trainer.build import inductor
from trainer.build.graph_store import GraphStore
from trainer.build.inductor import compile_function
from trainer.build.sync import build_levels
from trainer.compilable import check_compile
from trainer.compiled import correction
from trainer.compiled_acting import CompiledActor
from trainer.config import Config, ConfigError, OptimConfig, RuntimeConfig
from trainer.learner import Found, weighted
from trainer.policy import Actor
from trainer.presets import PRESETS
from trainer.replay import CompiledMemory, ReplayMemory
from trainer.replay.compiled import _fields
from trainer.run import AgreedError, Run
from trainer.runtime.ranks import Ranks
from trainer.sync import AllReduce, ClippedOptimizer, FlatParameters
from trainer.sync.fused import FusedOptimizer
from trainer.types import Batch, Choice, Rates, Timestep

QUICK = (("rainbow", True), ("pqn", False))
"""Compiling takes seconds; what these do not cover is in `make test-slow`."""
NEVER = ("r2d2",)
F64 = ("--runtime.dtype", "float64")
COMPILED = ("--runtime.compile", "True")


def compare(run: Run, steps: int, ends: bool) -> int:
    """Continue the run with compiled updates, each checked against the eager one; return how many there were.

    ends: whether they step the weights as well.
    """
    learner, flat, compiled = run.learner, run.sync.flat, run.learner.compiled  # type: ignore[attr-defined]
    optimizer, max_norm = run.sync.clipped, run.config.optim.max_grad_norm  # type: ignore[attr-defined]
    streams = [run.draws, *([run.noise] if run.noise else [])]
    count = 0

    def position() -> dict[str, Any]:
        return leaves({str(i): part.state_dict() for i, part in enumerate(streams)})

    def both(batch: Any, rates: Rates) -> Found:
        nonlocal count
        count += 1
        before, weights = [part.state_dict() for part in streams], flat.data.detach().clone()
        moments = copy.deepcopy(optimizer.state_dict())
        eager, gradient = learner._differentiate(batch, rates), flat.grad.clone()
        behind, moved = position(), flat.data.detach().clone()
        norm = optimizer.step(max_norm)
        stepped, after = flat.data.detach().clone(), leaves(copy.deepcopy(optimizer.state_dict()))
        for part, state in zip(streams, before, strict=True):
            part.load_state_dict(state)
        flat.data.data.copy_(weights)
        optimizer.load_state_dict(moments)
        flat.grad.fill_(torch.nan)  # nothing of it may be left
        found = compiled(batch, rates)
        assert found is not None
        assert all(equal(state, behind[name]) for name, state in position().items()), "the same draws"
        assert gradient.abs().max() > 0
        assert (found.norm is not None) == ends
        if found.norm is None:
            same(flat.data.detach(), moved)  # what a forward pass moves
            same(flat.grad, gradient)
        else:
            same(found.norm, norm)
            same(flat.data.detach(), stepped)
            assert not torch.equal(stepped, moved)
            for name, value in leaves(optimizer.state_dict()).items():
                same(torch.as_tensor(value), torch.as_tensor(after[name]))
        assert found.names == eager.names
        same(found.means, eager.means)
        same(found.priority, eager.priority)
        assert (found.highest is None) == (eager.highest is None)
        if eager.highest is not None:
            same(found.highest, eager.highest)
        return found

    learner.compiled = both
    if isinstance(run.replay, CompiledMemory):
        watch_memory(run.replay)
    if isinstance(run.policy, CompiledActor):
        watch_actor(run.policy)
    go(run, steps)
    return count


def same(found: Any, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


CASES = [
    pytest.param(member, ends, marks=[] if (member, ends) in QUICK else [pytest.mark.slow])
    for member in MEMBERS | SLOW
    for ends in (False, True)
    if member not in NEVER
]


def watch_memory(memory: CompiledMemory) -> None:
    """Check each graph of a memory against the method it was made from."""
    store, chosen = memory.store, memory.chosen

    def other() -> CompiledMemory:
        return memory.over([buffer.clone() for buffer in memory.buffers()])

    def equal(theirs: CompiledMemory) -> None:
        for one, two in zip(memory.buffers(), theirs.buffers(), strict=True):
            same(one, two)

    def storing(*happened: Tensor) -> None:
        ReplayMemory.store(theirs := other(), *happened)
        store(*happened)
        equal(theirs)

    def choosing(draws: Tensor) -> list[Batch]:
        expected, found = ReplayMemory.chosen(theirs := other(), draws), chosen(draws)
        equal(theirs)
        for one, two in zip(found, expected, strict=True):
            assert [field is None for field in one] == [field is None for field in two]
            for mine, wanted in zip(_fields(one), _fields(two), strict=True):
                assert (mine.shape, mine.stride(), mine.dtype) == (wanted.shape, wanted.stride(), wanted.dtype)
                same(mine, wanted)
        return found

    memory.store, memory.chosen = storing, choosing  # type: ignore[method-assign]


def watch_actor(actor: CompiledActor) -> None:
    """Check the graph of an actor against the actor it was made from."""
    act = actor.act

    def both(timestep: Timestep, rates: Rates) -> Choice:
        before = copy.deepcopy(actor.state_dict())
        expected = Actor.act(actor, timestep, rates)
        after = copy.deepcopy(actor.state_dict())
        actor.load_state_dict(before)
        found = act(timestep, rates)
        for shard, state in actor.state_dict().items():
            assert torch.equal(state["explorer"]["generator"], after[shard]["explorer"]["generator"]), "the same draws"
        assert torch.equal(found.action, expected.action)
        return found

    actor.act = both  # type: ignore[method-assign]


@pytest.mark.parametrize("bare", [True, False])
def test_what_a_graph_closes_over(bare: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors from outside, an argument that changes in place, narrow products; with torch's wrapper, or without."""
    if not bare:
        counts = itertools.count()
        monkeypatch.setattr(inductor, "_results", lambda graph: next(counts))  # within and without never agree
    table = torch.arange(12.0, dtype=torch.float64).view(3, 4)

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
        x.add_(table)
        return [torch.addmm(bias, x, weight.t()), x.t() @ table[:, :2].contiguous(), table.sum()]

    def given() -> list[Tensor]:
        random = torch.Generator().manual_seed(1)
        return [torch.randn(shape, generator=random, dtype=torch.float64) for shape in ((3, 4), (2, 4), (2,))]

    compiled = compile_function(function, given(), tried=False)
    mine, theirs = given(), given()
    for _ in range(2):
        for found, expected in zip([*compiled(*mine), *mine], [*function(*theirs), *theirs], strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("member", "ends"), CASES)
def test_finds_what_the_eager_way_finds(
    member: str, ends: bool, alone: Ranks, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the gradient, as with other ranks, or to the end; a later start finds all of its graphs."""
    if not ends:
        monkeypatch.setattr(AllReduce, "alone", property(lambda self: False, lambda self, value: None))
    stores: list[GraphStore] = []
    monkeypatch.setattr(inductor, "GraphStore", lambda *given: stores.append(GraphStore(*given)) or stores[-1])
    arguments = fill(("debug", "--shards", "2", *(MEMBERS | SLOW)[member], *F64, *COMPILED), library)
    run = go(build(arguments, tmp_path, alone), 70)
    fused = run.sync.clipped  # type: ignore[attr-defined]
    assert isinstance(fused, FusedOptimizer)
    assert compare(run, 20, ends and fused.fits) > 0
    close(run)
    assert len(stores) > 3
    assert all(store.load() for store in stores)


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "optim",
    [
        OptimConfig(lr=1e-3, eps=1e-4, max_grad_norm=0.2),
        pytest.param(OptimConfig(lr=1e-3, eps=1e-4), marks=pytest.mark.slow),
        pytest.param(OptimConfig(kind="rmsprop", eps=0.01, max_grad_norm=0.2), marks=pytest.mark.slow),
        pytest.param(OptimConfig(kind="rmsprop", eps=0.01, rms_momentum=0.9), marks=pytest.mark.slow),
    ],
    ids=["adam, clipped", "adam", "rmsprop, clipped", "rmsprop, momentum"],
)
def test_steps_as_the_plain_optimizer(optim: OptimConfig) -> None:
    """Also after a gradient that is not finite, and from the state of the other one."""
    config = Config(optim=optim, runtime=RuntimeConfig(dtype="float64"))
    plain, fused = (FlatParameters(torch.nn.Linear(7, 5, dtype=torch.float64)) for _ in range(2))
    fused.data.data.copy_(plain.data)
    sides: list[tuple[FlatParameters, ClippedOptimizer]] = [
        (plain, ClippedOptimizer(plain, build_levels(config, plain))),
        (fused, fusing(config, fused)),
    ]
    g = torch.Generator().manual_seed(0)
    for i in range(20):
        gradient = torch.randn(plain.data.numel(), generator=g, dtype=torch.float64) / (
            3 + 4 * i
        )  # on both sides of the clip
        if i in (3, 11):
            gradient[2] = torch.nan
        norms = []
        for flat, optimizer in sides:
            flat.grad.copy_(gradient)
            optimizer.set_lr(optim.lr * (1 - i / 40))
            norms.append(optimizer.step(optim.max_grad_norm))
        torch.testing.assert_close(norms[1], norms[0], rtol=1e-13, atol=0, equal_nan=True)
        torch.testing.assert_close(fused.data.detach(), plain.data.detach(), rtol=0, atol=1e-13)
        if i == 14:
            other = fusing(config, fused)
            other.load_state_dict(copy.deepcopy(sides[0][1].state_dict()))
            sides[1] = (fused, other)
    states = [optimizer.state_dict()["all"] for _, optimizer in sides]
    assert list(states[0]) == list(states[1])
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=1e-13)


def fusing(config: Config, flat: FlatParameters) -> FusedOptimizer:
    made = FusedOptimizer(flat, build_levels(config, flat), max_norm=config.optim.max_grad_norm)
    made.compile(compile_function)
    assert made._run is not None
    return made


def test_a_loss_that_is_not_finite_spoils_the_gradient(alone: Ranks, tmp_path: Path) -> None:
    """Its priority is finite, as in eager mode; the update is skipped."""
    run = go(build(("debug", "--loss.kind", "huber", *COMPILED), tmp_path, alone), 70)  # its gradient is bounded
    learner, flat = run.learner, run.sync.flat  # type: ignore[attr-defined]
    batch = next(batch for step in range(71, 90) for batch in run.replay.batches(step))
    ret = batch.ret.clone()
    ret[3] = torch.inf
    before, moments = flat.data.detach().clone(), copy.deepcopy(run.sync.clipped.state_dict())  # type: ignore[attr-defined]
    found = learner.compiled(batch._replace(ret=ret), run.layout.rates(71))
    assert found is not None
    assert found.norm is not None
    assert not torch.isfinite(found.norm)
    assert not torch.isfinite(found.means[0])
    assert torch.isfinite(found.priority).all()
    assert torch.equal(flat.data, before), "such an update is skipped"
    after = leaves(run.sync.clipped.state_dict())  # type: ignore[attr-defined]
    assert all(equal(value, after[name]) for name, value in leaves(moments).items())
    learner.update(batch._replace(ret=ret), run.layout.rates(71))
    assert torch.equal(flat.data, before)
    learner.update(batch, run.layout.rates(71))
    assert not torch.equal(flat.data, before)
    close(run)


def test_ranks_correct_weights_by_what_they_hear_of_each_other() -> None:
    """Each weighs by its own least P(i) and terms; corrected, that is the weight by those of all ranks."""
    g = torch.Generator().manual_seed(0)
    loss = torch.zeros(2, 5, dtype=torch.float64)
    probability = torch.rand(2, 5, generator=g, dtype=torch.float64) + 0.01
    terms = torch.tensor([3.0, 7.0], dtype=torch.float64)
    everyone = torch.stack((probability.amin(1), torch.ones(2, dtype=torch.float64), terms), 1)
    for rank in range(2):
        mine = weighted(loss[rank], probability[rank], 0.4, everyone[rank, 0], terms[rank])
        all_s = weighted(loss[rank], probability[rank], 0.4, probability.amin(), terms.mean())
        torch.testing.assert_close(mine * correction(everyone[rank], everyone, 0.4), all_s, rtol=1e-13, atol=0)


OBSTACLES: dict[str, tuple[str, dict[str, Any]]] = {
    "net.lstm": ("net", {"lstm": 8}),
    "sync.kind": ("sync", {"kind": "ddp"}),
    "sync.stages": ("sync", {"stages": 2}),
    "sync.asynchronous": ("sync", {"kind": "server", "asynchronous": True}),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_is_no_graph_is_refused_in_one_line_if_it_has_to_be_one(name: str) -> None:
    section, values = OBSTACLES[name]
    stated = PRESETS["debug"]()
    config: Config = replace(stated, **{section: replace(getattr(stated, section), **values)})
    for compile_ in (False, "auto"):
        check_compile(replace(config, runtime=replace(config.runtime, compile=compile_)))
    with pytest.raises(ConfigError, match=rf"--{name} .*: .*; use --runtime.compile False or auto"):
        check_compile(replace(config, runtime=replace(config.runtime, compile=True)))


def test_auto_goes_on_eagerly_and_says_why(alone: Ranks, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = go(build(("debug", "--sync.kind", "ddp", "--runtime.compile", "auto"), tmp_path, alone), 70)
    assert run.learner.updates > 0
    close(run)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not compiled")]
    assert len(told) == 1
    assert "--sync.kind ddp: DistributedDataParallel" in told[0]


@pytest.mark.parametrize("wanted", ["auto", "True"])
def test_a_loss_that_cannot_be_traced(
    wanted: str, alone: Ranks, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that reads a number, which a graph does not have yet."""
    honest = torch.nn.functional.mse_loss

    def looks(q: Tensor, goal: Tensor, reduction: str) -> Tensor:
        assert float(q.detach().sum()) == float(q.detach().sum())
        return honest(q, goal, reduction=reduction)

    monkeypatch.setattr(torch.nn.functional, "mse_loss", looks)
    if wanted == "True":
        with pytest.raises(AgreedError, match=r"--runtime.compile True: .*; use --runtime.compile False or auto"):
            build(("debug", "--runtime.compile", wanted), tmp_path, alone)
        return
    run = go(build(("debug", "--runtime.compile", wanted), tmp_path, alone), 90)
    assert run.learner.updates > 1
    close(run)
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("not compiled")]) == 1


@pytest.mark.timeout(200)
@pytest.mark.parametrize("wanted", ["auto", "True"])
def test_without_a_compiler(wanted: str, tmp_path: Path) -> None:
    """`auto` trains eagerly and says why in one line; `True` is refused in one, before anything begins."""
    arguments = ["train", "debug", "--total_env_steps", "1000", "--eval.episodes", "0", "--runtime.compile", wanted]
    arguments += ["--log.dir", str(tmp_path), "--log.name", "run", "--log.plot", "False"]
    nothing = {"CXX": str(tmp_path / "nothing"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    program = run_program(arguments, tmp_path, env=nothing, expect=0 if wanted == "auto" else 2, deadline=90)
    assert "Traceback" not in program.output
    told = [line for line in program.lines if "torch cannot compile here" in line]
    assert len(told) == 1
    if wanted == "True":
        assert program.lines == told
        assert told[0].startswith("lockstep: --runtime.compile True: torch cannot compile here")
