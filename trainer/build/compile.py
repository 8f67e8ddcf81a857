"""What is compiled in a run, and whether this run can be compiled on this machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from trainer.build.inductor import compile_function
from trainer.compilable import obstacle
from trainer.compiled import CompiledGradient, LeftInPlace
from trainer.compiled_acting import CompiledActor
from trainer.config import Config, ConfigError
from trainer.layout import Layout
from trainer.learner import Differentiate
from trainer.policy import Actor, EpsilonGreedy, Greedy
from trainer.replay import CompiledMemory, ReplayMemory, WithDemos
from trainer.run import AgreedError
from trainer.runtime.ranks import Ranks
from trainer.streams import Streams
from trainer.sync import Strategy
from trainer.sync.fused import FusedOptimizer
from trainer.tape import Tape
from trainer.types import Compiler, Loss, Rates, Replay

WITHOUT = "updates run eagerly, one operation at a time; --runtime.compile False silences this message"
_STEPS = 1000
"""Steps searched for the numbers of updates that a step may have."""


def build_compiler(config: Config, ranks: Ranks) -> tuple[Compiler | None, str]:
    """Return the compiler of updates, or None and why, if worth a line. A collective: all ranks get one or none do."""
    if config.runtime.compile is False:
        return None, ""
    if (found := obstacle(config)) is not None:
        return None, f"not compiled: --{found[0]} {found[1]}: {found[2]}; {WITHOUT}"
    problems = [problem for problem in ranks.gather(compiler_problem(ranks.device)) if problem]
    return (None, f"not compiled: {problems[0]}; {WITHOUT}") if problems else (compile_function, "")


def refuser(config: Config, say: Callable[[str], None]) -> Callable[[Exception], None]:
    """Return the callback for failed compilation: it reports the error and lets the run stay eager, or raises."""

    def refused(error: Exception) -> None:
        if config.runtime.compile is True:
            raise AgreedError(f"--runtime.compile True: {_in_a_line(error)}; use --runtime.compile False or auto")
        say(f"not compiled: {_in_a_line(error)}; {WITHOUT}")

    return refused


def build_gradient(
    net: nn.Module,
    target_net: nn.Module,
    loss: Loss,
    sync: Strategy,
    tape: Tape,
    compiler: Compiler | None,
    refused: Callable[[Exception], None],
) -> Differentiate:
    """Return the way to gradients tried before the eager one: compiled graphs if there is a compiler, else none.

    Such a graph also steps the weights if nothing lies between gradient and step, and the step has a formula.

    net, target_net: the raw networks; tape: what `loss` draws from; refused: called if a loss cannot be compiled.
    """
    if compiler is None:
        return _nothing
    fused = sync.clipped if sync.alone and isinstance(sync.clipped, FusedOptimizer) else None
    return CompiledGradient(
        net,
        target_net,
        loss,
        sync,
        online=sync.flat,
        target=sync.target,
        ending=fused if fused is not None and fused.fits else LeftInPlace(sync.flat),
        tape=tape,
        compiler=compiler,
        refused=refused,
    )


def build_actor(
    actor: Actor,
    sync: Strategy,
    draws: Streams,
    obs: Tensor,
    compiler: Compiler | None,
    refused: Callable[[Exception], None],
) -> Actor:
    """Return an equivalent of `actor`, compiled if there is a compiler and the actor has no memory.

    draws: what its network draws from; obs: [N, *] example observations.
    """
    chooser, explorer = actor.chooser, actor.explorer
    if compiler is None or type(chooser) is not Greedy or type(explorer) is not EpsilonGreedy:
        return actor
    tape = Tape(draws, chooser.device, draws.dtype)
    given = chooser.given._replace(draws=None if chooser.given.draws is None else tape)
    chooser = Greedy(chooser.net, chooser.device, given)
    return CompiledActor(chooser, explorer, flat=sync.flat, tape=tape, obs=obs, compiler=compiler, refused=refused)


def compile_ahead(
    gradient: Differentiate,
    replay: Replay,
    layout: Layout,
    compiler: Compiler | None,
    refused: Callable[[Exception], None],
) -> None:
    """Compile what is possible before training begins: storing and sampling, and updates if replay can show a batch.

    layout: knows how many updates a step may have.
    """
    own = replay.own if isinstance(replay, WithDemos) else replay
    if compiler is not None and isinstance(own, CompiledMemory) and own.ring.device == own.device:
        first = layout.config.replay.learning_starts // layout.config.env.num_envs
        counts = {layout.updates(step) for step in range(first, first + _STEPS)} - {0}
        own.compile(partial(compile_function, tried=False), sorted(counts), refused)
    if isinstance(gradient, CompiledGradient) and isinstance(replay, ReplayMemory):
        gradient.prepare(replay.fetch(torch.zeros(replay.batch_size, dtype=torch.int64, device=replay.ring.device)))


def check_compiler(config: Config, device: torch.device) -> None:
    """Raise ConfigError if `runtime.compile` is True and this machine cannot compile updates."""
    if config.runtime.compile is True and (problem := compiler_problem(device)) is not None:
        raise ConfigError("runtime.compile", True, problem, "install one, or use --runtime.compile False or auto")


def compiler_problem(device: torch.device) -> str | None:
    """Return what keeps torch from compiling for this device, in one line; None if it works."""
    try:
        compile_function(lambda x: [x + 1], [torch.zeros(2, device=device)])
    except Exception as error:  # whatever is missing: a compiler, its headers, a writable folder
        return f"torch cannot compile here ({_in_a_line(error)})"
    return None


def _nothing(batch: object, rates: Rates) -> None:
    return None


def _in_a_line(error: Exception) -> str:
    """Return the type of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0].strip()}"
