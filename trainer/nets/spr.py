"""The body of a network that predicts its own latents (SPR, Schwarzer et al. 2021, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.nets.torsos import ImageTorso
from trainer.types import Draws


class ForeseeingTorso(nn.Module):
    """An image torso with a transition model of its latents; a `Foresees` of the SPR loss.

    Latents are the outputs of the convolutions, scaled to [0, 1], here as in acting. They are compared after the first
    fully connected layer, which the Q-head shares (without noise if it is noisy). No batch normalisation: it would
    make a sample's loss depend on the other samples on its rank.
    """

    def __init__(self, torso: ImageTorso, obs_shape: tuple[int, ...], num_actions: int) -> None:
        super().__init__()
        assert len(torso.layers), "nothing to project with: config should have refused it"
        self.body, self.features, self.num_actions = torso, torso.features, num_actions
        with torch.no_grad():
            latent = self.encode(torch.zeros(1, *obs_shape))
            width = self.project(latent).shape[1]
        channels = latent.shape[1]
        self.transition = nn.Sequential(
            nn.Conv2d(channels + num_actions, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
        )
        self.predictor = nn.Linear(width, width)

    def forward(self, obs: Tensor, draws: Draws | None = None) -> Tensor:
        """Map images [B, C, H, W] to features [B, F]."""
        x: Tensor = self.body.layers(self.encode(obs).flatten(1), draws)
        return x

    def encode(self, obs: Tensor) -> Tensor:
        """Map scaled images [B, C, H, W] to latents [B, c, h, w]."""
        return renormalize(self.body.maps(obs))

    def imagine(self, latent: Tensor, action: Tensor) -> Tensor:
        """Map latents [B, c, h, w] and actions [B] to the latents one step later; an action is a plane of ones."""
        took = action[:, None] == torch.arange(self.num_actions, device=action.device)  # one_hot reads it on the host
        planes = took.to(latent.dtype)[:, :, None, None]
        return renormalize(self.transition(torch.cat((latent, planes.expand(-1, -1, *latent.shape[2:])), 1)))

    def project(self, latent: Tensor) -> Tensor:
        """Map latents [B, c, h, w] to [B, P], where they are compared."""
        projection: Tensor = self.body.layers[0](latent.flatten(1))
        return projection

    def predict(self, projection: Tensor) -> Tensor:
        """Map projections of imagined latents, [B, P], to predicted projections of the true ones."""
        expected: Tensor = self.predictor(projection)
        return expected


def renormalize(latent: Tensor) -> Tensor:
    """Scale latents [B, c, h, w] to [0, 1], each by itself; keeps imagined ones bounded (Schrittwieser et al. 2020)."""
    low, high = latent.amin((1, 2, 3), keepdim=True), latent.amax((1, 2, 3), keepdim=True)
    return (latent - low) / (high - low + 1e-5)
