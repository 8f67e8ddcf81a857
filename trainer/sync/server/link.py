"""The line between one worker and one server: a process group of these two alone, so that a thread may block on it."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import DistError

from trainer.runtime.spans import Spans
from trainer.sync.wire import Wire

PULL, PUSH, PEEK, MEET = range(4)
"""A worker's requests: weights to compute a gradient with, application of a gradient, weights for another use, weights
once everybody has asked for this."""


class PeerLostError(DistError):
    """The other end of a link is gone, or silent for too long."""


class Link:
    """One end. Values travel between CPU memories, over gloo, whatever the ranks compute on."""

    def __init__(self, wire: Wire, peer: int, role: str) -> None:
        self.wire, self.peer, self.role = wire, peer, role
        self._other_end = 1 - wire.rank

    def ask(self, request: int, lr: float = 0.0) -> None:
        """Send a request; a push includes its learning rate, and the gradient follows."""
        self.send(torch.tensor([request, lr], dtype=torch.float64))

    def asked(self) -> tuple[int, float]:
        """Wait for the next request."""
        request, lr = self.receive(torch.empty(2, dtype=torch.float64)).tolist()
        return int(request), lr

    def send(self, values: Tensor) -> None:
        try:
            self.wire.send(values, self._other_end)
        except RuntimeError as error:
            raise self._lost(error) from error

    def receive(self, values: Tensor) -> Tensor:
        """Fill `values`."""
        try:
            return self.wire.receive_(values, self._other_end)
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: RuntimeError) -> PeerLostError:
        told = str(error).splitlines()[0].rpartition(".cc:")[2].partition("] ")[2].partition(". This")[0]
        return PeerLostError(f"rank {self.peer}, {self.role}, is gone: {told or error}")


def connect(wire: Wire, servers: int, timeout: float) -> tuple[dict[int, Link], dict[int, Link]]:
    """Return this rank's links as a worker, by server, and as a server, by worker. A collective.

    timeout: how long a worker may be silent before its server goes on without it [s]; the server's answers, which may
    wait for such a worker, have twice that. A server that is a worker needs no link to itself. Each pair has its own
    group in each direction, since both ends may be servers.
    """
    as_worker, as_server = {}, {}
    for server in range(servers):
        for worker in range(wire.world_size):
            pair = sorted((server, worker))
            if server == worker:
                continue
            patience = timedelta(seconds=timeout if wire.rank == server else 2 * timeout)
            group = dist.new_group(pair, timeout=patience, backend="gloo")  # entered by all ranks
            if wire.rank not in pair:
                continue
            mine = pair.index(wire.rank)
            if wire.rank == worker:
                as_worker[server] = Link(Wire(mine, 2, wire.spans, group), server, "which holds weights")
            else:  # its own spans: they are not thread-safe
                as_server[worker] = Link(Wire(mine, 2, Spans(), group), worker, "a worker")
    return as_worker, as_server
