"""One server: its part of the weights, what steps it, and the workers that use it; one thread attends to each."""

from __future__ import annotations

import math
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from trainer.sync.flat import FlatParameters
from trainer.sync.server.ages import Ages
from trainer.sync.server.link import MEET, PEEK, PULL, PUSH, Link, PeerLostError
from trainer.sync.step import ClippedOptimizer, Level


class Service:
    """The weights of one part, in CPU memory. Every method may be called from several threads.

    levels: as they lie in this part; bound: the highest age of a gradient (`Ages`); rank: of this server.
    """

    def __init__(self, weights: Tensor, levels: Sequence[Level], bound: int | None, rank: int, workers: int) -> None:
        self.rank = rank
        self.held = FlatParameters(nn.ParameterList([nn.Parameter(weights.cpu())]))  # a buffer of its own
        self.clipped = ClippedOptimizer(self.held, levels)
        self.ages = Ages(bound)
        self.lost: list[int] = []
        self._alive = set(range(workers))
        self._met: set[int] = set()
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        self._reported: Counter[int] = Counter()

    def open(self, weights: Tensor) -> None:
        """Start serving these weights of the part, until all workers meet."""
        with self._changed:
            self.held.data.data.copy_(weights)
            self._met.clear()

    def pull(self, worker: int) -> Tensor:
        """Return a copy of the weights to compute a gradient with, as soon as that could be young enough."""
        with self._changed:
            self._wait_for(self.ages.may_pull)
            self.ages.pull(worker)
            return self.held.data.data.clone()

    def push(self, worker: int, gradient: Tensor, lr: float) -> None:
        """Step on a gradient that its worker has clipped, as soon as that makes no other too old.

        One that is not finite counts, but changes nothing.
        """
        with self._changed:
            self._wait_for(lambda: self.ages.may_apply(worker))
            self.held.grad.copy_(gradient)
            self.clipped.set_lr(lr)
            self.clipped.step(math.inf)
            self.ages.apply(worker)
            self._changed.notify_all()

    def peek(self, worker: int) -> Tensor:
        """Return a copy of the weights that no gradient will follow from."""
        with self._changed:
            return self.held.data.data.clone()

    def meet(self, worker: int) -> Tensor:
        """Return a copy of the weights once all workers have come here: no gradient is in flight then."""
        with self._changed:
            self.ages.forget(worker)
            self._met.add(worker)
            self._changed.notify_all()
            self._wait_for(lambda: self._met >= self._alive)
            return self.held.data.data.clone()

    def answer(self, request: int, worker: int) -> Tensor:
        """Return the weights that `request` asks for."""
        ways = {PULL: self.pull, PEEK: self.peek, MEET: self.meet}
        return ways[request](worker)

    def attend(self, worker: int, link: Link) -> None:
        """Serve one worker over its link until the next meeting, or until it is lost; the whole life of a thread."""
        gradient = torch.empty_like(self.held.data.data)
        try:
            while True:
                request, lr = link.asked()
                if request == PUSH:
                    self.push(worker, link.receive(gradient), lr)
                    continue
                link.send(self.answer(request, worker))
                if request == MEET:
                    return
        except PeerLostError as loss:
            self.lose(worker, str(loss))
        except Exception as error:  # this thread must not end silently while its worker waits
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def lose(self, worker: int, why: str) -> None:
        """Go on without `worker`: nobody waits for its gradient, or for it to come to a meeting, any longer."""
        with self._changed:
            self.lost.append(worker)
            self._alive.discard(worker)
            self.ages.forget(worker)
            self._changed.notify_all()
        said = f"lockstep: the parameter server on rank {self.rank} continues without rank {worker}: {why}"
        print(said, file=sys.stderr, flush=True)

    def drain(self) -> Counter[int]:
        """Return the ages of the gradients applied since the last drain."""
        with self._changed:
            fresh = self.ages.seen - self._reported
            self._reported = self.ages.seen.copy()
            return fresh

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait, holding the lock, until `condition` holds. Raises RuntimeError if a thread of this server failed."""
        self._changed.wait_for(lambda: self._failure is not None or condition())
        if self._failure is not None:
            raise RuntimeError(f"the parameter server on rank {self.rank} failed") from self._failure
