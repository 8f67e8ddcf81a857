"""What the tables of results compare: tasks, methods, and the preset of each pair."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.presets.minatar import GAMES


@dataclass(frozen=True)
class Suite:
    """Methods on tasks; a preset is missing where a method is not run on a task."""

    title: str
    tasks: tuple[str, ...]
    methods: dict[str, dict[str, str]]  # method -> task -> preset
    reference: str | None = None  # the method whose mean return on a task counts as 1 in the aggregate

    def command(self, method: str) -> str:
        """Return what trains one seed of the method; TASK stands for a task in lower case."""
        task, preset = next(iter(self.methods[method].items()))
        several = len(self.methods[method]) > 1
        return f"lockstep train {preset.replace(task.lower(), 'TASK') if several else preset} --seed S"


def _per_game(prefix: str) -> dict[str, str]:
    return {game: f"{prefix}-{game.lower()}" for game in GAMES}


SUITES = {
    "minatar": Suite(
        "MinAtar, 1M env steps",
        GAMES,
        {
            "DQN": _per_game("minatar-dqn"),
            "Double+Dueling+PER": _per_game("minatar-ddp"),
            "Rainbow": _per_game("minatar-rainbow"),
            "PQN": _per_game("pqn-minatar"),
        },
        reference="DQN",
    ),
    "classic": Suite(
        "Classic control",
        ("CartPole", "Acrobot", "MountainCar", "LunarLander"),
        {
            "DQN": {task: task.lower() for task in ("CartPole", "Acrobot", "MountainCar", "LunarLander")},
            "PQN": {"CartPole": "pqn-cartpole"},
        },
    ),
}
