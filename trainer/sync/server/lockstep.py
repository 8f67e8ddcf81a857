"""A synchronous parameter server: the numbers of all-reduce, with the optimizer's state on the servers alone."""

from __future__ import annotations

from torch import Tensor

from trainer.sync.server.parts import joined, on_host
from trainer.sync.strategy import Strategy
from trainer.types import State


class SyncServer(Strategy):
    """Each server takes the mean of everyone's gradient of its part, steps it, and everyone takes the new weights.

    The first ranks hold a part of `flat` each; `clipped` steps this rank's part, which is empty on mere workers. In
    lock-step a push by all is a reduce, and a pull by all a broadcast.
    """

    def step(self, max_norm: float) -> Tensor:
        """Push, clip by the norm over all parts, step, pull; return that norm, []. A collective."""
        for server, part in enumerate(self.flat.parts):
            self.wire.mean_at(server, self.flat.grad[part])
        norm = self.wire.norm(self.flat.grad[self.clipped.part])
        self.clipped.step(max_norm, norm)
        for server, part in enumerate(self.flat.parts):
            self.wire.broadcast_(self.flat.data.data[part], server)
        return norm

    def state_dict(self) -> State:
        """Return the optimizer's state over the whole buffer, from all servers. A collective."""
        return {"optimizer": joined(self.wire.gather_objects(on_host(self.clipped.state_dict())))}
