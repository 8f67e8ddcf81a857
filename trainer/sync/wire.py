"""The exchanges of one rank with its peers: timed, counted, and no-ops without peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.runtime.spans import Spans
from trainer.sync.shared import SharedMemory


class Pending(Protocol):
    """An exchange in flight."""

    def wait(self) -> object: ...


class Wire:
    """Collectives over `group` (None: all ranks), the frequent ones through `shared` memory if there is any.

    sent: bytes that this rank has put on the wire, if every collective uses the ring algorithm: an all-reduce of n
    bytes over p ranks sends 2 n (p-1)/p from each, reduce-scatter, all-gather, broadcast and reduce half of that.
    Traffic through shared memory counts as if it went over a wire.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        spans: Spans,
        group: dist.ProcessGroup | None = None,
        shared: SharedMemory | None = None,
    ) -> None:
        self.rank, self.world_size, self.spans, self.group, self.shared = rank, world_size, spans, group, shared
        self.sent = 0.0

    def mean_(self, values: Tensor) -> Tensor:
        """Replace `values` by their mean over the ranks."""
        if self.world_size > 1:  # with one rank, gloo's own overhead would cost 10% of an update
            with self.spans.exchanging("all-reduce", values.nbytes):
                if self.shared is not None and self.shared.fits(values):
                    self.note_sum(values.nbytes)
                    self.shared.sum_(values)
                else:
                    self.start_sum(values).wait()
                values.div_(self.world_size)
        return values

    def start_sum(self, values: Tensor) -> Pending:
        """Start replacing `values` by their sum over the ranks; they must not be touched before `wait`."""
        self.note_sum(values.nbytes)
        self.spans.exchanging("all-reduce", values.nbytes)  # a span opens only where it is waited for
        work: Pending = dist.all_reduce(values, group=self.group, async_op=True)
        return work

    def mean_at(self, root: int, values: Tensor) -> None:
        """Replace `values` of rank `root` by their mean over the ranks; everyone else's become undefined."""
        if self.world_size > 1:
            self._count(values.nbytes)
            with self.spans.exchanging("reduce", values.nbytes):
                dist.reduce(values, group=self.group, group_dst=root)
                values.div_(self.world_size)

    def broadcast_(self, values: Tensor, root: int = 0) -> Tensor:
        """Replace `values` by those of rank `root` of the group."""
        if self.world_size > 1:
            self._count(values.nbytes)
            with self.spans.exchanging("broadcast", values.nbytes):
                if self.shared is not None and self.shared.fits(values):
                    self.shared.spread_(values, root)
                else:
                    dist.broadcast(values, group=self.group, group_src=root)
        return values

    def send(self, values: Tensor, to: int) -> None:
        """Send `values` to rank `to` of the group, which waits for them with `receive_`."""
        self.sent += values.nbytes
        with self.spans.exchanging(f"send to rank {to}", values.nbytes):
            dist.send(self._passable(values), group=self.group, group_dst=to)

    def receive_(self, values: Tensor, source: int) -> Tensor:
        """Replace `values` by what rank `source` of the group sends."""
        take = self._passable(values)
        with self.spans.exchanging(f"receive from rank {source}", values.nbytes):
            dist.recv(take, group=self.group, group_src=source)
        return values.copy_(take)  # onto itself: a no-op

    def gather_objects(self, value: Any) -> list[Any]:
        """Return every rank's object, in the order of ranks; for checkpoints and logs, not counted."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with self.spans.exchanging("gather of objects", 0):
            dist.all_gather_object(values, value, group=self.group)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """Return every rank's values, [K] -> [ranks, K]."""
        if self.world_size == 1:
            return values[None]
        self._count(self.world_size * values.nbytes)
        with self.spans.exchanging("gather", values.nbytes):
            if self.shared is not None and self.shared.notes(values):
                return self.shared.gather(values)
            everyone = [torch.empty_like(values) for _ in range(self.world_size)]
            dist.all_gather(everyone, values, group=self.group)
        return torch.stack(everyone)

    def pass_on(self, values: Tensor, ahead: int, behind: int, received: Tensor) -> Tensor:
        """Send `values` to rank `ahead` of the group while `received` is filled by rank `behind`; return `received`."""
        self.sent += values.nbytes
        give, take = self._passable(values), self._passable(received)
        with self.spans.exchanging("exchange with neighbours", values.nbytes):
            send = dist.P2POp(dist.isend, give, group=self.group, group_peer=ahead)
            receive = dist.P2POp(dist.irecv, take, group=self.group, group_peer=behind)
            for work in dist.batch_isend_irecv([send, receive]):
                work.wait()
        return received.copy_(take)  # onto itself: a no-op

    def exchange(self, values: Tensor) -> Tensor:
        """Return what every rank has for this one: row i goes to rank i, and row i of the result comes from there."""
        if self.world_size == 1:
            return values
        received = torch.empty_like(values)
        self._count(values.nbytes)
        with self.spans.exchanging("all-to-all", values.nbytes):
            dist.all_to_all_single(received, values, group=self.group)
        return received

    def scatter_mean_(self, values: Tensor) -> None:
        """Replace this rank's equal part of `values` by its mean over the ranks; the rest of it becomes undefined.

        gloo has no reduce-scatter: torch emulates it by an all-reduce and a copy. Here it is done without the copy,
        and counted as what it is.
        """
        if self.world_size == 1:
            return
        if not self._by_nccl(values):
            self.mean_(values)
            return
        mine = self._part(values)
        self._count(values.nbytes)
        with self.spans.exchanging("reduce-scatter", values.nbytes):
            _call("reduce_scatter_single", "reduce_scatter_tensor")(mine, values, group=self.group)
            mine.div_(self.world_size)

    def join_(self, values: Tensor) -> None:
        """Replace every equal part of `values` by that of the rank which owns it."""
        if self.world_size > 1:
            self._count(values.nbytes)
            with self.spans.exchanging("all-gather", values.nbytes):
                if self.shared is not None and self.shared.fits(values):
                    self.shared.join_(values)
                else:
                    _call("all_gather_single", "all_gather_into_tensor")(values, self._part(values), group=self.group)

    def norm(self, part: Tensor) -> Tensor:
        """Return the norm of the vector spread over the ranks, []."""
        norm: Tensor = torch.linalg.vector_norm(part)
        if self.world_size > 1:  # with one rank, the root of a squared number is not always that number
            norm = torch.linalg.vector_norm(self.gather(norm[None]))
        return norm

    def _part(self, values: Tensor) -> Tensor:
        mine: Tensor = values.view(self.world_size, -1)[self.rank]
        return mine

    def _passable(self, values: Tensor) -> Tensor:
        """Return `values` where ranks can send them: on the host for gloo, which ranks that share a GPU use."""
        return values.cpu() if values.is_cuda and not self._by_nccl(values) else values

    def _by_nccl(self, values: Tensor) -> bool:
        return f"{values.device.type}:nccl" in dist.get_backend_config(self.group)

    def note_sum(self, nbytes: int) -> None:
        """Count an all-reduce done elsewhere (by DDP)."""
        self._count(2 * nbytes)

    def _count(self, nbytes: float) -> None:
        self.sent += nbytes * (self.world_size - 1) / self.world_size


def _call(new: str, old: str) -> Callable[..., object]:
    """Return the collective that torch 2.13 renamed."""
    call: Callable[..., object] = getattr(dist, new if hasattr(dist, new) else old)
    return call
