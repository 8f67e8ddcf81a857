"""Parts of a config that make no sense together, each refused with reason and remedy. Never imports torch."""

from __future__ import annotations

from trainer.config import Config, ConfigError


def check_combinations(config: Config) -> None:
    """Raise ConfigError for the first combination that cannot work."""
    _check_rollout(config)


def _check_rollout(config: Config) -> None:
    if config.replay.kind == "rollout" and config.replay.n_step != 1:
        problem = "a rollout's returns are Q(lambda)"
        raise ConfigError("replay.n_step", config.replay.n_step, problem, "use --replay.n_step 1 and --replay.trace")
