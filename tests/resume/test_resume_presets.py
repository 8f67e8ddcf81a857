"""Every preset, at the size of `debug`, and every deterministic sync strategy: resumed bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import resume_world
from launching import run
from teachers import make_library

from trainer.config import Config
from trainer.presets import PRESETS
from trainer.runtime.ranks import Ranks

GAMES = ("asterix", "freeway", "seaquest", "spaceinvaders")
FAMILIES = [name for name in PRESETS if not name.endswith(GAMES)]
"""Presets that differ in more than the game."""

STRATEGIES: dict[str, tuple[str, ...]] = {
    "ddp": ("--sync.kind", "ddp"),
    "zero1": ("--sync.kind", "zero1"),
    "overlap": ("--sync.kind", "overlap"),
    "local_sgd": ("--sync.kind", "local_sgd", "--sync.period", "7", "--sync.local_after", "5"),
    "gossip, exponential": ("--sync.kind", "gossip"),
    "server": ("--sync.kind", "server", "--sync.servers", "2"),
    "int8": ("--sync.compress", "int8"),
    "topk": ("--sync.compress", "topk", "--sync.compress_share", "0.05"),
    "powersgd": ("--sync.compress", "powersgd", "--sync.compress_rank", "2"),
    "levels": ("--optim.levels", "head=rmsprop,lr=0.5,every=3"),
    "noise scale": ("--sync.noise_scale", "True"),
    "stages": ("--sync.stages", "2", "--shards", "2"),
    "over sockets": ("--sync.shared_memory", "False"),
}
DEBUG = ("--shards", "4", "--total_env_steps", "640", "--replay.learning_starts", "100", "--log.every", "100")


INSTEAD = {"LunarLander-v3": "Acrobot-v1", "trainer.envs.partial:CartPoleNoVelocity-v1": "CartPole-v1"}
"""Stand-ins for environments that cannot be saved, whose runs begin new episodes; MinAtar's, for Atari's."""


def small(config: Config) -> Config:
    """Return a preset with all its parts, at the size of `debug`."""
    tasks = len(config.env.tasks)
    envs = 4 * tasks or 8
    env = replace(config.env, num_envs=envs, id=INSTEAD.get(config.env.id, config.env.id))
    if env.id.startswith("ALE/"):
        env = replace(env, id="MinAtar/Breakout-v0", sticky=None, noop_max=0, fire_reset=False, life_loss=False)
    replay = replace(
        config.replay,
        **{"capacity": 800, "batch_size": 4 * tasks or 16, "learning_starts": 160, "update_every": 16, "burst": 1},
        **{"length": 8, "burn_in": min(config.replay.burn_in, 4), "stride": 4, "rollout": 8},
    )
    net, loss = config.net, config.loss
    net = replace(
        net,
        **{"torso": "auto" if net.torso == "nature" else net.torso, "width": 1, "pool": min(net.pool, 2)},
        **{"hidden": tuple(16 for _ in net.hidden), "head_hidden": tuple(16 for _ in net.head_hidden)},
        **{"lstm": min(net.lstm, 8), "quantiles": 5, "cosines": 8, "acting_fractions": 4},
    )
    demos = replace(config.demos, pretrain=min(config.demos.pretrain, 20))
    if demos.path:
        env = replace(env, id="toy/Catch")
    return replace(
        config,
        shards=envs if tasks else 4,
        total_env_steps=2 * resume_world.HALF * envs,
        env=env,
        replay=replay,
        net=net,
        loss=replace(loss, fractions=4, target_fractions=4),
        demos=demos,
        pixels=replace(config.pixels, shift=min(config.pixels.shift, 1), spr_steps=2),
        target=replace(config.target, every=min(config.target.every, 100)),
        log=replace(config.log, every=200, video=False),
        eval=replace(config.eval, episodes=0),
    )


@pytest.fixture(scope="module")
def library(alone: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_library(tmp_path_factory.mktemp("library"), alone, ("toy/Catch",))


Told = Callable[..., dict[str, str]]


@pytest.fixture
def told(tmp_path: Path) -> Told:
    """What differed, case by case, on `ranks` ranks; all cases in one launch."""

    def tell(ranks: int, cases: dict[str, tuple[str, ...]], library: Path = Path()) -> dict[str, str]:
        (tmp_path / "cases.json").write_text(json.dumps(cases))
        out = tmp_path / "told.json"
        arguments = [resume_world.__file__, str(out), str(tmp_path / "cases.json"), str(library)]
        run(arguments, tmp_path, ranks=ranks, deadline=900)
        found: dict[str, str] = json.loads(out.read_text())
        assert found.keys() == cases.keys()
        return {name: said for name, said in found.items() if said}

    return tell


@pytest.mark.slow
@pytest.mark.timeout(960)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_presets(ranks: int, told: Told, library: Path, tmp_path: Path) -> None:
    cases = {}
    for name in PRESETS if ranks == 1 else FAMILIES:
        config = small(PRESETS[name]())
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(config.to_dict()))
        cases[name] = (str(path), *(("--demos.path", "{demos}") if config.demos.path else ()))
    assert not told(ranks, cases, library)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_strategies(ranks: int, told: Told) -> None:
    cases = {name: ("debug", *DEBUG, *flags) for name, flags in STRATEGIES.items()}
    assert not told(ranks, cases)
