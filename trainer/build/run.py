"""Config -> Run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer import checkpoint
from trainer.build.compile import build_actor, build_compiler, build_gradient, compile_ahead, refuser
from trainer.build.envs import build_envs
from trainer.build.evaluation import build_evaluator
from trainer.build.inductor import compile_step
from trainer.build.losses import build_loss
from trainer.build.nets import DTYPES, threads
from trainer.build.policy import build_policy
from trainer.build.replay import build_replay
from trainer.build.stages import build_share, meet_stages, weights_of
from trainer.build.sync import build_sync
from trainer.build.teacher import load_teachers
from trainer.checkpoint.disk import Disk
from trainer.config import Config
from trainer.envs import EnvSpec
from trainer.layout import Layout
from trainer.learner import Learner
from trainer.log import make_logger
from trainer.replay import WithDemos
from trainer.run import AgreedError, Run
from trainer.runtime import seeding
from trainer.runtime.faults import Faults, PointedSpans, arm
from trainer.runtime.heap import keep_freed_memory
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks
from trainer.runtime.spans import Spans
from trainer.runtime.stop import StopRequest
from trainer.streams import Common, Streams
from trainer.tape import Tape
from trainer.types import State


def build_run(config: Config, layout: Layout, spec: EnvSpec, ranks: Ranks, run_dir: Path, launch: Launch) -> Run:
    """Make every part of this rank's run and join them. A collective: rank 0's weights go to all."""
    device, dtype = ranks.device, DTYPES[config.runtime.dtype]
    torch.set_num_threads(threads(config, spec, launch))
    keep_freed_memory()
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # kept by NumPy, which would later warn that there are no subnormal numbers
    torch.set_flush_denormal(True)  # moments of dead units decay through denormals, which are slow on a CPU
    envs = build_envs(config, layout, spec, device)
    faults = Faults.read(ranks.rank)
    spans = PointedSpans(faults) if faults else Spans()
    meeting = meet_stages(config, ranks, spans)
    net = build_share(config, spec, device, meeting)
    target_net = build_share(config, spec, device, meeting).requires_grad_(False)
    compiler, why_not = build_compiler(config, ranks)
    if compiler is not None:
        envs.compile(compile_step)
    sync = build_sync(config, net, target_net, ranks, spans, meeting, compiler)
    sync.alone &= not faults  # one of their points lies between gradient and step
    generators = {shard: seeding.generator(config.seed, "learner", shard, device) for shard in layout.owned}
    noise = Common(seeding.generator(config.seed, "noise", 0, device)) if config.net.noisy_shared else None
    draws = Streams(generators, device, dtype, noise)
    teacher = load_teachers(config, spec, ranks)
    logger = make_logger(
        ranks.rank,
        run_dir,
        total_env_steps=layout.env_steps(layout.num_steps),
        title=f"{config.preset} {config.env.name}",
        config=config.to_dict(),
        tensorboard=config.log.tensorboard,
        wandb=config.log.wandb,
        wandb_project=config.log.wandb_project,
    )
    if why_not:
        logger.message(why_not)
    refused = refuser(config, logger.message)
    tape = Tape(draws, device, dtype)
    loss = build_loss(config, spec, net, tape, device, teacher)
    learner = Learner(
        sync.prepare(net),
        target_net,
        loss,
        sync,
        max_grad_norm=config.optim.max_grad_norm,
        compiled=build_gradient(net, target_net, loss, sync, tape, compiler, refused),
    )
    replay = build_replay(config, layout, spec, net, device, dtype)
    compile_ahead(learner.compiled, replay, layout, compiler, refused)
    actor, acting_draws = build_policy(config, layout, spec, net, device, teacher)
    timestep = envs.reset()
    disk = Disk(lambda action, path: faults.passes("write")) if faults else Disk()
    write, written = _checkpoints(config, run_dir, ranks, disk)
    run = Run(
        config=config,
        layout=layout,
        peers=ranks,
        envs=envs,
        policy=build_actor(actor, sync, acting_draws, timestep.obs, compiler, refused),
        replay=replay,
        learner=learner,
        draws=draws,
        noise=noise,
        sync=sync,
        weights={"net": weights_of(net, meeting), "target_net": weights_of(target_net, meeting)},
        logger=logger,
        spans=spans,
        stop=StopRequest().install(),
        evaluator=build_evaluator(config, layout, spec, net, ranks, spans),
        write=write,
        written=written,
        timestep=timestep,
        lesson=replay.lesson if isinstance(replay, WithDemos) else None,
    )
    if faults:
        arm(faults, learner, sync, lambda: run.step)
    return run


def _checkpoints(
    config: Config, run_dir: Path, ranks: Ranks, disk: Disk
) -> tuple[Callable[[int, State, dict[int, State]], None], Callable[[], bool]]:
    """Return functions that start writing a checkpoint and that wait for it."""
    saver = checkpoint.Saver(
        run_dir / "checkpoints",
        _RanksBeside(ranks),
        {"config": config.to_dict()},
        keep=config.checkpoint.keep,
        failures=config.checkpoint.failures,
        warn=lambda text: print(f"lockstep: {text}", file=sys.stderr, flush=True),
        disk=disk,
    )

    def write(step: int, replicated: State, shards: dict[int, State]) -> None:
        with _agreed_failure():
            saver.begin(step, replicated, shards)

    def written() -> bool:
        with _agreed_failure():
            return saver.finish()

    return write, written


@contextmanager
def _agreed_failure() -> Iterator[None]:
    try:
        yield
    except checkpoint.CheckpointError as error:
        remedy = "make room or repair the disk, then continue with --resume; --checkpoint.failures allows more"
        raise AgreedError(f"{error}; {remedy}") from error


class _RanksBeside:
    """Ranks as checkpoint writing meets them: in a thread, and patiently, because disks differ."""

    def __init__(self, ranks: Ranks) -> None:
        self.rank, self.world_size, self._ranks = ranks.rank, ranks.world_size, ranks

    def gather(self, obj: Any) -> list[Any]:
        return self._ranks.gather_beside(obj)
