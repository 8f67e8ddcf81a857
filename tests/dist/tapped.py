"""For tests: what a rank really passes to torch.distributed, and the bytes that ring algorithms send for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch.distributed as dist

from trainer.sync.shared import SharedMemory

HEARD = ("all_reduce", "broadcast", "all_gather", "all_to_all_single", "batch_isend_irecv", "send")
RENAMED = {"all_gather_single": "all_gather_into_tensor", "reduce_scatter_single": "reduce_scatter_tensor"}
"""Since torch 2.13; tapped under the new names."""


class Tap:
    """bytes: what this rank put on the wire, all groups together."""

    def __init__(self) -> None:
        self.bytes = 0.0
        self.calls: list[str] = []

    def all_reduce(self, tensor: Any, *_: Any, group: Any = None, **__: Any) -> float:
        return 2 * tensor.nbytes * _share(group)

    def broadcast(self, tensor: Any, *_: Any, group: Any = None, **__: Any) -> float:
        return tensor.nbytes * _share(group)

    def all_gather(self, everyone: Any, *_: Any, group: Any = None, **__: Any) -> float:
        return sum(part.nbytes for part in everyone) * _share(group)

    def all_gather_single(self, everyone: Any, *_: Any, group: Any = None, **__: Any) -> float:
        return everyone.nbytes * _share(group)

    def reduce_scatter_single(self, mine: Any, everyone: Any, *_: Any, group: Any = None, **__: Any) -> float:
        return everyone.nbytes * _share(group)

    def all_to_all_single(self, received: Any, everyones: Any, *_: Any, group: Any = None, **__: Any) -> float:
        return everyones.nbytes * _share(group)

    def send(self, tensor: Any, *_: Any, **__: Any) -> float:
        return float(tensor.nbytes)

    def batch_isend_irecv(self, operations: Any) -> float:
        return sum(operation.tensor.nbytes for operation in operations if operation.op is dist.isend)


def _share(group: Any) -> float:
    ranks = dist.get_world_size(group)
    return (ranks - 1) / ranks


@contextmanager
def tapped() -> Iterator[Tap]:
    """Count every exchange within the block; one that `Tap` does not know goes uncounted, so compare with `calls`.

    Nothing goes through shared memory meanwhile, where it would not be counted.
    """
    tap = Tap()

    def listening(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def listen(*arguments: Any, **options: Any) -> Any:
            tap.bytes += getattr(tap, name)(*arguments, **options)
            tap.calls.append(name)
            return call(*arguments, **options)

        return listen

    with pytest.MonkeyPatch.context() as patch:
        for unheard in ("fits", "notes"):
            patch.setattr(SharedMemory, unheard, lambda *_: False)
        for name in HEARD:
            patch.setattr(dist, name, listening(name, getattr(dist, name)))
        for name, before in RENAMED.items():
            there = name if hasattr(dist, name) else before
            patch.setattr(dist, there, listening(name, getattr(dist, there)))
        yield tap
