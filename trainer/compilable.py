"""Which runs can compile an update into one graph, from the config alone. Never imports torch."""

from __future__ import annotations

from trainer.config import Config, ConfigError


def obstacle(config: Config) -> tuple[str, object, str] | None:
    """Return field, value and problem if an update of this run cannot be one graph, else None."""
    sync = config.sync
    for name, value, plain, problem in (
        ("net.lstm", config.net.lstm, 0, "an LSTM is unrolled step by step"),
        ("sync.stages", sync.stages, 1, "stages talk to each other within the forward pass"),
        ("sync.asynchronous", sync.asynchronous, False, "weights are fetched within the forward pass"),
    ):
        if value != plain:
            return name, value, problem
    if sync.kind == "ddp":
        return "sync.kind", sync.kind, "DistributedDataParallel sends gradients from within the backward pass"
    return None


def check_compile(config: Config) -> None:
    """Raise ConfigError if compilation is required (`runtime.compile` True) but impossible."""
    if config.runtime.compile is True and (found := obstacle(config)) is not None:
        name, value, problem = found
        remedy = "use --runtime.compile False or auto"
        raise ConfigError(name, value, f"{problem}, so an update is not one graph", remedy)
