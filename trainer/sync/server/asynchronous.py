"""An asynchronous parameter server: every worker at its own pace (Dean et al. 2012; Mnih et al. 2016, A3C).

A worker pulls the weights when it starts to compute a gradient, and pushes the gradient, clipped by its own norm; the
server steps on each as it arrives. So a server's optimizer makes one step per worker where all-reduce makes one for
all. A worker acts with the weights of its last pull. Between logs, polls and checkpoints no worker waits for another,
except to keep a bound on the age of gradients. The order in which gradients arrive is not reproducible.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainer.sync.flat import FlatParameters
from trainer.sync.server.ages import summary
from trainer.sync.server.link import MEET, PEEK, PULL, PUSH, connect
from trainer.sync.server.parts import joined, on_host, within
from trainer.sync.server.service import Service
from trainer.sync.step import ClippedOptimizer, Level
from trainer.sync.strategy import Strategy
from trainer.sync.wire import Wire
from trainer.types import State


class AsyncServer(Strategy):
    """All ranks are workers; the first `servers` also hold a part of the weights each.

    staleness: the highest age of a gradient in updates of its server, None: any; timeout: of a silent peer [s].
    """

    def __init__(
        self,
        flat: FlatParameters,
        target: FlatParameters,
        levels: Sequence[Level],
        wire: Wire,
        *,
        staleness: int | None,
        timeout: float,
    ) -> None:
        super().__init__(flat, target, ClippedOptimizer(flat, ()), wire)  # a worker clips and steps nothing
        self.bounded, self.parts = staleness is not None, flat.parts
        servers = len(self.parts)
        self.to_servers, self.to_workers = connect(wire, servers, timeout)
        self.service: Service | None = None
        if wire.rank < servers:
            part = self.parts[wire.rank]
            self.service = Service(flat.data.data[part], within(levels, part), staleness, wire.rank, wire.world_size)
        self._threads: list[threading.Thread] = []
        self._open = False  # whether this rank's server, if any, serves
        self._computing = False  # whether this worker owes a gradient for its last pull
        self._lr = 0.0
        self._arrived = torch.empty_like(flat.data.data, device="cpu")
        self._counted = 0.0

    def prepare(self, net: nn.Module) -> nn.Module:
        """Start from rank 0's weights everywhere; return a module that pulls when an update begins. A collective."""
        self.replicas.start_equal()
        return _Pulling(net, self._pull)

    def set_lr(self, lr: float) -> None:
        self._lr = lr

    def step(self, max_norm: float) -> Tensor:
        """Clip this worker's gradient and push it; return its norm before the clip, []."""
        norm = self.clipped.step(max_norm)
        # every server sees only its own part, and skips what is not finite
        gradient = torch.where(norm.isfinite(), self.flat.grad, torch.nan).cpu()
        # others first: this rank's own server may make it wait, and must not keep the others waiting for it
        for server, link in self.to_servers.items():
            link.ask(PUSH, self._lr)
            link.send(gradient[self.parts[server]])
        if self.service is not None:
            with self.wire.spans("sync"):
                self.service.push(self.wire.rank, gradient[self.parts[self.wire.rank]], self._lr)
        self._computing = False
        return norm

    def gather(self, values: Tensor) -> Tensor:
        """Return this worker's own numbers alone, [1, K]: nobody else is at the same update."""
        return values[None]

    def refresh(self, tau: float) -> None:
        """Move the target weights towards the servers' current weights."""
        self.target.data.data.lerp_(self._fetch(PEEK), tau)

    def diverged(self) -> Tensor:
        """Return 0: replicas differ, as they should."""
        return torch.zeros((), dtype=torch.int64, device=self.flat.data.device)

    def blame(self) -> str:
        return ""

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Meet: within it, and until its next pull, every worker holds the servers' weights. A collective."""
        self.flat.data.data.copy_(self._fetch(MEET))
        for thread in self._threads:
            thread.join()
        self._threads, self._open, self._computing = [], False, False
        yield

    def report(self) -> dict[str, float]:
        """Return numbers for the log, over all servers' gradients since the last report. A collective."""
        total = sum(link.wire.sent for link in (*self.to_servers.values(), *self.to_workers.values()))
        self.wire.sent, self._counted = self.wire.sent + total - self._counted, total
        ages: Counter[int] = Counter()
        for fresh in self.wire.gather_objects(Counter() if self.service is None else self.service.drain()):
            ages += fresh
        return super().report() | summary(ages)

    def state_dict(self) -> State:
        """Return the optimizer's state over the whole buffer, from all servers; within `agreed`. A collective."""
        mine = {} if self.service is None else on_host(self.service.clipped.state_dict())
        return {"optimizer": joined(self.wire.gather_objects(mine))}

    def load_state_dict(self, state: State) -> None:
        """Restore the servers' optimizers; their weights are this rank's when they start serving."""
        assert not self._threads, "a state is loaded before the first update, or in `agreed`"
        self._open = self._computing = False
        if self.service is not None:
            self.service.clipped.load_state_dict(state["optimizer"])

    def own_state(self) -> State:
        """Return this worker's target; in a checkpoint, its online weights are the servers'."""
        return {"target": self.target.data.detach().clone()}

    def load_own_state(self, state: State) -> None:
        self.target.data.data.copy_(state["target"])

    def _pull(self) -> None:
        """Take the servers' weights to compute a gradient with, once per gradient."""
        if not self._computing:
            self.flat.data.data.copy_(self._fetch(PULL))
            self._computing = True

    def _fetch(self, request: int) -> Tensor:
        """Return the weights of all servers, [P], valid until the next call.

        With a bound, a server may delay a worker's pull until others have pushed. Everybody then asks the servers in
        the same order, so that no two workers hold what the other waits for.
        """
        self._serve()
        servers = range(len(self.parts))
        turns = [[server] for server in servers] if self.bounded and request == PULL else [list(servers)]
        with self.wire.spans("sync"):
            for turn in turns:
                for server in turn:
                    if server in self.to_servers:
                        self.to_servers[server].ask(request)
                for server in sorted(turn, key=self.wire.rank.__ne__):  # its own first: all others have been asked
                    part = self._arrived[self.parts[server]]
                    if server in self.to_servers:
                        self.to_servers[server].receive(part)
                    else:
                        assert self.service is not None
                        part.copy_(self.service.answer(request, self.wire.rank))
        return self._arrived.to(self.flat.data.device)

    def _serve(self) -> None:
        """Start this rank's server, if any, with this rank's weights, to serve until the next meeting.

        It opens with this rank's own first request: between two meetings all ranks make equally many updates, so
        nobody waits in vain. No thread is left when a run ends, which is after a meeting: it would miss its worker.
        """
        if self._open or self.service is None:
            return
        self._open = True
        self.service.open(self.flat.data.data[self.parts[self.wire.rank]])
        for worker, link in self.to_workers.items():
            if worker not in self.service.lost:
                name = f"server-of-rank-{worker}"
                thread = threading.Thread(target=self.service.attend, args=(worker, link), name=name, daemon=True)
                thread.start()
                self._threads.append(thread)


class _Pulling(nn.Module):
    """A network that pulls fresh weights before its first call in an update."""

    def __init__(self, net: nn.Module, pull: Callable[[], None]) -> None:
        super().__init__()
        self.net, self._pull = net, pull

    def forward(self, *args: object, **kwargs: object) -> object:
        self._pull()
        return self.net(*args, **kwargs)
