"""Compression of DistributedDataParallel's buckets, by torch's own communication hooks."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from trainer.sync.compress.powersgd import sides
from trainer.sync.finite import forget
from trainer.sync.flat import FlatParameters

Method = Literal["none", "fp16", "bf16", "powersgd"]
_PLAIN_UPDATES = 2  # of PowerSGD: DDP forms its final buckets only after the first update


class Hook:
    """How DDP's buckets travel, and how many bytes of all-reduces an update takes."""

    def __init__(self, method: Method, rank: int, flat: FlatParameters) -> None:
        self.method, self.rank = method, rank
        self._updates = 0
        self._state: powerSGD_hook.PowerSGDState | None = None
        size = flat.grad.element_size()
        self._plain_bytes = flat.grad.nbytes
        self._bytes = {
            "none": self._plain_bytes,
            "fp16": flat.grad.numel() * 2,
            "bf16": flat.grad.numel() * 2,
            "powersgd": sum(_elements(shape, rank) for shape in flat.shapes) * size,
        }[method]

    def register(self, module: DistributedDataParallel) -> None:
        """Make the buckets of `module` travel this way."""
        if self.method == "fp16":
            module.register_comm_hook(None, default_hooks.fp16_compress_hook)
        if self.method == "bf16":
            module.register_comm_hook(None, default_hooks.bf16_compress_hook)
        if self.method == "powersgd":
            self._state = powerSGD_hook.PowerSGDState(
                None, self.rank, start_powerSGD_iter=_PLAIN_UPDATES, min_compression_rate=1
            )
            module.register_comm_hook(self._state, powerSGD_hook.powerSGD_hook)

    def forget(self, norm: Tensor) -> None:
        """Keep nothing of a mean whose norm, [], is not finite."""
        if self._state is not None:
            kept = (self._state.error_dict, self._state.p_memory_dict, self._state.q_memory_dict)
            forget([values for each in kept for values in each.values()], norm)

    def next_bytes(self) -> int:
        """Return the bytes all-reduced in this update."""
        self._updates += 1
        plain = self.method == "powersgd" and self._updates <= _PLAIN_UPDATES
        return self._plain_bytes if plain else self._bytes


def _elements(shape: tuple[int, ...], rank: int) -> int:
    short, long, rank = sides(shape, rank)
    return rank * (short + long) if rank else short * long
