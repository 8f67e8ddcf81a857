"""Self-predictive representations (SPR, Schwarzer et al. 2021): an encoder that predicts its own latents learns more
from few transitions. Pure maths, one number per sample."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.types import Batch, Future, LossOut, Rates


class Foresees(Protocol):
    """What this loss needs from a network's body."""

    def encode(self, obs: Tensor) -> Tensor:
        """Map scaled images [B, C, H, W] to latents [B, c, h, w]."""

    def imagine(self, latent: Tensor, action: Tensor) -> Tensor:
        """Map latents [B, c, h, w] and actions [B] to the latents one step later."""

    def project(self, latent: Tensor) -> Tensor:
        """Map latents [B, c, h, w] to [B, P], where they are compared."""

    def predict(self, projection: Tensor) -> Tensor:
        """Map projections of imagined latents, [B, P], to predicted projections of the true ones."""


def spr(
    net: nn.Module,
    target_net: nn.Module,
    batch: Batch,
    rates: Rates,
    said: LossOut,
    *,
    online: Any,
    weight: float,
) -> Tensor:
    """Return weight / F * sum_{k=1..F} |p_k - t_k|^2 over the valid steps, [B]; p and t of length 1.

    t_k is the target network's projection of what was observed k steps later, p_k the online network's prediction of
    it from obs and the actions alone; |p - t|^2 = 2 - 2 cos, so with weight 2F this is eq. 2 and 3 of the paper (whose
    lambda is 2) plus a constant. Dividing by F, not by the number of valid steps, follows the authors' code.
    online: the raw online network, whose `torso` is a `Foresees` (`net` may be a wrapper with a forward pass only).
    """
    future = batch.future
    assert future is not None, "the replay was built without `future`"
    target: Any = target_net
    with torch.no_grad():
        expected = project_all(target.torso, target.scale(future.obs.flatten(0, 1))).view(*future.valid.shape, -1)
    foreseen = foresee(online.torso, online.scale(batch.obs), future)
    return weight * distance(foreseen, expected, future.valid)


def project_all(torso: Foresees, images: Tensor) -> Tensor:
    """Encode and project images [B, C, H, W] to [B, P]."""
    return torso.project(torso.encode(images))


def foresee(torso: Foresees, images: Tensor, future: Future) -> Tensor:
    """Return the predictions for the next F steps, [B, F, P], from images [B, C, H, W] and the actions taken."""
    latent, latents = torso.encode(images), []
    for action in future.action.unbind(1):
        latent = torso.imagine(latent, action)
        latents.append(latent)
    rows = torch.stack(latents, 1)
    foreseen = torso.predict(torso.project(rows.flatten(0, 1)))
    return foreseen.view(*rows.shape[:2], -1)


def distance(foreseen: Tensor, expected: Tensor, valid: Tensor) -> Tensor:
    """Return the mean over steps of 2 - 2 cos, 0 where not valid: [B, F, P] twice and [B, F] bool to [B]."""
    cosine = (F.normalize(foreseen, dim=2) * F.normalize(expected, dim=2)).sum(2)
    return torch.where(valid, 2 - 2 * cosine, 0).mean(1)
