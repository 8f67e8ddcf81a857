"""Random shifts of the images that a loss sees (DrQ, Yarats et al. 2021, section 4.1), on the device, in the update."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.types import Batch, Draws, Loss, LossOut, Rates, Sequences


def shifted(
    net: nn.Module,
    target_net: nn.Module,
    batch: Batch | Sequences,
    rates: Rates,
    *,
    base: Loss,
    draws: Draws,
    pixels: int,
) -> LossOut:
    """Return `base` of the batch with its images shifted by up to `pixels` in each direction.

    Every observation has its own shift: obs and next_obs of a transition differ, the frames of a stack do not. The
    observations of a sequence move together, because a recurrent state runs through them.
    """
    moved = batch._replace(obs=move(batch.obs, draws, pixels))
    if isinstance(moved, Batch):
        future = moved.future
        if future is not None:
            rows = move(future.obs.flatten(0, 1), draws, pixels).view_as(future.obs)
            future = future._replace(obs=rows)
        moved = moved._replace(next_obs=move(moved.next_obs, draws, pixels), future=future)
    return base(net, target_net, moved, rates)


def move(images: Tensor, draws: Draws, pixels: int) -> Tensor:
    """Shift each of the images [B, ..., H, W] by its own random vector, repeating its border beyond the frame."""
    by = (draws.uniform(len(images), 2) * (2 * pixels + 1)).long().clamp(max=2 * pixels) - pixels
    return translate(images, by)


def translate(images: Tensor, by: Tensor) -> Tensor:
    """Return out[b, ..., y, x] = images[b, ..., y + by[b, 0], x + by[b, 1]], the border repeated beyond the frame.

    This pads with copies of the border and crops, in one gather. images: [B, ..., H, W] of any number type;
    by: [B, 2] int64.
    """
    rows, height, width = len(images), *images.shape[-2:]
    y = (torch.arange(height, device=images.device) + by[:, :1]).clamp(0, height - 1)  # [B, H]
    x = (torch.arange(width, device=images.device) + by[:, 1:]).clamp(0, width - 1)  # [B, W]
    pixel = (y[:, :, None] * width + x[:, None, :]).view(rows, 1, -1)
    flat = images.reshape(rows, -1, height * width)
    return flat.gather(2, pixel.expand_as(flat)).view_as(images)
