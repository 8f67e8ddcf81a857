"""Heads of Q-networks: features in, what there is to say about each action out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trainer.nets.layers import Layers, Linear, hidden_layers
from trainer.types import Draws, Given, QOut


class ActionOutputs(nn.Module):
    """K numbers for each action, [B, F] -> [B, A, K], by one stream or by two (dueling, Wang et al. 2016, eq. 9).

    hidden: widths of hidden layers that each stream has for itself.
    """

    def __init__(
        self,
        features: int,
        num_actions: int,
        outputs: int,
        *,
        hidden: Sequence[int] = (),
        dueling: bool = False,
        linear: Linear = nn.Linear,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.num_actions, self.outputs = num_actions, outputs

        def stream(out: int) -> Layers:
            sizes = (features, *hidden)
            return Layers(*hidden_layers(sizes, linear, norm), linear(sizes[-1], out))

        self.value = stream(outputs) if dueling else None
        self.advantage = stream(num_actions * outputs)

    def forward(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        """Map features [B, F] to [B, A, K]; dueling adds value and advantage less its mean, for each of the K."""
        advantage: Tensor = self.advantage(x, draws).view(len(x), self.num_actions, self.outputs)
        if self.value is None:
            return advantage
        value: Tensor = self.value(x, draws)
        return value[:, None] + advantage - advantage.mean(1, keepdim=True)


class ValueHead(nn.Module):
    """One value per action."""

    def __init__(self, outputs: ActionOutputs) -> None:
        super().__init__()
        assert outputs.outputs == 1
        self.outputs = outputs

    def forward(self, x: Tensor, given: Given) -> QOut:
        """Map features [B, F] to q [B, A]."""
        return QOut(q=self.outputs(x, given.draws).squeeze(2))
