"""Ways to keep replicas together that make no sense with each other, or with so many ranks. Never imports torch."""

from __future__ import annotations

from trainer.config import Config, ConfigError


def check_sync(config: Config, world_size: int) -> None:
    """Raise ConfigError for the first part of `config.sync` that cannot work on `world_size` ranks."""
    _check_compress(config)
    _check_noise_scale(config, world_size)
    _check_server(config, world_size)
    _check_differing(config)


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
            problem = f"--sync.compress {told} has no use for it"
            remedy = f"use --sync.compress {method}, or --sync.{field} {plain}"
            raise ConfigError(f"sync.{field}", value, problem, remedy)


def _check_noise_scale(config: Config, world_size: int) -> None:
    sync = config.sync
    if not sync.noise_scale:
        return
    leave = "leave --sync.noise_scale away"
    if sync.kind != "flat":
        problem = f"--sync.kind {sync.kind} never has the gradients of a rank and their mean side by side"
        raise ConfigError("sync.noise_scale", True, problem, f"use --sync.kind flat, or {leave}")
    if sync.compress not in ("none", "fp16", "bf16"):
        problem = f"behind --sync.compress {sync.compress} there is no mean of the gradients to compare with"
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
            raise ConfigError(name, value, problem, f"use --sync.kind server, or leave --{name} away")
    if sync.servers > world_size:
        problem = f"each is one of the {world_size} rank(s)"
        raise ConfigError("sync.servers", sync.servers, problem, f"use {world_size} or fewer, or more ranks")
    if sync.staleness is not None and not sync.asynchronous:
        problem = "without --sync.asynchronous no gradient is ever old"
        raise ConfigError("sync.staleness", sync.staleness, problem, "add --sync.asynchronous True, or leave it away")


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
            problem = f"--sync.kind {sync.kind} has no use for it"
            raise ConfigError(f"sync.{field}", value, problem, f"use --sync.kind {kind}, or --sync.{field} {plain}")
