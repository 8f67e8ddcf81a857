"""Config values that make no sense together, each refused with reason and remedy. Never imports torch."""

from __future__ import annotations

import json
import math

from trainer.config import Config, ConfigError


def check_combinations(config: Config) -> None:
    """Raise ConfigError for the first combination that cannot work."""
    _check_rollout(config)
    _check_tasks(config)
    _check_pixels(config)
    _check_impala(config)
    _check_ensemble(config)
    _check_noise(config)
    _check_distribution(config)
    _check_target(config)
    _check_teacher(config)
    _check_demos(config)
    _check_sequences(config)


def _check_rollout(config: Config) -> None:
    if config.replay.kind != "rollout":
        return
    if config.replay.n_step != 1:
        problem = "a rollout's returns are Q(lambda)"
        raise ConfigError("replay.n_step", config.replay.n_step, problem, "use --replay.n_step 1 and --replay.trace")
    net, loss, other = config.net, config.loss, "another --replay.kind"
    whole = "a rollout's returns are complete: the loss evaluates no next state"
    for name, value, plain, problem in (
        ("loss.target", loss.target, "max", "Q(lambda) uses the best actions"),
        ("loss.double", loss.double, False, "there is no target network"),
        ("loss.munchausen", loss.munchausen, False, whole),
        ("loss.rescale", loss.rescale, False, whole),
        ("net.head", net.head, "q", "Q(lambda) works on values, not on distributions"),
        ("net.ensemble", net.ensemble, 1, "Q(lambda) works on one head"),
        ("net.noisy", net.noisy, False, "PQN explores by epsilon"),
        ("net.lstm", net.lstm, 0, "a rollout's transitions are learned one by one"),
        ("pixels.spr", config.pixels.spr, 0, "a rollout's transitions are learned one by one"),
    ):
        if value != plain:
            raise ConfigError(name, value, problem, f"use --{name} {plain}, or {other}")


def _check_sequences(config: Config) -> None:
    net, loss, replay, pixels = config.net, config.loss, config.replay, config.pixels
    if replay.kind != "sequence":
        if net.lstm:
            problem = f"--replay.kind {replay.kind} does not keep the states that a recurrent network learns from"
            raise ConfigError("net.lstm", net.lstm, problem, "use --replay.kind sequence, or --net.lstm 0")
        if loss.rescale:
            problem = f"values are rescaled by the loss of sequences, not by that of --replay.kind {replay.kind}"
            raise ConfigError("loss.rescale", True, problem, "use --replay.kind sequence with --net.lstm, or omit it")
        return
    if not net.lstm:
        problem = "sequences need a recurrent network, and --net.lstm is 0"
        raise ConfigError("replay.kind", replay.kind, problem, "use --net.lstm 512, or --replay.kind prioritized")
    for name, value, plain in (
        ("net.head", net.head, "q"),
        ("net.ensemble", net.ensemble, 1),
        ("loss.target", loss.target, "max"),
        ("loss.munchausen", loss.munchausen, False),
        ("pixels.spr", pixels.spr, 0),
    ):
        if value != plain:
            problem = "the loss of sequences does not support it"
            raise ConfigError(name, value, problem, f"use --{name} {plain}, or another --replay.kind and --net.lstm 0")
    if replay.stride > replay.length:
        problem = f"steps between sequences of --replay.length {replay.length} would never be learned from"
        raise ConfigError("replay.stride", replay.stride, problem, f"use {replay.length} or less")
    if replay.burn_in > replay.length:
        problem = f"the first sequence of an episode learns only {replay.length} steps, so the next one starts too late"
        raise ConfigError("replay.burn_in", replay.burn_in, problem, f"use {replay.length} or less")


def _check_tasks(config: Config) -> None:
    tasks, shards = config.env.tasks, config.shards
    if not tasks:
        return
    told, count = " ".join(tasks), len(tasks)
    if count == 1:
        raise ConfigError("env.tasks", told, "a single task", f"name several, or use --env.id {told}")
    twice = next((task for i, task in enumerate(tasks) if task in tasks[:i]), None)
    if twice is not None:
        raise ConfigError("env.tasks", told, f"{twice} is named twice", "name every task once")
    if shards is not None and shards % count:
        remedy = f"use --shards {-(-shards // count) * count} (a multiple, so that every task has equally many)"
        raise ConfigError("env.tasks", told, f"{count} tasks cannot be placed on {shards} shard(s)", remedy)
    for task, kwargs in json.loads(config.env.kwargs).items():
        if task not in tasks or not isinstance(kwargs, dict):
            problem = f"{task} is not one of the tasks" if task not in tasks else f"{kwargs} is not a JSON object"
            remedy = f"""give the arguments by task id, e.g. '{{"{tasks[0]}": {{"max_episode_steps": 100}}}}'"""
            raise ConfigError("env.kwargs", config.env.kwargs, problem, remedy)
    if config.replay.kind == "sequence":
        problem = "sequences do not record their task"
        raise ConfigError("env.tasks", told, problem, "use --replay.kind uniform or prioritized, without --net.lstm")
    if config.demos.path:
        problem = "demonstrations cover only one environment"
        raise ConfigError("demos.path", config.demos.path, problem, "omit it, or train on that one with --env.id")
    if 0 < config.eval.episodes < count:
        problem = f"fewer than the {count} tasks"
        raise ConfigError("eval.episodes", config.eval.episodes, problem, f"use {count} or more, or 0")


def _check_impala(config: Config) -> None:
    net = config.net
    for name, value, plain in (
        ("net.width", net.width, 1),
        ("net.spectral_norm", net.spectral_norm, False),
        ("net.pool", net.pool, 0),
    ):
        if value != plain and net.torso != "impala":
            problem = f"--net.torso {net.torso} has no such part"
            raise ConfigError(name, value, problem, f"use --net.torso impala, or --{name} {plain}")


def _check_ensemble(config: Config) -> None:
    heads, mask = config.net.ensemble, config.loss.bootstrap_mask
    if heads == 1:
        if mask < 1:
            problem = "with a single head, masked transitions would be lost"
            raise ConfigError("loss.bootstrap_mask", mask, problem, "use --net.ensemble 10, or --loss.bootstrap_mask 1")
        return
    if config.net.lstm:
        problem = "the heads of an ensemble learn from single transitions, not from sequences"
        raise ConfigError("net.lstm", config.net.lstm, problem, "use --net.lstm 0, or --net.ensemble 1")


def _check_noise(config: Config) -> None:
    if config.net.noisy_shared and not config.net.noisy:
        raise ConfigError("net.noisy_shared", True, "no layer is noisy", "add --net.noisy True, or omit it")


def _check_distribution(config: Config) -> None:
    net, risk = config.net, config.policy.risk
    if net.head == "c51":
        for name, bound in (("net.v_min", net.v_min), ("net.v_max", net.v_max)):
            if bound is None:
                remedy = "state both bounds of the discounted return, e.g. --net.v_min -10 --net.v_max 10"
                raise ConfigError(name, bound, "C51 needs to know where its histogram ends", remedy)
            if not math.isfinite(bound):
                raise ConfigError(name, bound, "not a finite number", "state a bound of the discounted return")
        if net.v_min is not None and net.v_max is not None and net.v_min >= net.v_max:
            raise ConfigError("net.v_min", net.v_min, f"not below --net.v_max {net.v_max}", "swap or widen them")
    if risk != 1 and net.head != "iqn":
        problem = f"--net.head {net.head} cannot act on the worst returns alone"
        raise ConfigError("policy.risk", risk, problem, "use --net.head iqn, or --policy.risk 1")
    if net.ensemble > 1 and net.head != "q":
        problem = "the heads of an ensemble predict values, not distributions"
        raise ConfigError("net.head", net.head, problem, "use --net.head q, or --net.ensemble 1")


def _check_target(config: Config) -> None:
    loss, policy = config.loss, config.policy
    if loss.munchausen:
        if config.net.head == "c51":
            problem = "soft values weigh returns, not the bars of a histogram"
            raise ConfigError("loss.munchausen", True, problem, "use --net.head q, qr or iqn")
        if loss.double:
            problem = "a soft value has no maximum whose bias Double Q-learning would remove"
            raise ConfigError("loss.double", True, problem, "use --loss.double False, or --loss.munchausen False")
        if loss.target != "max":
            problem = "with --loss.munchausen the next state is worth its soft value"
            raise ConfigError("loss.target", loss.target, problem, "use --loss.target max, or --loss.munchausen False")
    if loss.target == "sarsa" and loss.double:
        problem = "SARSA takes no maximum whose bias Double Q-learning would remove"
        raise ConfigError("loss.double", True, problem, "use --loss.double False, or another --loss.target")
    if loss.target != "max" and (policy.exploration == "ladder" or policy.repeat == "zeta"):
        field = "exploration" if policy.exploration == "ladder" else "repeat"
        problem = f"--loss.target {loss.target} assumes a single epsilon-greedy policy"
        remedy = "use --policy.exploration linear and --policy.repeat once, or --loss.target max"
        raise ConfigError(f"policy.{field}", getattr(policy, field), problem, remedy)
    if config.net.ensemble > 1 and (loss.munchausen or loss.target != "max"):
        problem = "the heads of an ensemble learn the value of their best action"
        remedy = "use --loss.target max and no --loss.munchausen"
        raise ConfigError("net.ensemble", config.net.ensemble, problem, remedy)


def _check_teacher(config: Config) -> None:
    teacher, tasks = config.teacher, config.env.tasks
    told = " ".join(teacher.runs)
    if not teacher.runs:
        if teacher.act:
            raise ConfigError("teacher.act", teacher.act, "there is no teacher", "name runs: --teacher.runs RUN")
        return
    if tasks and len(tasks) != len(teacher.runs):
        problem = f"{len(teacher.runs)} teacher(s) for {len(tasks)} tasks"
        raise ConfigError("teacher.runs", told, problem, "name one run for each of --env.tasks, in their order")
    if config.replay.kind == "sequence":
        problem = "distillation learns from single transitions, not from sequences"
        raise ConfigError("teacher.runs", told, problem, "use --replay.kind uniform or prioritized, without --net.lstm")
    if teacher.weight == 0 and teacher.act == 0:
        problem = "with --teacher.act 0 the teacher would do nothing"
        raise ConfigError("teacher.weight", teacher.weight, problem, "raise either, or omit --teacher.runs")
    if teacher.act and config.loss.target != "max":
        problem = f"--loss.target {config.loss.target} assumes that only the agent acts"
        raise ConfigError("teacher.act", teacher.act, problem, "use --teacher.act 0, or --loss.target max")


def _check_demos(config: Config) -> None:
    demos, replay = config.demos, config.replay
    if not demos.path:
        if demos.pretrain:
            problem = "there are no demonstrations"
            raise ConfigError("demos.pretrain", demos.pretrain, problem, "name a file of them: --demos.path FILE")
        return
    if replay.kind in ("sequence", "rollout"):
        problem = f"demonstrations are mixed into a replay memory of transitions, not into a {replay.kind}"
        raise ConfigError("demos.path", demos.path, problem, "use --replay.kind uniform or prioritized")
    if config.loss.target != "max":
        problem = f"--loss.target {config.loss.target} learns the value of the agent's own policy, not a demonstrator's"
        raise ConfigError("demos.path", demos.path, problem, "use --loss.target max")
    each = replay.batch_size // (config.shards or 1)
    if not 0 < round(demos.ratio * each) < each:
        problem = f"{round(demos.ratio * each)} of the {each} transitions that a shard adds to a batch"
        remedy = f"choose a value from {1 / each:.3g} to {1 - 1 / each:.3g}, or larger batches"
        raise ConfigError("demos.ratio", demos.ratio, problem, remedy)


def _check_pixels(config: Config) -> None:
    weight = config.pixels.spr
    if not weight:
        return
    if config.demos.path:
        problem = "demonstrations do not record what followed a transition"
        raise ConfigError("pixels.spr", weight, problem, "use --pixels.spr 0, or no --demos.path")
    if not config.net.hidden:
        problem = "latents are compared after the first layer of --net.hidden, and there is none"
        raise ConfigError("pixels.spr", weight, problem, "give widths, e.g. --net.hidden 512")
