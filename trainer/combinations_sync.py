"""Sync settings that make no sense with each other, or with this many ranks. Never imports torch."""

from __future__ import annotations

from trainer.config import Config, ConfigError


def check_sync(config: Config, world_size: int) -> None:
    """Raise ConfigError for the first part of `config.sync` that cannot work on `world_size` ranks."""
    _check_compress(config)
    _check_noise_scale(config, world_size)
    _check_server(config, world_size)
    _check_differing(config)


def replicas(config: Config, world_size: int) -> int:
    """Return how many replicas of the network `world_size` ranks hold. Raises ConfigError if they do not divide."""
    stages = config.sync.stages
    if stages < 1:
        raise ConfigError("sync.stages", stages, "out of range", "choose a value in [1, inf)")
    if world_size % stages:
        problem = f"{world_size} rank(s) cannot be divided into replicas of {stages}"
        raise ConfigError("sync.stages", stages, problem, f"start a multiple of {stages} ranks, or change the stages")
    return world_size // stages


def check_stages(config: Config, count: int) -> None:
    """Raise ConfigError for the first part of `config` that does not work with stages; count: of replicas."""
    sync, net, optim, dtype = config.sync, config.net, config.optim, config.runtime.dtype
    if sync.stages == 1:
        if sync.microbatches != 1:
            problem = "without stages a batch passes through the layers in one piece"
            raise ConfigError("sync.microbatches", sync.microbatches, problem, "use --sync.stages, or omit it")
        return
    leave = "use --sync.stages 1"
    for name, value, plain, problem in (
        ("sync.kind", sync.kind, "flat", "gradients of stages are averaged only by all-reduce"),
        ("sync.compress", sync.compress, "none", "gradients of stages are sent uncompressed"),
        ("sync.noise_scale", sync.noise_scale, False, "it is measured on the gradient of the whole network"),
        ("optim.levels", " ".join(optim.levels), "", "each stage has one optimizer"),
        ("net.lstm", net.lstm, 0, "a recurrent network is not split into stages"),
        ("net.noisy", net.noisy, False, "every stage would have to draw the noise of all layers"),
        ("net.ensemble", net.ensemble, 1, "the heads of an ensemble are one layer"),
        ("env.tasks", " ".join(config.env.tasks), "", "stages do not pass on the task"),
        ("runtime.dtype", dtype, dtype.replace("bfloat16", "float32"), "stages pass on float32 or float64"),
        ("pixels.spr", config.pixels.spr, 0, "it needs the inner layers of the network in one place"),
        ("teacher.runs", " ".join(config.teacher.runs), "", "teachers are not split into stages"),
        ("demos.path", config.demos.path, "", "not tested with demonstrations"),
    ):
        if value != plain:
            raise ConfigError(name, value, problem, f"omit it, or {leave}")
    if net.head == "iqn":
        problem = "its fractions are known only to the stage that holds the head"
        raise ConfigError("net.head", net.head, problem, f"use --net.head q, c51 or qr, or {leave}")
    if config.replay.kind == "rollout":
        problem = "rollouts evaluate the network in a way stages do not support"
        raise ConfigError("replay.kind", config.replay.kind, problem, f"use uniform or prioritized, or {leave}")
    if sync.microbatches > 1 and net.spectral_norm:
        problem = "it advances with every pass, so the result would depend on the number of passes"
        raise ConfigError("net.spectral_norm", True, problem, "use --sync.microbatches 1")
    if (each := config.replay.batch_size // count) % sync.microbatches:
        problem = f"does not divide the {each} rows of a replica's batch"
        raise ConfigError("sync.microbatches", sync.microbatches, problem, f"use a number that divides {each}")


def _check_compress(config: Config) -> None:
    sync = config.sync
    told = sync.compress
    if told != "none" and sync.kind not in ("flat", "ddp"):
        problem = f"--sync.kind {sync.kind} does not exchange whole gradients that could be compressed"
        raise ConfigError("sync.compress", told, problem, "use --sync.kind flat, or --sync.compress none")
    if told in ("topk", "int8") and sync.kind == "ddp":
        problem = "DistributedDataParallel has no hook for it that works everywhere"
        raise ConfigError("sync.compress", told, problem, "use --sync.kind flat, or --sync.compress fp16 or powersgd")
    for field, plain, method in (("compress_rank", 4, "powersgd"), ("compress_share", 0.01, "topk")):
        value = getattr(sync, field)
        if value != plain and told != method:
            problem = f"--sync.compress {told} does not use it"
            remedy = f"use --sync.compress {method}, or --sync.{field} {plain}"
            raise ConfigError(f"sync.{field}", value, problem, remedy)


def _check_noise_scale(config: Config, world_size: int) -> None:
    sync = config.sync
    if not sync.noise_scale:
        return
    leave = "omit --sync.noise_scale"
    if sync.kind != "flat":
        problem = f"--sync.kind {sync.kind} never has a rank's gradient and the mean at the same time"
        raise ConfigError("sync.noise_scale", True, problem, f"use --sync.kind flat, or {leave}")
    if sync.compress not in ("none", "fp16", "bf16"):
        problem = f"after --sync.compress {sync.compress} there is no mean of the gradients to compare with"
        raise ConfigError("sync.noise_scale", True, problem, f"use --sync.compress none, fp16 or bf16, or {leave}")
    if world_size == 1:
        problem = "a single rank has no other gradient to compare its own with"
        raise ConfigError("sync.noise_scale", True, problem, f"use --ranks 2 or more, or {leave}")


def _check_server(config: Config, world_size: int) -> None:
    sync = config.sync
    for name, value, plain in (
        ("sync.servers", sync.servers, 1),
        ("sync.asynchronous", sync.asynchronous, False),
        ("sync.staleness", sync.staleness, None),
    ):
        if value != plain and sync.kind != "server":
            problem = f"--sync.kind {sync.kind} has no parameter server"
            raise ConfigError(name, value, problem, f"use --sync.kind server, or omit --{name}")
    if sync.servers > world_size:
        problem = f"each is one of the {world_size} rank(s)"
        raise ConfigError("sync.servers", sync.servers, problem, f"use {world_size} or fewer, or more ranks")
    if sync.staleness is not None and not sync.asynchronous:
        problem = "without --sync.asynchronous gradients are never stale"
        raise ConfigError("sync.staleness", sync.staleness, problem, "add --sync.asynchronous True, or omit it")


def _check_differing(config: Config) -> None:
    sync = config.sync
    for field, plain, kind in (
        ("period", 16, "local_sgd"),
        ("local_after", 0, "local_sgd"),
        ("outer_lr", 1.0, "local_sgd"),
        ("outer_momentum", 0.0, "local_sgd"),
        ("hierarchical", False, "local_sgd"),
        ("topology", "exponential", "gossip"),
    ):
        value = getattr(sync, field)
        if value != plain and sync.kind != kind:
            problem = f"--sync.kind {sync.kind} does not use it"
            raise ConfigError(f"sync.{field}", value, problem, f"use --sync.kind {kind}, or --sync.{field} {plain}")
