"""Config -> Run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trainer import checkpoint
from trainer.build.envs import build_envs
from trainer.build.evaluation import build_evaluator
from trainer.build.losses import build_loss
from trainer.build.nets import DTYPES, threads
from trainer.build.policy import build_policy
from trainer.build.replay import build_replay
from trainer.build.stages import build_share, meet_stages, weights_of
from trainer.build.sync import build_sync
from trainer.build.teacher import load_teachers
from trainer.config import Config
from trainer.envs import EnvSpec
from trainer.layout import Layout
from trainer.learner import Learner
from trainer.log import make_logger
from trainer.replay import WithDemos
from trainer.run import Run
from trainer.runtime import seeding
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks
from trainer.runtime.spans import Spans
from trainer.runtime.stop import StopRequest
from trainer.streams import Streams
from trainer.types import State


def build_run(config: Config, layout: Layout, spec: EnvSpec, ranks: Ranks, run_dir: Path, launch: Launch) -> Run:
    """Make every part of this rank's run and join them. A collective: the weights of rank 0 go to all."""
    device, dtype = ranks.device, DTYPES[config.runtime.dtype]
    torch.set_num_threads(threads(config, spec, launch))
    torch.set_flush_denormal(True)  # moments of dead units decay through denormals, which a CPU handles slowly
    envs = build_envs(config, layout, spec, device)
    spans = Spans()
    meeting = meet_stages(config, ranks, spans)
    net = build_share(config, spec, device, meeting)
    target_net = build_share(config, spec, device, meeting).requires_grad_(False)
    sync = build_sync(config, net, target_net, ranks, spans, meeting)
    generators = {shard: seeding.generator(config.seed, "learner", shard, device) for shard in layout.owned}
    draws = Streams(generators, device, dtype)
    teacher = load_teachers(config, spec, ranks)
    learner = Learner(
        sync.prepare(net),
        target_net,
        build_loss(config, spec, net, draws, device, teacher),
        sync,
        max_grad_norm=config.optim.max_grad_norm,
    )
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
    replay = build_replay(config, layout, spec, net, device, dtype)
    return Run(
        config=config,
        layout=layout,
        peers=ranks,
        envs=envs,
        policy=build_policy(config, layout, spec, net, device, teacher),
        replay=replay,
        learner=learner,
        draws=draws,
        sync=sync,
        weights={"net": weights_of(net, meeting), "target_net": weights_of(target_net, meeting)},
        logger=logger,
        spans=spans,
        stop=StopRequest().install(),
        evaluator=build_evaluator(config, layout, spec, net, ranks),
        write=_writer(config, run_dir, ranks),
        timestep=envs.reset(),
        lesson=replay.lesson if isinstance(replay, WithDemos) else None,
    )


def _writer(config: Config, run_dir: Path, ranks: Ranks) -> Callable[[int, State, dict[int, State]], None]:
    def write(step: int, replicated: State, shards: dict[int, State]) -> None:
        checkpoint.save(
            run_dir / "checkpoints",
            step,
            replicated,
            shards,
            {"config": config.to_dict()},
            _PatientRanks(ranks),
            config.checkpoint.keep,
        )

    return write


class _PatientRanks:
    """Ranks as a checkpoint wants them: disks differ, so each waits long for the others' files."""

    def __init__(self, ranks: Ranks) -> None:
        self.rank, self.world_size, self._ranks = ranks.rank, ranks.world_size, ranks

    def gather(self, obj: Any) -> list[Any]:
        return self._ranks.gather(obj, patient=True)
