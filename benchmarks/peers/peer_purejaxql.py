"""purejaxql's PQN on MinAtar, the authors' own script, on all cores. Not a package: `source` is a checkout of it."""

from __future__ import annotations

import sys
import time
from importlib import metadata
from typing import Any

import jax
from answering import peak_mb, serve

SETTINGS = {
    "NUM_ENVS": 128,
    "NUM_STEPS": 32,
    "NUM_MINIBATCHES": 32,
    "NUM_EPOCHS": 2,
    "NORM_TYPE": "layer_norm",
    "EPS_START": 1.0,
    "EPS_FINISH": 0.05,
    "EPS_DECAY": 0.1,
    "LR": 5e-4,
    "LR_LINEAR_DECAY": True,
    "MAX_GRAD_NORM": 10,
    "GAMMA": 0.99,
    "LAMBDA": 0.65,
    "WANDB_MODE": "disabled",
}
"""Those of its pqn_minatar.yaml, without its tests during training."""
_programs: dict[tuple[str, int], Any] = {}


def train(source: str, game: str, env_steps: int, seed: int) -> dict[str, Any]:
    """Train from scratch for `env_steps` env steps; the program is compiled before the clock starts."""
    if source not in sys.path:
        sys.path.insert(0, source)
    from purejaxql.pqn_minatar import make_train

    rounds = max(1, env_steps // (SETTINGS["NUM_ENVS"] * SETTINGS["NUM_STEPS"]))
    steps = rounds * SETTINGS["NUM_ENVS"] * SETTINGS["NUM_STEPS"]
    if (game, steps) not in _programs:
        config = SETTINGS | {"ENV_NAME": f"{game}-MinAtar", "TOTAL_TIMESTEPS": steps, "TOTAL_TIMESTEPS_DECAY": steps}
        _programs[game, steps] = jax.jit(make_train(config)).lower(jax.random.PRNGKey(seed)).compile()
    began = time.perf_counter()
    jax.block_until_ready(_programs[game, steps](jax.random.PRNGKey(seed)))
    return {"env_steps": steps, "seconds": time.perf_counter() - began, "peak_mb": peak_mb()}


def versions() -> dict[str, Any]:
    return {name: metadata.version(name) for name in ("jax", "flax", "gymnax", "optax", "numpy")}


if __name__ == "__main__":
    serve({"versions": versions, "train": train}, core=None)
