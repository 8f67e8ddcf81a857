"""The compiled update: whether this run, on this machine, has one; and what compiles it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from trainer.compilable import obstacle
from trainer.compiled import CannotCompileError, CompiledGradient, Compiler, Function, in_a_line
from trainer.config import Config, ConfigError
from trainer.learner import Differentiate
from trainer.replay import ReplayMemory
from trainer.run import AgreedError
from trainer.runtime.ranks import Ranks
from trainer.sync import Strategy
from trainer.tape import Tape
from trainer.types import Loss, Rates, Replay

WITHOUT = "updates run eagerly, one operation at a time; --runtime.compile False leaves this line away"


def build_compiler(config: Config, ranks: Ranks) -> tuple[Compiler | None, str]:
    """Return what compiles updates, or None and why not, if that is worth a line. A collective: all ranks or none."""
    if config.runtime.compile is False:
        return None, ""
    if (found := obstacle(config)) is not None:
        return None, f"not compiled: --{found[0]} {found[1]}: {found[2]}; {WITHOUT}"
    problems = [problem for problem in ranks.gather(compiler_problem(ranks.device)) if problem]
    return (None, f"not compiled: {problems[0]}; {WITHOUT}") if problems else (compile_function, "")


def build_gradient(
    config: Config,
    net: nn.Module,
    target_net: nn.Module,
    loss: Loss,
    sync: Strategy,
    tape: Tape,
    compiler: Compiler | None,
    say: Callable[[str], None],
) -> Differentiate:
    """Return how gradients are found ahead of the eager way: by compiled graphs where there is a compiler, or not.

    net, target_net: the raw networks; tape: what `loss` draws from; say: is told where a loss cannot be traced.
    """
    if compiler is None:
        return _nothing

    def refused(error: CannotCompileError) -> None:
        if config.runtime.compile is True:
            raise AgreedError(f"--runtime.compile True: {error}; use --runtime.compile False or auto")
        say(f"not compiled: {error}; {WITHOUT}")

    return CompiledGradient(
        net,
        target_net,
        loss,
        sync,
        online=sync.flat,
        target=sync.target,
        tape=tape,
        compiler=compiler,
        refused=refused,
    )


def compile_ahead(gradient: Differentiate, replay: Replay) -> None:
    """Compile what the batches of `replay` need before training begins, where it can show one while it is empty."""
    if isinstance(gradient, CompiledGradient) and isinstance(replay, ReplayMemory):
        gradient.prepare(replay.fetch(torch.zeros(replay.batch_size, dtype=torch.int64, device=replay.ring.device)))


def compile_function(function: Function, example: Sequence[Tensor], *, vectors: bool = True) -> Function:
    """Return `function` as one graph, compiled for tensors like those of `example`; vectors: with SIMD on a CPU.

    It is traced by torch.fx, not by Dynamo, whose guards a pure function of tensors does not need: they would cost a
    quarter of a small update. On a CPU the code between kernels is C++ as well.
    """
    graph = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*example)
    options = {
        "cpp_wrapper": example[0].device.type == "cpu",
        "optimize_scatter_upon_const_tensor": False,  # it rounds the constant to single precision
        **({} if vectors else {"cpp.simdlen": 1}),
    }
    compiled: Function = torch._inductor.compile(graph, list(example), options=options)
    compiled(*example)
    return compiled


def compile_step(function: Function, example: Sequence[Tensor]) -> Function:
    """Return a step of environments as one graph. Without SIMD: rows of ten flags are 20 times as slow with it."""
    return compile_function(function, example, vectors=False)


def check_compiler(config: Config, device: torch.device) -> None:
    """Raise ConfigError if updates are to be compiled at all costs and this machine cannot."""
    if config.runtime.compile is True and (problem := compiler_problem(device)) is not None:
        raise ConfigError("runtime.compile", True, problem, "install one, or use --runtime.compile False or auto")


def compiler_problem(device: torch.device) -> str | None:
    """Return what keeps torch from compiling for this device, in a line; None: it works."""
    try:
        compile_function(lambda x: [x + 1], [torch.zeros(2, device=device)])
    except Exception as error:  # whatever is missing: a compiler, its headers, a folder to write into
        return f"torch cannot compile here ({in_a_line(error)})"
    return None


def _nothing(batch: object, rates: Rates) -> None:
    return None
