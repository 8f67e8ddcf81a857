"""Vector environments behind one send/recv interface: Gymnasium, ALE, MinAtar, toys. Knows no ranks and no config."""

from trainer.envs.base import Backend, EnvSpec
from trainer.envs.make import env_spec, make_backend
from trainer.envs.padded import Padded, join_specs
from trainer.envs.restarts import EnvError, Restarts
from trainer.envs.sharded import ShardedEnvs
from trainer.envs.toy import CATCH_OPTIMAL_RETURN, CHAIN_OPTIMAL_RETURN, MEMORY_OPTIMAL_RETURN

__all__ = [
    "CATCH_OPTIMAL_RETURN",
    "CHAIN_OPTIMAL_RETURN",
    "MEMORY_OPTIMAL_RETURN",
    "Backend",
    "EnvError",
    "EnvSpec",
    "Padded",
    "Restarts",
    "ShardedEnvs",
    "env_spec",
    "join_specs",
    "make_backend",
]
