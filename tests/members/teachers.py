"""A library of what others can teach: a trained run of each toy, and a file of demonstrations next to it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

from running import build, close, go

from trainer.__main__ import main
from trainer.commands.common import write_json
from trainer.runtime.ranks import Ranks

TOYS = ("toy/Catch", "toy/Chain")
LESSON = ("--total_env_steps", "8000", "--replay.n_step", "3", "--checkpoint.replay", "False", "--shards", "1")


def make_library(folder: Path, ranks: Ranks, toys: Sequence[str] = TOYS) -> Path:
    """Train an agent for each toy to the optimum and let it play; needs a process group of one."""
    for env in toys:
        run_dir = _run_of(env, folder)
        run = go(build(("debug", "--env.id", env, *LESSON), run_dir, ranks))
        assert run.evaluate().mean == 1.0, f"the teacher of {env} is none"
        write_json(run_dir / "config.json", run.config.to_dict())
        close(run)
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(["demos", str(run_dir), "--episodes", "20"]) == 0
    return folder


def fill(arguments: Sequence[str], library: Path) -> tuple[str, ...]:
    """Replace {run} and {demos} in the arguments of a run by those of its environment."""
    env = arguments[arguments.index("--env.id") + 1] if "--env.id" in arguments else TOYS[0]
    run = _run_of(env, library)
    return tuple(word.replace("{run}", str(run)).replace("{demos}", f"{run}/demos.safetensors") for word in arguments)


def _run_of(env: str, folder: Path) -> Path:
    return folder / env.replace("/", "-")
