"""`lockstep export`: the network of a run as a file for other programs."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from trainer.build import inspect_env, torso_kind
from trainer.build.trained import find_checkpoint, load_net, read_run
from trainer.cli import parse_options
from trainer.config import Config, ConfigError
from trainer.envs import EnvSpec
from trainer.export import SUFFIXES, ExportError, export, random_batches
from trainer.nets import TaskHead, use_bfloat16
from trainer.runtime.failure import EXIT_FAILED


@dataclass(frozen=True)
class Options:
    """Write the Q-network of a run to a file: raw observations [B, *] in, action values [B, A] out."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, as printed at the start of the run."""
    format: Literal["safetensors", "torchscript", "onnx"]
    """Weights alone, or weights and computation for torch.jit.load or an ONNX runtime."""
    out: Path | None = None
    """File to write. Default: agent.safetensors, agent.pt or agent.onnx in the run folder."""
    checkpoint: int | None = None
    """Step of a checkpoint, as in the name of its folder. Default: the newest good one."""
    task: str | None = None
    """Which environment, if the run learned several."""


def command(rest: list[str]) -> int:
    """Run `lockstep export`."""
    options = parse_options(Options, rest, "export")
    config = read_run(options.run)
    out = options.out or options.run / f"agent{SUFFIXES[options.format]}"
    if not out.parent.is_dir() or out.is_dir():
        raise ConfigError("out", out, "not a file in a folder that exists", "make the folder, or name another file")
    tasks = config.env.tasks
    if options.task not in (tasks or (None,)):
        problem = "not one of those that the run learned" if tasks else "the run learned one environment"
        remedy = f"use --task {' or '.join(tasks)}" if tasks else "omit it"
        raise ConfigError("task", options.task, problem, remedy)
    if config.net.lstm and options.format != "safetensors":
        problem = f"a recurrent network (--net.lstm {config.net.lstm}) is not a function of one observation"
        raise ConfigError("format", options.format, problem, "use --format safetensors, which holds the weights")
    found = find_checkpoint(options.run, options.checkpoint)
    spec = inspect_env(config)
    net = load_net(config, spec, found, torch.device("cpu"))
    use_bfloat16(net, False)  # its weights are float32
    if options.task is not None:
        assert isinstance(net.head, TaskHead)
        net.head.only = tasks.index(options.task)
        config = replace(config, env=replace(config.env, id=options.task, tasks=()))  # what the file is for
    about = describe(config, spec, found.step)
    try:
        error = export(options.format, net, random_batches(spec.obs_shape, spec.obs_dtype), out, about)
    except ExportError as problem:
        print(f"lockstep: {options.format} of {found.folder}: {problem}; nothing was written", file=sys.stderr)
        return EXIT_FAILED
    print(f"{options.format}: {out} ({out.stat().st_size:,} bytes)")
    print(f"obs {about['obs_dtype']} [B, {', '.join(map(str, spec.obs_shape))}] -> q [B, {spec.num_actions}]")
    print(f"largest difference from the eager network on random observations: {error:.1e}")
    return 0


def describe(config: Config, spec: EnvSpec, step: int) -> dict[str, str]:
    """Return what a reader of the file needs to build and feed the network; JSON for what is not text."""
    return {
        "env": config.env.id,
        "obs_shape": json.dumps(spec.obs_shape),
        "obs_dtype": str(spec.obs_dtype).removeprefix("torch."),
        "num_actions": str(spec.num_actions),
        "torso": torso_kind(config, spec),
        "hidden": json.dumps(config.net.hidden),
        "dueling": json.dumps(config.net.dueling),
        "lstm": str(config.net.lstm),
        "env_steps": str(step * config.env.num_envs),
        "lockstep": importlib.metadata.version("lockstep"),
    }
