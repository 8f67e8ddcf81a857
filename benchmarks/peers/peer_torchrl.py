"""TorchRL answering the benchmarks' requests. Runs in its own environment: nothing of ours is imported.

Collector, memory, loss and target updater are put together as its own DQN example does, without logs and evaluation.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import torch
from answering import cadence, serve, trainer
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import ExplorationType, RewardSum, SerialEnv, TransformedEnv, set_exploration_type
from torchrl.envs.libs.gym import GymEnv
from torchrl.modules import MLP, EGreedyModule, QValueActor
from torchrl.objectives import DQNLoss, HardUpdate

CHUNK = 20  # updates


class Training:
    def __init__(self, work: str, envs: int, epsilon: float, seed: int) -> None:
        assert work == "cartpole"
        torch.manual_seed(seed)
        # there, Gymnasium's vector environments are processes, and 64 of them take minutes to start on one core
        many = GymEnv("CartPole-v1") if envs == 1 else SerialEnv(envs, lambda: GymEnv("CartPole-v1"))
        env = TransformedEnv(many, RewardSum())
        spec = env.full_action_spec_unbatched["action"]
        net = MLP(in_features=4, out_features=2, num_cells=[120, 84], activation_class=nn.ReLU)
        actor = QValueActor(net, in_keys=["observation"], spec=spec)
        explorer = EGreedyModule(spec, eps_init=epsilon, eps_end=epsilon, annealing_num_steps=1)
        self.cycle = cadence(envs, 10)
        self.collector: Any = Collector(
            env,
            TensorDictSequential(actor, explorer),
            frames_per_batch=self.cycle.steps * envs,
            total_frames=-1,
            device="cpu",
            exploration_type=ExplorationType.RANDOM,
        )
        self.memory = TensorDictReplayBuffer(storage=LazyTensorStorage(10_000), batch_size=128)
        self.loss = DQNLoss(actor, loss_function="l2", delay_value=True)
        self.loss.make_value_estimator(gamma=0.99)
        self.target = HardUpdate(self.loss, value_network_update_interval=50)
        self.optimizer = torch.optim.Adam(self.loss.parameters(), lr=2.5e-4)
        self.env_steps, self.updates = 0, 0
        self.returns: list[float] = []
        self._batches = iter(self.collector)
        with set_exploration_type(ExplorationType.RANDOM):
            while self.env_steps < 10_000:
                self._collect()

    def advance(self) -> None:
        with set_exploration_type(ExplorationType.RANDOM):
            for _ in range(-(-CHUNK // self.cycle.updates)):
                self._collect()
                for _ in range(self.cycle.updates):
                    out = self.loss(self.memory.sample())
                    self.optimizer.zero_grad()
                    out["loss"].backward()
                    self.optimizer.step()
                    self.target.step()
                self.updates += self.cycle.updates

    def close(self) -> None:
        self.collector.shutdown()

    def _collect(self) -> None:
        data = next(self._batches).reshape(-1)
        self.env_steps += data.numel()
        self.memory.extend(data)
        done = data["next", "done"].flatten()
        self.returns += data["next", "episode_reward"].flatten()[done].tolist()


def versions() -> dict[str, Any]:
    return {name: metadata.version(name) for name in ("torchrl", "tensordict", "torch", "gymnasium", "numpy")}


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve({"versions": versions} | trainer(Training))
