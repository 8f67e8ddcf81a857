"""A loss with others added to it, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from trainer.types import Batch, Loss, LossOut, Rates

Part = Callable[[nn.Module, nn.Module, Batch, Rates, LossOut], Tensor]
"""(net, target_net, batch, rates, what the base loss returned) -> loss [B], already weighted."""


def joint(
    net: nn.Module, target_net: nn.Module, batch: Batch, rates: Rates, *, base: Loss, parts: Mapping[str, Part]
) -> LossOut:
    """Return `base` plus all `parts`; priorities are those of `base`, each part is a metric under its name.

    A part counts once per term that the base loss sums, so not at all in a row without terms.
    """
    said = base(net, target_net, batch, rates)
    loss, metrics = said.loss, dict(said.metrics)
    for name, part in parts.items():
        extra = part(net, target_net, batch, rates, said)
        extra = extra if said.terms is None else extra * said.terms
        loss = loss + extra
        metrics[name] = extra.detach()
    return said._replace(loss=loss, metrics=metrics)
