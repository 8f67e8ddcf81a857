"""`lockstep evaluate`: play whole episodes with a trained agent, alone or spread over the ranks of torchrun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from trainer.atari_scores import game_of, human_normalized
from trainer.build import EVAL_ENVS, EVAL_SETS, inspect_env, play_episodes, threads
from trainer.build.trained import find_checkpoint, load_net, read_run
from trainer.cli import parse_options
from trainer.commands.common import fail, write_json
from trainer.commands.record import record_all
from trainer.config import Config, ConfigError
from trainer.evaluate import Score, by_task, score
from trainer.layout import Layout
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import choose_device, process_group
from trainer.types import Episode

VIDEO_IN_RUN = "agent.gif"
DEFAULT_EPISODES = 100


@dataclass(frozen=True)
class Options:
    """Play episodes with a trained agent and describe their returns; under torchrun every rank plays its share."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, as printed at the start of the run."""
    episodes: int | None = None
    """Episodes over all ranks [count]. Default: as in the run's own evaluations."""
    num_envs: int | None = None
    """Environments that play them, over all ranks [count]. Default: as in the run."""
    epsilon: float | None = None
    """Exploration [0-1]. Default: as in the run."""
    seed: int = 0
    """Which set of evaluation environments; 0: that of the run's own evaluations. None is ever trained on."""
    checkpoint: int | None = None
    """Step of a checkpoint, as in the name of its folder. Default: the newest good one."""
    video: Path | None = None
    """Record an episode (of each task) as this .gif; without a path, as agent.gif in the run folder."""
    json: Path | None = None
    """Write score, returns and lengths to this file."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: CUDA where every rank has a GPU."""


def command(rest: list[str]) -> int:
    """Run `lockstep evaluate` as this rank."""
    options = parse_options(Options, _with_video_path(rest), "evaluate")
    config = _stated(options, read_run(options.run))
    launch = Launch.read()
    if options.device == "cuda" and not torch.cuda.device_count():
        raise ConfigError("device", "cuda", "no CUDA device is visible", "use --device cpu")
    found = find_checkpoint(options.run, options.checkpoint) if launch.rank == 0 else None
    spec = inspect_env(config)
    device = choose_device(options.device, launch)
    assert config.shards is not None
    tasks = len(config.env.tasks) or 1
    shards = config.shards if config.shards % launch.world_size == 0 else launch.world_size * tasks
    layout = Layout(config, shards, launch.world_size, launch.rank)
    if layout.eval_envs_per_shard * shards > EVAL_ENVS:
        problem = f"a set of evaluation environments has {EVAL_ENVS}"
        raise ConfigError("num_envs", config.eval.num_envs, problem, "use fewer")
    torch.set_num_threads(threads(config, spec, launch))
    with process_group(device, launch, config.runtime.timeout) as ranks:
        try:
            found = ranks.gather(found)[0]
            assert found is not None
            net = load_net(config, spec, found, device)
            played = play_episodes(config, layout, spec, net, device, eval_set=options.seed)
            parts = ranks.gather(played, patient=True)
        except BaseException as error:  # including KeyboardInterrupt: the peers must end as well
            return fail(error, ranks)
    if launch.rank == 0:
        # by environment: the same order on any number of ranks
        by_env: list[Episode] = sorted((e for part in parts for e in part), key=lambda episode: episode.env)
        _tell(options, layout, by_env, found.step)
    return 0


def _with_video_path(arguments: Sequence[str]) -> list[str]:
    """Insert the default name after `--video` if no .gif follows it."""
    rest = list(arguments)
    if "--video" in rest:
        after = rest.index("--video") + 1
        if not (after < len(rest) and rest[after].endswith(".gif")):
            rest.insert(after, VIDEO_IN_RUN)
    return rest


def _stated(options: Options, config: Config) -> Config:
    """Return the run's config with the requested evaluation. Raises ConfigError for numbers out of range."""
    limits = {"episodes": (1, None), "num_envs": (1, None), "epsilon": (0, 1), "seed": (0, EVAL_SETS - 1)}
    for name, (low, high) in limits.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= (float("inf") if high is None else high):
            remedy = f"use {low} or more" if high is None else f"choose a value in [{low}, {high}]"
            raise ConfigError(name, value, "out of range", remedy)
    if options.video is not None and options.video.suffix != ".gif":
        raise ConfigError("video", options.video, "not a .gif", "give a path that ends in .gif, or none")
    if options.json is not None and not options.json.parent.is_dir():
        raise ConfigError("json", options.json, f"there is no folder {options.json.parent}", "make it, or name another")
    given = {n: getattr(options, n) for n in ("episodes", "num_envs", "epsilon") if getattr(options, n) is not None}
    episodes = given.pop("episodes", config.eval.episodes) or DEFAULT_EPISODES
    if episodes < len(config.env.tasks):
        problem = f"fewer than the {len(config.env.tasks)} tasks"
        raise ConfigError("episodes", episodes, problem, f"use {len(config.env.tasks)} or more")
    return replace(config, eval=replace(config.eval, episodes=episodes, **given))


def _tell(options: Options, layout: Layout, played: Sequence[Episode], step: int) -> None:
    config, env_steps = layout.config, layout.env_steps(step)
    parts = by_task(played, config.env.tasks, layout.eval_envs_per_shard) or {config.env.id: list(played)}
    console = Console(highlight=False)
    console.print(f"{options.run}", markup=False, soft_wrap=True)
    console.print(
        f"{config.env.name} after {env_steps:,} env steps (checkpoint {step}): {len(played)} episodes in "
        f"{config.eval.num_envs} environments of set {options.seed}, epsilon {config.eval.epsilon:g}",
        markup=False,
        soft_wrap=True,
    )
    for env_id, mine in parts.items():
        if config.env.tasks:
            console.print(env_id, markup=False, soft_wrap=True)
        console.print(table(score(mine), mine, game_of(env_id)))
    if options.json is not None:
        about: dict[str, Any] = {"env": config.env.name, "checkpoint": step, "env_steps": env_steps}
        about |= {"num_envs": config.eval.num_envs, "epsilon": config.eval.epsilon, "seed": options.seed}
        if config.env.tasks:
            about["tasks"] = {env_id: numbers(env_id, mine) for env_id, mine in parts.items()}
        write_json(options.json, about | numbers(None if config.env.tasks else config.env.id, played))
        print(f"json: {options.json}")
    if options.video is not None:
        path = options.run / VIDEO_IN_RUN if options.video == Path(VIDEO_IN_RUN) else options.video
        print(f"video: {record_all(options.run, path, config, seed=options.seed, step=options.checkpoint)}")


def table(result: Score, played: Sequence[Episode], game: str | None) -> Table:
    """Lay out statistics of returns and lengths, [statistic, column]; game: one of Atari's 57, or None."""
    returns = np.array([episode.ret for episode in played])
    lengths = np.array([episode.length for episode in played])
    rows: list[tuple[str, list[float], list[float]]] = [
        ("mean", [result.mean], [lengths.mean()]),
        ("std", [result.std], [lengths.std()]),
        ("median", [result.median], [float(np.median(lengths))]),
        ("IQM", [result.iqm], []),
        ("95% interval", [result.ci_low, result.ci_high], []),
        ("min", [returns.min()], [lengths.min()]),
        ("max", [returns.max()], [lengths.max()]),
    ]
    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    made.add_column(f"{result.episodes} episodes", style="bold")
    for name in ("return", *(["human-normalised"] if game else []), "length"):
        made.add_column(name, justify="right")
    for name, values, length in rows:
        cells = [_cell(values, 2), _cell(length, 1)]
        if game is not None:
            shown = values if name in ("mean", "median", "IQM", "95% interval") else []
            cells.insert(1, _cell([human_normalized(game, value) for value in shown], 3))
        made.add_row(name, *cells, style="green" if name == "IQM" else None)
    return made


def _cell(values: Sequence[float], digits: int) -> str:
    return " to ".join(f"{value:,.{digits}f}" for value in values)


def numbers(env_id: str | None, played: Sequence[Episode]) -> dict[str, Any]:
    """Return statistics and the returns behind them; env_id: their environment, if it is a single one."""
    returns = [episode.ret for episode in played]
    facts: dict[str, Any] = {
        **score(played)._asdict(),
        "min": min(returns),
        "max": max(returns),
        "returns": returns,
        "lengths": [episode.length for episode in played],
    }
    game = None if env_id is None else game_of(env_id)
    if game is not None:
        for name in ("mean", "median", "iqm"):
            facts[f"human_normalized_{name}"] = human_normalized(game, facts[name])
    return facts
