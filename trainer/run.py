"""A run: the parts that `build` made, its position, and what happens besides learning.

Every method that communicates with other ranks says so; all ranks enter it at the same step, because the step alone
(`Layout.due`) or a value reduced over the ranks decides it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import index
from typing import Any, Protocol

import torch
from torch import Tensor

from trainer.config import Config
from trainer.evaluate import Score, by_task, score
from trainer.layout import Layout
from trainer.learner import Learner
from trainer.skipped import Skipped, finite
from trainer.types import Batch, Envs, Episode, Logger, Policy, Replay, State, Stateful, Sync, Timestep

WINDOW = 100
"""Episodes over which the reported return is averaged."""
RETRY_AFTER = 2.0
"""Delay before retrying a last checkpoint that could not be written [s]."""


class AgreedError(RuntimeError):
    """A failure that every rank found in the same exchange, with the same message: one report is enough."""


class Peers(Protocol):
    """What a run needs from the process group."""

    @property
    def rank(self) -> int: ...

    def gather(self, value: Any) -> list[Any]: ...

    def any(self, *flags: bool) -> list[bool]: ...


class Clock(Protocol):
    """Where the wall time goes."""

    def __call__(self, name: str) -> Any: ...

    def drain(self) -> tuple[float, dict[str, float]]: ...

    def standing(self) -> tuple[tuple[str, ...], float]: ...

    def mark(self, step: int) -> None: ...


class StopFlag(Protocol):
    """A request to stop, by signal or by file."""

    @property
    def signal(self) -> str | None: ...


@dataclass
class Run:
    """The parts of one rank's run, and its position."""

    config: Config  # scaled: what the run does
    layout: Layout
    peers: Peers
    envs: Envs
    policy: Policy
    replay: Replay
    learner: Learner
    draws: Stateful  # what losses draw from, per row
    sync: Sync
    weights: dict[str, Stateful]  # networks, equal on every rank
    logger: Logger
    spans: Clock
    stop: StopFlag
    evaluator: Callable[[], list[Episode]]  # plays evaluation episodes, returns those of all ranks; a collective
    write: Callable[[int, State, dict[int, State]], None]  # starts to store a checkpoint; a collective
    written: Callable[[], bool]  # waits for it; whether it is stored, AgreedError after too many failures; a collective
    timestep: Timestep
    lesson: Callable[[], Batch] | None = None  # a batch of demonstrations only
    noise: Stateful | None = None  # what losses draw from for all rows, equal on every rank
    step: int = 0
    stopped_by: str | None = None
    score: Score | None = None  # of the last evaluation
    task_scores: dict[str, Score] = field(default_factory=dict)  # the same for each task, in multi-task training
    _returns: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _metrics: dict[str, list[float]] = field(default_factory=dict)
    _skipped: Skipped = field(default_factory=Skipped)
    _logged_step: int = 0

    def pretrain(self) -> bool:
        """Learn from demonstrations alone for `demos.pretrain` updates; return whether to stop. A collective.

        This precedes the first env step, so every update so far was of this kind: a resumed run continues where it was.
        Targets are refreshed, and ranks agree, after as many updates as in the run that follows.
        """
        config, layout, begin = self.config, self.layout, self.learner.updates
        if self.lesson is None or self.step > 0 or begin >= config.demos.pretrain:
            return False
        for update in range(begin + 1, config.demos.pretrain + 1):
            with self.spans("learn"):
                self.learner.update(self.lesson(), layout.rates(1))
            if layout.due_at_update(update, config.target.every):
                self.sync.refresh(config.target.tau)
            last = update == config.demos.pretrain
            if (last or layout.due_at_update(update, config.runtime.poll_every)) and self.poll():
                self.save(last=True)
                return True
        losses = self._metrics.pop("td_loss")
        self._metrics.clear()
        self.logger.message(
            f"{config.demos.pretrain:,} updates on demonstrations: TD loss from {losses[0]:.3g} to {losses[-1]:.3g}"
        )
        return False

    def advance(self, step: int, timestep: Timestep) -> Timestep:
        """Record the run's position."""
        self.step, self.timestep = step, timestep
        self.spans.mark(step)
        return timestep

    def poll(self) -> bool:
        """Agree on whether to stop. A collective.

        Raises AgreedError if any rank has skipped too many updates in a row for non-finite numbers, or has drifted.
        """
        with self.spans("poll"):
            fresh = self.learner.drain()
            for name, values in fresh.items():
                self._metrics.setdefault(name, []).extend(values)
            self._skipped.look(self.learner.updates, fresh)
            bad = self._skipped.longest >= self.config.optim.max_skipped
            stop, bad, drift = self.peers.any(self.stop.signal is not None, bad, int(self.sync.diverged()) > 0)
            if bad:
                self._blame_numbers()
            if drift:
                raise AgreedError(f"replicas differ at step {self.step}: {self.sync.blame()}")
            if stop:
                signals = [signal for signal in self.peers.gather(self.stop.signal) if signal]
                self.stopped_by = signals[0]
        return stop

    def _blame_numbers(self) -> None:
        """Raise, naming the rank whose loss was the first to be non-finite. A collective."""
        limit = self.config.optim.max_skipped
        mine = self._skipped.series if self._skipped.longest >= limit else None
        found = [(rank, series) for rank, series in enumerate(self.peers.gather(mine)) if series is not None]
        first_norm = min(norm for _, (norm, _) in found)
        losses = [(loss, rank) for rank, (_, loss) in found if loss is not None and loss <= first_norm]
        update, what = first_norm, "gradient norm"
        if losses:
            update, rank = min(losses)
            what = f"loss on rank {rank}"
        raise AgreedError(
            f"non-finite {what} at update {update}, and {limit} updates in a row skipped: lower --optim.lr, "
            f"clip with --optim.max_grad_norm, or check the rewards of {self.config.env.name}"
        )

    def log(self) -> None:
        """Write a row of the metrics that `poll` read, and redraw the live line. A collective."""
        seconds, shares = self.spans.drain()
        losses = {name: sum(good) / len(good) for name, values in self._metrics.items() if (good := finite(values))}
        if self._metrics:
            losses["skipped"] = self._skipped.drain()
        self._metrics = {}
        played = self.envs.episodes()
        mine = (played, self.envs.restarts) if self.layout.reports else ([], 0)
        votes = self.peers.gather((*mine, losses, self.sync.report()))
        episodes: list[Episode] = [episode for played, *_ in votes for episode in played]
        self._returns.extend(episode.ret for episode in episodes)
        steps = self.step - self._logged_step
        self._logged_step = self.step
        sps = self.layout.env_steps(steps) / seconds
        row = {
            "charts/SPS": sps,
            "charts/epsilon": self.layout.mean_epsilon(self.step),
            "charts/learning_rate": self.layout.lr(self.step),
            "charts/updates": float(self.learner.updates),
            "charts/env_restarts": float(sum(restarts for _, restarts, *_ in votes)),
        }
        if episodes:
            row["charts/episodic_return"] = sum(e.ret for e in episodes) / len(episodes)
            row["charts/episodic_length"] = sum(e.length for e in episodes) / len(episodes)
        for task, played in by_task(episodes, self.config.env.tasks, self.layout.envs_per_shard).items():
            if played:
                row[f"charts/episodic_return/{task}"] = sum(e.ret for e in played) / len(played)
                row[f"charts/episodic_length/{task}"] = sum(e.length for e in played) / len(played)
        for name in losses:
            told = [means[name] for *_, means, _ in votes if name in means]  # all, unless one had bad numbers only
            row[f"losses/{name}"] = sum(told) / len(told)
        for name in votes[0][-1]:
            row[f"sync/{name}"] = sum(numbers[name] for *_, numbers in votes) / len(votes)
        row |= {f"time/share_{name}": share for name, share in shares.items()}
        env_steps = self.layout.env_steps(self.step)
        self.logger.metrics(env_steps, row)
        left = self.layout.env_steps(self.layout.num_steps - self.step)
        known = {f"share_{name}": share for name, share in shares.items()}
        if self._returns:
            known["return"] = sum(self._returns) / len(self._returns)
        if "losses/td_loss" in row:
            known["loss"] = row["losses/td_loss"]
        known |= {"env_steps": env_steps, "sps": sps, "epsilon": row["charts/epsilon"], "eta_s": left / sps}
        self.logger.progress(known)

    def evaluate(self) -> Score:
        """Play evaluation episodes and log their score. A collective."""
        with self.spans("eval"), self.sync.agreed():
            played = self.evaluator()
        self.score = whole = score(played)
        parts = by_task(played, self.config.env.tasks, self.layout.eval_envs_per_shard)
        self.task_scores = {task: score(episodes) for task, episodes in parts.items()}
        row = {
            "eval/return_mean": whole.mean,
            "eval/return_std": whole.std,
            "eval/return_median": whole.median,
            "eval/return_iqm": whole.iqm,
            "eval/return_ci_low": whole.ci_low,
            "eval/return_ci_high": whole.ci_high,
            "eval/length_mean": whole.length,
        }
        row |= {f"eval/return_mean/{task}": part.mean for task, part in self.task_scores.items()}
        self.logger.metrics(self.layout.env_steps(self.step), row)
        return whole

    def save(self, *, last: bool = False) -> None:
        """Start writing a checkpoint of everything that has state; wait for the `last` one. A collective.

        The last one is retried until stored, or until too many in a row have failed: then AgreedError is raised.
        """
        with self.spans("save"):
            while True:
                shards = self.sharded_state(self.replay.snapshot)
                with self.sync.agreed():
                    self.write(self.step, self.replicated_state(), shards)
                if not last or self.written():
                    return
                time.sleep(RETRY_AFTER)

    def replicated_state(self) -> State:
        """Return what is equal on every rank (of the logger, rank 0's state is stored). A collective."""
        return {
            "step": self.step,
            "returns": list(self._returns),
            "learner": self.learner.state_dict(),
            "sync": self.sync.state_dict(),
            "logger": self.logger.state_dict(),
            **({"noise": self.noise.state_dict()} if self.noise else {}),
            **{name: part.state_dict() for name, part in self.weights.items()},
        }

    def sharded_state(self, replay_state: Callable[[], State] | None = None) -> dict[int, State]:
        """Return what each shard of this rank owns; what belongs to the rank itself goes with its first shard.

        replay_state: returns the replay's state; None: its `state_dict`. Of the ranks that share a replica, one returns
        it for all: they own the same.
        """
        if not self.layout.reports:
            return {}
        parts = {"envs": self.envs.state_dict(), "policy": self.policy.state_dict(), "draws": self.draws.state_dict()}
        if self.config.checkpoint.replay:
            parts["replay"] = (replay_state or self.replay.state_dict)()
        state: dict[int, State] = {}
        for i, shard in enumerate(self.layout.owned):
            state[shard] = {name: part[str(shard)] for name, part in parts.items()}
            lanes = slice(i * self.layout.envs_per_shard, (i + 1) * self.layout.envs_per_shard)
            state[shard]["timestep"] = {name: value[lanes] for name, value in self.timestep._asdict().items()}
        if own := self.sync.own_state():
            state[self.layout.owned[0]]["sync"] = {"kind": self.config.sync.kind, "ranks": self._ranks, "state": own}
        return state

    def load(self, replicated: State, shards: dict[int, State]) -> None:
        """Continue from a checkpoint; environments that cannot save their state begin new episodes."""
        self.step = self._logged_step = index(replicated["step"])
        self._returns.extend(float(value) for value in replicated["returns"])
        self.learner.load_state_dict(replicated["learner"])
        self.sync.load_state_dict(replicated["sync"])
        self.logger.load_state_dict(replicated["logger"])
        if self.noise:
            self.noise.load_state_dict(replicated["noise"])
        for name, part in self.weights.items():
            part.load_state_dict(replicated[name])
        owned = {str(shard): shards[shard] for shard in self.layout.owned}
        self._load_own(shards[self.layout.owned[0]].get("sync"))
        self.policy.load_state_dict({shard: state["policy"] for shard, state in owned.items()})
        self.draws.load_state_dict({shard: state["draws"] for shard, state in owned.items()})
        self.envs.load_state_dict({shard: state["envs"] for shard, state in owned.items()})
        stored = all("replay" in state for state in owned.values())
        if stored:
            self.replay.load_state_dict({shard: state["replay"] for shard, state in owned.items()})
        elif self.config.replay.kind == "rollout":
            self.logger.message("the checkpoint holds no replay: an unfinished rollout restarts")
        else:
            refill = -(-self.config.replay.learning_starts // self.config.env.num_envs) + 1  # one may be an autoreset
            self.replay.wait_until(self.step + refill + 1)
            self.logger.message(f"the checkpoint holds no replay: {refill} steps refill it before learning resumes")
        if self.envs.saves_state:
            saved = [state["timestep"] for state in owned.values()]
            device = self.timestep.obs.device
            self.timestep = Timestep(*(_join([part[name] for part in saved], device) for name in Timestep._fields))
        else:
            self.replay.cut()
            self.logger.message(f"{self.config.env.name} cannot save its state: its environments began new episodes")
        self.sync.report()  # what this start has sent does not belong to the current row

    def _load_own(self, saved: State | None) -> None:
        """Restore what this rank alone had, if the sync kind and the number of ranks are unchanged."""
        if saved is None:
            return
        if (saved["kind"], saved["ranks"]) == (self.config.sync.kind, self._ranks):
            self.sync.load_own_state(saved["state"])
        else:
            then = f"{saved['ranks']} ranks by {saved['kind']}"
            self.logger.message(f"the checkpoint is from {then}: all replicas continue from what those agreed on")

    @property
    def _ranks(self) -> int:
        return self.layout.world_size


def _join(parts: list[Tensor], device: torch.device) -> Tensor:
    return torch.cat(parts).to(device)
