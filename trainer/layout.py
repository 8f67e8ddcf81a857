"""Who owns what: each rank's share of what a config states for all ranks together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from trainer.config import Config
from trainer.schedules import Rates, ladder, linear, multiples


@dataclass(frozen=True)
class Layout:
    """One rank's view of a run. `config` is global (and scaled, see `scaled`); the rest is derived, never stored."""

    config: Config
    shards: int
    world_size: int
    rank: int
    stages: int = field(default=1, kw_only=True)  # neighbouring ranks that together hold one replica and one share

    @property
    def owned(self) -> range:
        """The shards of this rank."""
        replica = self.rank // self.stages
        return range(replica * self.shards_per_rank, (replica + 1) * self.shards_per_rank)

    @property
    def replicas(self) -> int:
        return self.world_size // self.stages

    @property
    def reports(self) -> bool:
        """Whether this rank logs and stores what its shards do: one rank per replica does."""
        return self.rank % self.stages == 0

    @property
    def shards_per_rank(self) -> int:
        return self.shards // self.replicas

    @property
    def envs_per_shard(self) -> int:
        return self.config.env.num_envs // self.shards

    @property
    def envs_per_rank(self) -> int:
        return self.envs_per_shard * self.shards_per_rank

    @property
    def batch_per_rank(self) -> int:
        return self.config.replay.batch_size // self.replicas

    @property
    def eval_envs_per_shard(self) -> int:
        return math.ceil(self.config.eval.num_envs / self.shards)

    @property
    def num_steps(self) -> int:
        return math.ceil(self.config.total_env_steps / self.config.env.num_envs)

    def rows_per_lane(self, stack: int) -> int:
        """Rows that hold replay.capacity transitions, plus those needed for windows and stacks."""
        replay = self.config.replay
        return math.ceil(replay.capacity / self.config.env.num_envs) + replay.n_step + stack + 4

    def env_steps(self, step: int) -> int:
        return step * self.config.env.num_envs

    def due(self, step: int, every: float) -> bool:
        """Whether a multiple of `every` env steps lies in this step."""
        return multiples(step, self.config.env.num_envs, every) > 0

    def due_at_update(self, update: int, every: float) -> bool:
        """Whether a multiple of `every` env steps lies in this update, at `replay.update_every` per update."""
        each = self.config.replay.update_every
        return math.floor(update * each / every) > math.floor((update - 1) * each / every)

    def updates(self, step: int) -> int:
        """How many gradient steps belong to this step."""
        replay = self.config.replay
        if replay.kind == "rollout":  # the first step after a full rollout learns from it
            learns = step > 1 and (step - 1) % replay.rollout == 0
            return replay.epochs * replay.rollout * self.config.env.num_envs // replay.batch_size if learns else 0
        period = replay.update_every * replay.burst
        return replay.burst * multiples(step, self.config.env.num_envs, period, start=replay.learning_starts)

    def epsilon(self, step: int) -> float:
        policy = self.config.policy
        at = self.env_steps(step - 1)
        return linear(
            at, policy.epsilon_start, policy.epsilon_end, wait=policy.epsilon_wait, length=policy.epsilon_decay
        )

    def ladder(self) -> list[float] | None:
        """The fixed epsilons of this rank's environments; None without a ladder. Every task has a whole ladder."""
        policy, each, tasks = self.config.policy, self.envs_per_shard, len(self.config.env.tasks) or 1
        if policy.exploration == "linear":
            return None
        whole = self._whole_ladder()
        return [whole[shard // tasks * each + i] for shard in self.owned for i in range(each)]

    def _whole_ladder(self) -> list[float]:
        """The fixed epsilons of all environments of one task."""
        policy, count = self.config.policy, self.config.env.num_envs // (len(self.config.env.tasks) or 1)
        return [ladder(env, count, policy.ladder_base, policy.ladder_alpha) for env in range(count)]

    def mean_epsilon(self, step: int) -> float:
        """The mean epsilon over all environments, for the log."""
        if self.config.policy.exploration == "linear":
            return self.epsilon(step)
        whole = self._whole_ladder()
        return sum(whole) / len(whole)

    def tasks(self, envs_per_shard: int) -> list[int] | None:
        """The task of each of this rank's environments, `envs_per_shard` in each shard; None without tasks."""
        count = len(self.config.env.tasks)
        return [shard % count for shard in self.owned for _ in range(envs_per_shard)] if count else None

    def rates(self, step: int) -> Rates:
        """The scheduled rates at this step."""
        return Rates(self.lr(step), self.epsilon(step), self.beta(step), self.teaching(step))

    def beta(self, step: int) -> float:
        replay = self.config.replay
        return linear(
            self.env_steps(step - 1), replay.beta, replay.beta_end, wait=0, length=self.config.total_env_steps
        )

    def teaching(self, step: int) -> float:
        decay = self.config.teacher.decay
        return 1.0 if decay == 0 else linear(self.env_steps(step - 1), 1.0, 0.0, wait=0, length=decay)

    def lr(self, step: int) -> float:
        optim = self.config.optim
        if optim.lr_end is None:
            return optim.lr
        at = self.env_steps(step - 1)
        return linear(at, optim.lr, optim.lr_end, wait=0, length=self.config.total_env_steps)


def scaled(config: Config, shards: int) -> Config:
    """Return the run that `config` means on `shards` shards: itself, or scaled up under weak scaling."""
    if config.scale.world == "strong":
        return config
    grow = {"none": 1.0, "sqrt": math.sqrt(shards), "linear": float(shards)}[config.scale.lr_rule]
    replay, optim = config.replay, config.optim
    return replace(
        config,
        env=replace(config.env, num_envs=config.env.num_envs * shards),
        replay=replace(
            replay,
            capacity=replay.capacity * shards,
            batch_size=replay.batch_size * shards,
            learning_starts=replay.learning_starts * shards,
            update_every=replay.update_every * shards,
        ),
        optim=replace(optim, lr=optim.lr * grow, lr_end=None if optim.lr_end is None else optim.lr_end * grow),
    )
