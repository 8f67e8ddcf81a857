"""The composition root: Config -> Run. The only folder that names concrete classes; nothing but commands imports it."""

from trainer.build.checks import check_device, check_environment, check_nodes
from trainer.build.envs import EVAL_ENVS, EVAL_SETS, build_envs, inspect_env
from trainer.build.evaluation import build_eval_policy, play_episodes
from trainer.build.nets import build_net, threads, torso_kind
from trainer.build.replay import build_replay, check_memory
from trainer.build.run import build_run
from trainer.build.sync import build_sync

__all__ = [
    "EVAL_ENVS",
    "EVAL_SETS",
    "build_envs",
    "build_eval_policy",
    "build_net",
    "build_replay",
    "build_run",
    "build_sync",
    "check_device",
    "check_environment",
    "check_memory",
    "check_nodes",
    "inspect_env",
    "play_episodes",
    "threads",
    "torso_kind",
]
