"""Count the work in an update and in a step: tensor operations and flops of the run itself, on a CPU.

It runs `trainer.train` on a few environments and a small batch and looks at every operation that torch dispatches.
How fast a machine is at them is estimated elsewhere.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from trainer.build.envs import inspect_env
from trainer.build.run import build_run
from trainer.config import Config
from trainer.layout import Layout
from trainer.log.null import NullLogger
from trainer.run import Run
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import choose_device, process_group
from trainer.runtime.stop import SIGNALS
from trainer.train import train
from trainer.types import State
from trainer.validate import validate

ENVS = BATCH = 8
STEPS = 8
NEVER = 10**9
_IN_THREADS = ("ale", "async")  # backends whose environments step while the learner works
_FREE = ("empty", "empty_like", "empty_strided", "new_empty", "_local_scalar_dense")


class Amount(NamedTuple):
    operations: float
    flops: float


def count(config: Config) -> dict[str, Any]:
    """Return the counts for the run that `config` describes. Raises ConfigError if it cannot be built."""
    with tempfile.TemporaryDirectory() as folder, _small_run(config, Path(folder)) as run:
        _go_on(run, 2)  # the first steps do less
        once, many = _counted(run, 1), _counted(run, 1 + STEPS)
        step = Amount(*((b - a) / STEPS for a, b in zip(once, many, strict=True)))
        while True:
            updates = run.layout.updates(run.step + 1)
            amount = _counted(run, 1)
            if updates:
                break
        update = Amount(*((a - b) / updates for a, b in zip(amount, once, strict=True)))
        kind = inspect_env(config).kind
        return {
            "shapes": [list(parameter.shape) for parameter in run.learner.net.parameters()],
            "update_operations": round(update.operations),
            "update_flops": round(update.flops / run.config.replay.batch_size),
            "step_operations": round(step.operations),
            "step_flops": round(step.flops / run.config.env.num_envs),
            "env": float(f"{_env_seconds(run):.3g}"),
            "parallel": kind in _IN_THREADS,
            "gathers": int(config.replay.kind in ("prioritized", "sequence")),
        }


@contextmanager
def _small_run(config: Config, folder: Path) -> Iterator[Run]:
    """Build the run on a CPU with a few environments, a small memory, and nothing periodic."""
    shards = len(config.env.tasks) or 1
    envs = -(-ENVS // shards) * shards
    rows = 2 * (config.replay.length + config.replay.burn_in) if config.replay.kind == "sequence" else 2 * STEPS
    starts = envs * (rows + config.replay.n_step + config.env.frame_stack)
    small = replace(
        config,
        shards=shards,
        env=replace(config.env, num_envs=envs, threads=1),
        replay=replace(config.replay, batch_size=envs, capacity=4 * starts, learning_starts=starts),
        target=replace(config.target, every=NEVER),
        sync=type(config.sync)(),
        scale=type(config.scale)(),
        log=replace(config.log, every=NEVER, tensorboard=False, wandb=False),
        checkpoint=replace(config.checkpoint, every=0),
        eval=replace(config.eval, every=0, episodes=0),
        runtime=replace(config.runtime, device="cpu", threads=1, poll_every=NEVER),
        demos=replace(config.demos, pretrain=0),
    )
    validate(small, 1)
    launch, threads = Launch.read(), torch.get_num_threads()
    handlers = {sig: signal.getsignal(sig) for sig in SIGNALS}
    with process_group(choose_device("cpu", launch), launch, small.runtime.timeout) as ranks:
        run = build_run(small, Layout(small, shards, 1, 0), inspect_env(small), ranks, folder, launch)
        run.logger.close()
        run.write, run.logger = _write_nothing, NullLogger()
        for sig, handler in handlers.items():
            signal.signal(sig, handler)  # nothing to save: Ctrl-C may end it
        try:
            yield run
        finally:
            run.envs.close()
            torch.set_num_threads(threads)


def _write_nothing(step: int, replicated: State, shards: dict[int, State]) -> None:
    """Write no checkpoint."""


def _go_on(run: Run, steps: int) -> None:
    """Run `steps` more steps."""
    end = run.layout.env_steps(run.step + steps)
    run.layout = replace(run.layout, config=replace(run.config, total_env_steps=end))
    train(run)


def _counted(run: Run, steps: int) -> Amount:
    """Run `steps` more steps; return what they did, end included."""
    operations = _Operations()
    with FlopCounterMode(display=False) as flops, operations:
        _go_on(run, steps)
    return Amount(operations.count, flops.get_total_flops())


class _Operations(TorchDispatchMode):
    """Counts operations that would be kernels on a GPU: neither views nor mere allocations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += not func.is_view and func.overloadpacket.__name__ not in _FREE
        call: Callable[..., Any] = func
        return call(*args, **(kwargs or {}))


def _env_seconds(run: Run, steps: int = 50) -> float:
    """Return the CPU time of one environment's step [s]: the minimum of a few tries."""
    actions = torch.randint(run.envs.num_actions, (steps, run.envs.num_envs))
    tries = []
    for _ in range(3):
        began = time.process_time()  # of all threads, regardless of other processes
        for action in actions:
            run.envs.send(action)
            run.envs.recv()
        tries.append(time.process_time() - began)
    return min(tries) / steps / run.envs.num_envs
