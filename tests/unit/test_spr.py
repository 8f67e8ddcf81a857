"""Self-prediction against a twin in NumPy, what the gradient reaches, and that a deterministic world is predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.build import build_net
from trainer.config import Config, NetConfig, PixelsConfig, RuntimeConfig
from trainer.envs import EnvSpec
from trainer.losses import spr
from trainer.losses.spr import distance
from trainer.types import Batch, Future, LossOut, Rates

CPU = torch.device("cpu")
B, F, A, SIDE = 6, 3, 4, 7
SAID = LossOut(torch.zeros(B), torch.zeros(B), {})


def network(seed: int = 1, *, noisy: bool = False, torso: Any = "minatar", spr: float = 1.0) -> Any:
    config = Config(
        seed=seed,
        net=NetConfig(torso=torso, hidden=(10,), noisy=noisy),
        pixels=PixelsConfig(spr=spr),
        runtime=RuntimeConfig(dtype="float64"),
    )
    side = 84 if torso == "nature" else SIDE
    return build_net(config, EnvSpec("toy", (2, side, side), torch.uint8, A, 1, "repeat", True), CPU)


def problem(seed: int = 0, valid: Tensor | None = None) -> Batch:
    g = torch.Generator().manual_seed(seed)

    def images(*shape: int) -> Tensor:
        return torch.randint(0, 256, (*shape, 2, SIDE, SIDE), generator=g).to(torch.uint8)

    if valid is None:
        valid = torch.arange(F) < torch.tensor([3, 3, 2, 1, 0, 3])[:, None]
    action = torch.randint(0, A, (B, F), generator=g)
    nothing = torch.zeros(B, dtype=torch.float64)
    future = Future(images(B, F), action, valid)
    return Batch(images(B), action[:, 0], nothing, nothing, images(B), torch.arange(B), future=future)


def conv(x: Any, layer: nn.Conv2d) -> Any:
    """A convolution of one image [C, H, W], with loops."""
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()  # type: ignore[union-attr]
    pad = int(layer.padding[0])
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad)])
    size = weight.shape[2]
    out = np.zeros((weight.shape[0], x.shape[1] - size + 1, x.shape[2] - size + 1))
    for c, y, z in np.ndindex(out.shape):
        out[c, y, z] = (weight[c] * x[:, y : y + size, z : z + size]).sum() + bias[c]
    return out


def linear(x: Any, layer: nn.Module) -> Any:
    return layer.weight.detach().numpy() @ x + layer.bias.detach().numpy()  # type: ignore[operator,union-attr]


def relu(x: Any) -> Any:
    return np.maximum(x, 0)


def normalise(x: Any) -> Any:
    return (x - x.min()) / (x.max() - x.min() + 1e-5)


def twin(net: Any, target_net: Any, batch: Batch, weight: float) -> Any:
    """Schwarzer et al. 2021, section 3, one transition and one step at a time."""
    future = batch.future
    assert future is not None

    def encode(torso: Any, image: Tensor) -> Any:
        return normalise(relu(conv(image.numpy() / 255, torso.body.convs[0])))

    losses = np.zeros(B)
    for b in range(B):
        torso, target = net.torso, target_net.torso
        z = encode(torso, batch.obs[b])
        for k in range(F):
            planes = np.zeros((A, *z.shape[1:]))
            planes[int(future.action[b, k])] = 1
            z = relu(conv(np.concatenate((z, planes)), torso.transition[0]))
            z = normalise(relu(conv(z, torso.transition[2])))
            if not future.valid[b, k]:
                continue
            foreseen = linear(linear(z.ravel(), torso.body.layers[0]), torso.predictor)
            expected = linear(encode(target, future.obs[b, k]).ravel(), target.body.layers[0])
            cosine = foreseen @ expected / np.linalg.norm(foreseen) / np.linalg.norm(expected)
            losses[b] += weight * (2 - 2 * cosine) / F
    return losses


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noisy", [False, True])
def test_loss_equals_the_paper(seed: int, noisy: bool) -> None:
    net, target_net, batch = network(1, noisy=noisy), network(2, noisy=noisy), problem(seed)
    loss = spr(net, target_net, batch, Rates(), SAID, online=net, weight=2.5)
    assert loss.shape == (B,)
    np.testing.assert_allclose(loss.detach().numpy(), twin(net, target_net, batch, 2.5), rtol=0, atol=1e-12)
    assert loss[4] == 0, "nothing followed"


def test_distance_of_edge_inputs() -> None:
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    yes = torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(distance(x, 3 * x, yes), torch.zeros(2).double())
    torch.testing.assert_close(distance(x, -x, yes), torch.full((2,), 4.0).double())
    assert torch.equal(distance(x, torch.full_like(x, torch.nan), ~yes), torch.zeros(2).double())
    silent = torch.zeros_like(x, requires_grad=True)
    distance(silent, x, yes).sum().backward()
    assert silent.grad is not None
    assert silent.grad.isfinite().all(), "no direction yet"


def test_steps_beyond_the_end_are_not_seen() -> None:
    batch = problem()
    future = batch.future
    assert future is not None
    net, target_net = network(1), network(2)
    beyond = ~future.valid[..., None, None, None]
    other = future._replace(obs=torch.where(beyond, 255 - future.obs, future.obs))
    everything = problem(valid=torch.ones(B, F, dtype=torch.bool))
    batches = (batch, batch._replace(future=other), everything)
    one, two, seen = (spr(net, target_net, b, Rates(), SAID, online=net, weight=1) for b in batches)
    assert torch.equal(one, two)
    assert (seen > one).tolist() == [False, False, True, True, True, False]


def test_gradient_reaches_the_encoder_and_never_the_target() -> None:
    """Were the target to learn too, one constant latent would be the best answer; without it nothing pulls there."""
    net = network()
    target_net = network()  # the same weights, still with gradients: the loss itself has to block them
    spr(net, target_net, problem(), Rates(), SAID, online=net, weight=1).sum().backward()
    reached = {name for name, p in net.named_parameters() if p.grad is not None and (p.grad != 0).any()}
    assert reached == {f"torso.{name}" for name, _ in net.torso.named_parameters()}
    assert all(p.grad is None for p in target_net.parameters())
    own = network()
    spr(own, own, problem(), Rates(), SAID, online=own, weight=1).sum().backward()
    for name, p in own.named_parameters():
        if name in reached:
            assert torch.equal(p.grad, dict(net.named_parameters())[name].grad), "as its own target, too"


def test_its_parameters_are_part_of_the_network() -> None:
    with_it, without = network(), network(spr=0.0)
    more = {name for name, _ in with_it.named_parameters() if "transition" in name or "predictor" in name}
    assert len(more) == 6
    assert not any("transition" in name or "predictor" in name for name, _ in without.named_parameters())
    assert set(with_it.state_dict()) == {name for name, _ in with_it.named_parameters()}, "each once"


@pytest.mark.parametrize(("torso", "shape"), [("minatar", (16, 5, 5)), ("nature", (64, 7, 7))])
def test_imagined_latents_look_like_true_ones(torso: str, shape: tuple[int, ...]) -> None:
    body = network(torso=torso).torso
    side = 84 if torso == "nature" else SIDE
    latent = body.encode(torch.rand(2, 2, side, side, dtype=torch.float64))
    after = body.imagine(latent, torch.tensor([0, A - 1]))
    assert latent.shape == after.shape == (2, *shape)
    for x in (latent, after):
        assert x.amin() == 0
        assert 0.99 < x.amax() <= 1
    assert not torch.equal(body.imagine(latent, torch.tensor([1, 1])), after), "the action matters"


def drifting(rows: int, g: torch.Generator) -> Batch:
    """A bar that an action moves left, not at all or right. All is known from the picture and the actions."""
    start = torch.randint(0, SIDE, (rows,), generator=g)
    action = torch.randint(0, A, (rows, F), generator=g)
    place, places = start, []
    for k in range(F):
        place = (place + torch.tensor([-1, 0, 1, 1])[action[:, k]]).clamp(0, SIDE - 1)
        places.append(place)
    place = torch.stack(places, 1)

    def draw(column: Tensor) -> Tensor:
        out = torch.zeros(*column.shape, 2, SIDE, SIDE, dtype=torch.uint8)
        return out.scatter_(-1, column[..., None, None, None].expand(*column.shape, 2, SIDE, 1), 255)

    nothing = torch.zeros(rows, dtype=torch.float64)
    future = Future(draw(place), action, torch.ones(rows, F, dtype=torch.bool))
    return Batch(draw(start), action[:, 0], nothing, nothing, draw(place[:, 0]), torch.arange(rows), future=future)


@pytest.mark.parametrize("told", [True, False])
def test_a_deterministic_world_is_foreseen_by_its_actions(told: bool) -> None:
    """The loss falls to almost nothing, but not where the model is lied to about the actions."""
    net, g = network(), torch.Generator().manual_seed(0)
    target_net = network(2)  # fixed, as between two refreshes
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        batch = drifting(32, g)
        if not told:
            assert batch.future is not None
            batch = batch._replace(future=batch.future._replace(action=batch.future.action.flip(0)))
        loss = spr(net, target_net, batch, Rates(), SAID, online=net, weight=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.0
    last = sum(losses[-20:]) / 20
    assert last < 0.1 if told else last > 0.3
