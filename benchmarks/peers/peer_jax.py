"""DQN as one jitted JAX program, environment included, in the style of PureJaxRL (Lu et al. 2022): a reference.

PureJaxRL is not a package, so this is written from its idea: gymnax's CartPole, the memory in device arrays, and
acting, storing, sampling and learning in one `lax.scan`. Runs in its own environment: nothing of ours is imported.
"""

from __future__ import annotations

import os

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import itertools
from functools import partial
from importlib import metadata
from typing import Any, NamedTuple

import gymnax
import jax
import jax.numpy as jnp
import optax
from answering import cadence, serve, trainer

CAPACITY, BATCH, STARTS, TARGET_EVERY = 10_000, 128, 10_000, 500
CHUNK = 4_000  # env steps


class State(NamedTuple):
    weights: Any
    target: Any
    moments: Any
    memory: Any  # name -> [CAPACITY, ...]
    env: Any
    obs: Any
    env_steps: Any
    episode: Any  # return of the running episode of each environment
    key: Any


def init(key: Any, sizes: tuple[int, ...]) -> list[tuple[Any, Any]]:
    """Return weights and biases, drawn as torch does."""
    layers = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        key, one, two = jax.random.split(key, 3)
        bound = fan_in**-0.5
        weight = jax.random.uniform(one, (fan_in, fan_out), minval=-bound, maxval=bound)
        layers.append((weight, jax.random.uniform(two, (fan_out,), minval=-bound, maxval=bound)))
    return layers


def forward(layers: Any, x: Any) -> Any:
    for weight, bias in layers[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias


class Training:
    def __init__(self, work: str, envs: int, epsilon: float, seed: int) -> None:
        assert work == "cartpole"
        self.env, self.params = gymnax.make("CartPole-v1")
        self.envs, self.epsilon, self.cycle = envs, epsilon, cadence(envs, 10)
        self.optimizer = optax.adam(2.5e-4)
        weights = init(jax.random.key(seed), (4, 120, 84, 2))
        obs, env = jax.vmap(self.env.reset, (0, None))(jax.random.split(jax.random.key(seed + 1000), envs), self.params)
        rows = {"obs": (4,), "next_obs": (4,), "action": (), "reward": (), "done": ()}
        memory = {
            name: jnp.zeros((CAPACITY, *shape), jnp.int32 if name == "action" else jnp.float32)
            for name, shape in rows.items()
        }
        self.state = State(
            weights,
            jax.tree.map(jnp.copy, weights),
            self.optimizer.init(weights),
            memory,
            env,
            obs,
            0,
            jnp.zeros(envs),
            jax.random.key(seed + 2000),
        )
        self.env_steps, self.updates = 0, 0
        self.returns: list[float] = []
        self.cycles = max(1, CHUNK // (self.cycle.steps * envs))
        while self.env_steps < STARTS:
            self._go(learn=False)

    def advance(self) -> None:
        self._go(learn=True)
        self.updates += self.cycles * self.cycle.updates

    def close(self) -> None:
        pass

    def _go(self, learn: bool) -> None:
        self.state, (done, returns) = self._run(self.state, learn)
        self.env_steps = int(self.state.env_steps)
        self.returns += returns.ravel()[done.ravel()].tolist()

    @partial(jax.jit, static_argnums=(0, 2), donate_argnums=1)
    def _run(self, state: State, learn: bool) -> Any:
        def cycle(state: State, _: Any) -> Any:
            before = state.env_steps
            state, ended = jax.lax.scan(self._step, state, length=self.cycle.steps)
            if learn:
                state = jax.lax.fori_loop(0, self.cycle.updates, self._learn, state)
                due = state.env_steps // TARGET_EVERY > before // TARGET_EVERY
                target = jax.tree.map(lambda new, old: jnp.where(due, new, old), state.weights, state.target)
                state = state._replace(target=target)
            return state, ended

        return jax.lax.scan(cycle, state, length=self.cycles)

    def _step(self, state: State, _: Any) -> Any:
        key, explore, random, act = jax.random.split(state.key, 4)
        greedy = forward(state.weights, state.obs).argmax(-1)
        chance = jax.random.uniform(explore, (self.envs,)) < self.epsilon
        action = jnp.where(chance, jax.random.randint(random, (self.envs,), 0, 2), greedy)
        stepped = jax.vmap(self.env.step, (0, 0, 0, None))(
            jax.random.split(act, self.envs), state.env, action, self.params
        )
        obs, env, reward, done = stepped[0], stepped[1], stepped[2], stepped[3] | stepped[4]
        last = stepped[5]["final_observation"]  # `obs` is already that of the next episode
        row = {"obs": state.obs, "next_obs": last, "action": action, "reward": reward, "done": stepped[3]}
        places = (state.env_steps + jnp.arange(self.envs)) % CAPACITY
        memory = {name: held.at[places].set(row[name].astype(held.dtype)) for name, held in state.memory.items()}
        episode = state.episode + reward
        state = state._replace(
            memory=memory,
            env=env,
            obs=obs,
            env_steps=state.env_steps + self.envs,
            episode=jnp.where(done, 0.0, episode),
            key=key,
        )
        return state, (done, episode)

    def _learn(self, _: Any, state: State) -> State:
        key, draw = jax.random.split(state.key)
        places = jax.random.randint(draw, (BATCH,), 0, CAPACITY)
        batch = {name: held[places] for name, held in state.memory.items()}
        best = forward(state.target, batch["next_obs"]).max(-1)
        goal = batch["reward"] + 0.99 * (1 - batch["done"]) * best

        def loss(weights: Any) -> Any:
            q = jnp.take_along_axis(forward(weights, batch["obs"]), batch["action"][:, None], 1)[:, 0]
            return jnp.mean((q - goal) ** 2)

        change, moments = self.optimizer.update(jax.grad(loss)(state.weights), state.moments)
        return state._replace(weights=optax.apply_updates(state.weights, change), moments=moments, key=key)


def versions() -> dict[str, Any]:
    return {name: metadata.version(name) for name in ("jax", "gymnax", "optax", "numpy")}


if __name__ == "__main__":
    serve({"versions": versions} | trainer(Training))
