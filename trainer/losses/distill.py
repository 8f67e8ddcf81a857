"""Policy distillation (Rusu et al. 2016): a student learns the policy implied by the values of trained networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from trainer.types import Batch, Given, LossOut, QOut, Rates

Teacher = Callable[[Tensor, Tensor | None], Tensor]
"""(obs [B, *], task [B] or None) -> probabilities of the actions [B, A], without gradients."""


@torch.no_grad()
def teach(obs: Tensor, task: Tensor | None, *, nets: Sequence[nn.Module], temperature: float) -> Tensor:
    """Return the teachers' policy, softmax(Q_T(s, .) / temperature), [B, A].

    Without tasks it is the mean of the teachers' policies; with them, task [B] selects the teacher of each row.
    """
    given = Given(task=task)
    policies = torch.stack([torch.softmax(net(obs, given).q / temperature, 1) for net in nets])  # [teachers, B, A]
    if task is None:
        return policies.mean(0)
    return policies[task, torch.arange(len(task), device=task.device)]


def distill(
    net: nn.Module,
    target_net: nn.Module,
    batch: Batch,
    rates: Rates,
    said: LossOut,
    *,
    teacher: Teacher,
    weight: float,
) -> Tensor:
    """Return weight * rates.teaching * KL(teacher || softmax(Q(s, .))), [B] (Rusu et al. 2016, eq. 3)."""
    out: QOut = net(batch.obs, Given(task=batch.task)) if said.out is None else said.out
    policy = teacher(batch.obs, batch.task).to(out.q.dtype)
    student = torch.log_softmax(out.q, 1)
    divergence = (torch.xlogy(policy, policy) - policy * student).sum(1)
    return weight * rates.teaching * divergence
