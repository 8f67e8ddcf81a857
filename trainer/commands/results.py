"""What a finished run leaves behind for its user: results.json, the learning curve, a GIF of the trained agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.atari_scores import game_of, human_normalized
from trainer.commands.common import leave_json
from trainer.config import Config


def leave_results(stated: Config, run_dir: Path, results: dict[str, Any]) -> None:
    """Write the results of a finished run into its folder and print its path."""
    game = None if stated.env.tasks else game_of(stated.env.id)
    if game is not None and "evaluation" in results:
        results = results | {"human_normalized_mean": human_normalized(game, results["evaluation"]["mean"])}
    leave_json(run_dir / "results.json", results)
    rate = results["env_steps_per_second"]
    print(f"trained {results['env_steps']:,} env steps in {results['seconds']:.1f} s ({rate:,.0f} env steps/s)")
    if "evaluation" in results:
        e = results["evaluation"]
        print(
            f"greedy evaluation, {e['episodes']} episodes: mean {e['mean']:.2f}, median {e['median']:.2f}, "
            f"IQM {e['iqm']:.2f} [{e['ci_low']:.2f}, {e['ci_high']:.2f}]"
        )
    for task, found in results.get("tasks", {}).items():
        print(f"  {task}, {found['episodes']} episodes: mean {found['mean']:.2f}, IQM {found['iqm']:.2f}")
    if "human_normalized_mean" in results:
        print(f"human-normalised mean: {results['human_normalized_mean']:.3f} (0 random, 1 human)")
    if stated.log.plot:
        _try("learning curve", lambda: _plot(stated, run_dir))
    if stated.log.video:
        _try("video", lambda: _video(stated, run_dir))
    print(f"run folder: {run_dir}")


def _plot(stated: Config, run_dir: Path) -> Path:
    from trainer.log.plot import learning_curve

    path = run_dir / "learning_curve.png"
    learning_curve([run_dir], path, title=f"{stated.env.name}, seed {stated.seed}")
    return path


def _video(stated: Config, run_dir: Path) -> str:
    from trainer.commands.record import record_all

    return record_all(run_dir, run_dir / "agent.gif", stated)


def _try(what: str, make: Any) -> None:
    """Pictures are extra: a missing package or screen must not turn a finished run into a failed one."""
    try:
        print(f"{what}: {make()}")
    except Exception as error:
        print(f"no {what}: {error}")
