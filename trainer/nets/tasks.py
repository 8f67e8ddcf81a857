"""Telling a network which of several tasks an observation belongs to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.types import Given, QOut


class TaskHead(nn.Module):
    """A head that knows the task: its features are scaled and shifted, x * (1 + scale[task]) + shift[task].

    Feature-wise linear modulation (FiLM, Perez et al. 2018) by a table. The scales start as 1 + N(0, 1), so that tasks
    differ from the beginning: starting from the identity, the gradients of tasks that contradict each other cancel,
    and the tasks separate slowly. Works with every head: head is (features, given) -> QOut for A actions.
    actions: how many actions each task has. The head's outputs beyond those are not used: each is replaced by that of
    action a modulo their number, as `Padded` plays it: maxima and expectations over A actions are those of its policy.
    only: the task to assume where none is given, for a network used outside its run.
    """

    only: int | None = None
    meant: Tensor

    def __init__(self, actions: Sequence[int], features: int, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.scale = nn.Parameter(torch.randn(len(actions), features))
        self.shift = nn.Parameter(torch.zeros(len(actions), features))
        self.alike = len(set(actions)) == 1
        meant = torch.arange(max(actions)) % torch.tensor(actions)[:, None]
        self.register_buffer("meant", meant, persistent=False)  # [tasks, A]

    def forward(self, x: Tensor, given: Given) -> QOut:
        """Map features [B, F] of the tasks given.task [B] to QOut."""
        task = given.task
        if task is None:
            assert self.only is not None, "a multi-task network needs the task"
            task = torch.full_like(x[:, 0], self.only, dtype=torch.int64)
        out: QOut = self.head(x * (1 + F.embedding(task, self.scale)) + F.embedding(task, self.shift), given)
        if self.alike:
            return out
        meant = self.meant[task]
        return out._replace(
            q=_repeat(out.q, meant),
            logits=None if out.logits is None else _repeat(out.logits, meant),
            quantiles=None if out.quantiles is None else _repeat(out.quantiles, meant),
            heads=None if out.heads is None else _repeat(out.heads, meant),
        )


def _repeat(said: Tensor, meant: Tensor) -> Tensor:
    """Return `said` [B, A, ...] at the actions `meant` [B, A]."""
    index = meant.view(*meant.shape, *(1 for _ in said.shape[2:]))
    return said.gather(1, index.expand_as(said))
