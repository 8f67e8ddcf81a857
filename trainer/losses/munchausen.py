"""Munchausen reinforcement learning (Vieillard et al. 2020): the log-policy is added to the reward, values are soft."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from trainer.types import Batch, Given, QOut


class Munchausen(NamedTuple):
    """alpha, tau and l_0 of the paper; the policy is the softmax of the target network's values over tau."""

    alpha: float
    tau: float
    low: float

    def log_policy(self, q: Tensor) -> Tensor:
        """Return tau log pi(.|s) for values [B, A] (appendix B.1: nothing overflows, however small tau is)."""
        below = q - q.amax(1, keepdim=True)
        return below - self.tau * (below / self.tau).logsumexp(1, keepdim=True)

    def bonus(self, target_net: nn.Module, batch: Batch, given: Given) -> Tensor:
        """Return alpha [tau log pi(a|s)]_{l_0}^0, [B], which is added to the return (eq. 1).

        With n-step returns it is that of the first action alone, as in Beyond the Rainbow (Clark et al. 2024).
        """
        log_policy = self.log_policy(target_net(batch.obs, given).q)
        taken = log_policy.gather(1, batch.action[:, None]).squeeze(1)
        return self.alpha * taken.clamp(self.low, 0)

    def value(self, after: QOut) -> Tensor:
        """Return sum_a pi(a|s) (q(s, a) - tau log pi(a|s)) of the next state, [B], or for each quantile, [B, K]."""
        log_policy = self.log_policy(after.q)
        policy = (log_policy / self.tau).exp()
        if after.quantiles is None:
            return (policy * (after.q - log_policy)).sum(1)
        return (policy[..., None] * (after.quantiles - log_policy[..., None])).sum(1)
