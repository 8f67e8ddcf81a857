"""`lockstep train`: check everything, bring the ranks up, train, evaluate, leave the results in the run folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from trainer import checkpoint
from trainer.build import build_run, check_device, check_environment, check_memory, check_nodes, inspect_env
from trainer.checkpoint.errors import one_line
from trainer.cli import Request, flatten
from trainer.commands.check import check
from trainer.commands.common import fail, leave_json, tell, write_json
from trainer.config import Config, ConfigError
from trainer.envs import EnvSpec
from trainer.layout import Layout
from trainer.run import AgreedError, Run
from trainer.runtime.blackbox import Box, next_life
from trainer.runtime.faults import Faults
from trainer.runtime.garbage import rarely_collected
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, choose_device, process_group
from trainer.runtime.roll_call import code_version
from trainer.runtime.spans import Spans
from trainer.runtime.spawn import spawn
from trainer.runtime.watch import Place, Watch, whereabouts
from trainer.train import train


def command(request: Request, arguments: Sequence[str]) -> int:
    """Run `lockstep train` as this rank, or start the ranks of this machine and wait for them."""
    launch = Launch.read()
    if not launch.by_torchrun:
        wanted = request.ranks or (torch.cuda.device_count() if request.config.runtime.device != "cpu" else 1)
        if wanted > 1:
            stated, _, _ = _check(request, replace(launch, world_size=wanted, local_world_size=wanted))
            _check_folder(stated, request.resume, request.auto)
            return spawn(wanted, "trainer", ["train", *arguments])
    elif request.ranks not in (None, launch.world_size):
        raise ValueError(f"--ranks {request.ranks}: torchrun started {launch.world_size}; omit --ranks")
    return _as_rank(request, launch)


def _check(request: Request, launch: Launch) -> tuple[Config, Layout, EnvSpec]:
    """Return the stated config, this rank's layout and the environment. Raises ConfigError or ValueError."""
    stated, config = check(request.config, launch.world_size)
    assert stated.shards is not None
    device = choose_device(config.runtime.device, launch)
    check_device(config, device)
    check_nodes(config, launch)
    spec = inspect_env(config)
    check_environment(config, spec)
    layout = Layout(config, stated.shards, launch.world_size, launch.rank, stages=config.sync.stages)
    check_memory(config, layout, spec, device, launch)
    return stated, layout, spec


def _check_folder(stated: Config, resume: Path | None, auto: bool) -> None:
    folder = Path(stated.log.dir) / stated.log.name
    if resume is None and not auto and stated.log.name and (folder / "config.json").exists():
        problem = f"{folder} already holds a run"
        raise ConfigError("log.name", stated.log.name, problem, f"continue it with --resume {folder}, or rename")
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    if not os.access(parent, os.W_OK) or not parent.is_dir():
        raise ConfigError("log.dir", stated.log.dir, f"cannot write to {parent}", "choose another folder")


def _as_rank(request: Request, launch: Launch) -> int:
    stated, layout, spec = _check(request, launch)
    Faults.read(launch.rank).passes("start")
    found: checkpoint.Manifest | None = None
    if launch.rank == 0:
        _check_folder(stated, request.resume, request.auto)
        if request.resume is not None:
            try:
                found = checkpoint.latest(request.resume / "checkpoints", warn=tell)
            except checkpoint.CheckpointError as error:
                raise ValueError(f"--resume {request.resume}: {error}") from None
            if found is None and not request.auto:
                raise ValueError(f"--resume {request.resume}: it holds no checkpoint; start a new run")
    device = choose_device(stated.runtime.device, launch)
    run_dir: Path | None = None
    facts = _facts(stated, spec)
    with process_group(device, launch, stated.runtime.timeout, facts) as ranks:
        try:
            run_dir = request.resume or _folder(stated)
            run_dir, found, life = ranks.gather((run_dir, found, next_life(run_dir) if launch.rank == 0 else 0))[0]
            box = Box(run_dir, life, launch.rank, ranks.watch, _about(stated, layout, ranks, facts))
            ranks.watch.last_words = box.close
            score = _train(stated, layout, spec, ranks, launch, run_dir, found, box)
        except BaseException as error:  # including KeyboardInterrupt: the peers must end as well
            if ranks.rank == 0 and run_dir is not None:
                _mark_failed(run_dir, error)
            return fail(error, ranks, "" if run_dir is None else f"what each rank did last: lockstep doctor {run_dir}")
    if ranks.rank == 0 and score is not None:
        from trainer.commands.results import leave_results

        leave_results(stated, run_dir, score)
    box.discard()
    return 0


def _facts(stated: Config, spec: EnvSpec) -> dict[str, Any]:
    """Return what must be the same on every rank, by name: the program, its config, and the shapes that follow."""
    config = {f"--{name}": value for name, value in flatten(stated.to_dict()).items()}
    shapes = {"observations of": list(spec.obs_shape), "a number of actions of": spec.num_actions}
    return config | shapes | code_version()


def _about(stated: Config, layout: Layout, ranks: Ranks, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what a rank's black box records about its run."""
    config = json.dumps(stated.to_dict(), sort_keys=True)
    return {
        "rank": ranks.rank,
        "ranks": ranks.world_size,
        "device": str(ranks.device),
        "config": hashlib.sha256(config.encode()).hexdigest()[:12],
        "code": facts["code"],
        "versions": {"torch": facts["torch"], "numpy": version("numpy"), "gymnasium": version("gymnasium")},
        "envs": layout.config.env.num_envs,
    }


def _train(
    stated: Config,
    layout: Layout,
    spec: EnvSpec,
    ranks: Ranks,
    launch: Launch,
    run_dir: Path,
    found: checkpoint.Manifest | None,
    box: Box,
) -> dict[str, Any] | None:
    """Train to the end and evaluate; return the results, or None if a signal stopped the run early."""
    run = build_run(layout.config, layout, spec, ranks, run_dir, launch)
    say = run.logger.message
    say(check_memory(layout.config, layout, spec, ranks.device, launch))
    say(f"{layout.world_size} rank(s) on {ranks.device.type}, {layout.shards} shard(s); run folder: {run_dir}")
    if found is not None:
        _load(run, found, ranks)
        say(f"resumed at {layout.env_steps(run.step):,} env steps from {found.folder}")
    if ranks.rank == 0:  # nobody can continue the run without it, so the first one must be written
        keep = leave_json if (run_dir / "config.json").exists() else write_json
        keep(run_dir / "config.json", stated.to_dict())
    met: list[tuple[Place, int]] = ranks.gather((whereabouts(), box.page))
    places, pages = [place for place, _ in met], [page for _, page in met]
    assert isinstance(run.spans, Spans)
    box.follow(run.spans, lambda: run.stop.signal, places, pages)
    try:
        with _watch(run, ranks, places):
            return _to_the_end(run, run_dir)
    finally:
        run.logger.close()
        run.envs.close()


def _load(run: Run, found: checkpoint.Manifest, ranks: Ranks) -> None:
    """Continue from a checkpoint. A collective; AgreedError, on every rank, if its contents do not fit."""
    problem: Exception | None = None
    try:
        loaded = checkpoint.load(found, run.layout.owned)
        run.load(loaded.replicated, loaded.shards)
    except Exception as error:  # its hashes match, but they say nothing of names, types and shapes
        problem = error
    told = ranks.gather(None if problem is None else one_line(problem)[:300])
    for rank, cause in enumerate(told):
        if cause is not None:
            remedy = "it was edited or written by another program; move it away to resume from the previous one"
            raise AgreedError(f"{found.folder}: cannot be resumed from (rank {rank}: {cause}): {remedy}") from problem


def _to_the_end(run: Run, run_dir: Path) -> dict[str, Any] | None:
    """Train and evaluate; return the results, or None if a signal stopped the run early."""
    layout, say = run.layout, run.logger.message
    began, began_at = time.monotonic(), run.step
    _status(run, run_dir, "running")
    with rarely_collected():
        train(run)
    seconds = time.monotonic() - began
    if run.step < layout.num_steps:
        _status(run, run_dir, "stopped")
        say(f"{run.stopped_by}: saved at {layout.env_steps(run.step):,} env steps")
        say(f"resume with: lockstep train --resume {run_dir}")
        return None
    results: dict[str, Any] = {
        "env_steps": layout.env_steps(run.step),
        "updates": run.learner.updates,
        "seconds": seconds,
        "env_steps_per_second": layout.env_steps(run.step - began_at) / max(seconds, 1e-9),
        "ranks": layout.world_size,
    }
    if layout.config.eval.episodes:
        results["evaluation"] = run.evaluate()._asdict()
        if run.task_scores:
            results["tasks"] = {task: score._asdict() for task, score in run.task_scores.items()}
    _status(run, run_dir, "finished")
    return results


def _watch(run: Run, ranks: Ranks, places: list[Place]) -> Watch:
    """Return what ends this rank, or the next one, if it makes no progress."""
    runtime = run.config.runtime
    longer = {"save": runtime.save_timeout}
    return Watch(ranks.watch, run.spans, lambda: run.step, places, runtime.timeout, longer)


def _status(run: Run, run_dir: Path, state: str) -> None:
    """Leave a marker that tells a saved run from a failed one, whatever exit status the launcher returns."""
    if run.peers.rank == 0:
        env_steps = run.layout.env_steps(run.step)
        status = {"state": state, "env_steps": env_steps, "total_env_steps": run.config.total_env_steps}
        leave_json(run_dir / "status.json", status | {"signal": run.stopped_by})


def _mark_failed(run_dir: Path, error: BaseException) -> None:
    """Set the marker to `failed`; a disk that refuses it must not hide the cause."""
    with contextlib.suppress(OSError, ValueError):
        path = run_dir / "status.json"
        status = json.loads(path.read_text()) if path.exists() else {}
        write_json(path, status | {"state": "failed", "cause": f"{type(error).__name__}: {error}"})


def _folder(stated: Config) -> Path:
    name = stated.log.name
    if not name:
        env = stated.env.name.replace("/", "-").replace(":", "-").replace(" ", "-")
        name = f"{stated.preset}-{env}-s{stated.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    return Path(stated.log.dir) / name
