"""A recurrent Q-network and the loss of R2D2 in NumPy and float64: loops over sequences, steps and gates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.losses.rescale import EPSILON
from trainer.nets import ActionOutputs, RecurrentQNetwork, ValueHead, VectorTorso
from trainer.types import Sequences

A, H, OBS = 3, 5, 4

Floats = NDArray[np.float64]


def network(seed: int) -> RecurrentQNetwork:
    torch.manual_seed(seed)
    torso = VectorTorso((OBS,), (6,))
    head = ValueHead(ActionOutputs(H, A, 1, dueling=True))
    net = RecurrentQNetwork(torso, torso.features, head, num_actions=A, width=H).double()
    for parameter in net.parameters():
        parameter.data.mul_(2.5)  # away from the linear part of the gates
    return net


def sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def step(net: RecurrentQNetwork, obs: Floats, action: int, reward: float, state: Floats) -> tuple[Floats, Floats]:
    """(q [A], state [2, H]) of one observation, by Hochreiter & Schmidhuber 1997 with forget gates."""
    w = {name: value.numpy(force=True) for name, value in net.state_dict().items()}
    features = np.maximum(w["torso.layers.0.weight"] @ obs + w["torso.layers.0.bias"], 0)
    x = np.concatenate((features, np.eye(A)[action], [np.tanh(reward)]))
    hidden, cell = state
    gates = w["lstm.weight_ih_l0"] @ x + w["lstm.bias_ih_l0"] + w["lstm.weight_hh_l0"] @ hidden + w["lstm.bias_hh_l0"]
    enter, forget, candidate, show = gates.reshape(4, H)
    cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(candidate)
    hidden = sigmoid(show) * np.tanh(cell)
    value = w["head.outputs.value.0.weight"] @ hidden + w["head.outputs.value.0.bias"]
    advantage = w["head.outputs.advantage.0.weight"] @ hidden + w["head.outputs.advantage.0.bias"]
    return value + advantage - advantage.mean(), np.stack((hidden, cell))


def unrolled(net: RecurrentQNetwork, batch: Sequences, b: int, burn_in: int) -> dict[int, Floats]:
    """Column -> q [A] of sequence b, from the column of its stored state on."""
    state, out = batch.state[b].numpy(), {}
    for t in range(0 if batch.warm[b] else burn_in, batch.obs.shape[1]):
        obs = batch.obs[b, t].double().numpy()
        out[t], state = step(net, obs, int(batch.last_action[b, t]), float(batch.last_reward[b, t]), state)
    return out


def h(x: float) -> float:
    return float(np.sign(x) * (np.sqrt(abs(x) + 1) - 1) + EPSILON * x)


def h_inverse(x: float) -> float:
    root = (np.sqrt(1 + 4 * EPSILON * (abs(x) + 1 + EPSILON)) - 1) / (2 * EPSILON)
    return float(np.sign(x) * (root**2 - 1))


def loss(
    net: RecurrentQNetwork,
    target_net: RecurrentQNetwork,
    batch: Sequences,
    *,
    burn_in: int,
    double: bool,
    kind: str,
    rescaled: bool,
    eta: float,
) -> dict[str, list[Any]]:
    """Loss, terms and priority of each sequence (Kapturowski et al. 2019, section 2.3 and 3)."""
    found: dict[str, list[Any]] = {"loss": [], "terms": [], "priority": [], "q_values": []}
    for b in range(len(batch.obs)):
        online, target = unrolled(net, batch, b, burn_in), unrolled(target_net, batch, b, burn_in)
        losses, deltas, values = [], [], []
        for t in range(batch.obs.shape[1]):
            if not batch.learns[b, t]:
                continue
            y = float(batch.ret[b, t])
            if batch.discount[b, t] != 0:
                ahead = t + int(batch.ahead[b, t])
                best = int(np.argmax((online if double else target)[ahead]))
                value = float(target[ahead][best])
                y += float(batch.discount[b, t]) * (h_inverse(value) if rescaled else value)
            y = h(y) if rescaled else y
            values.append(float(online[t][int(batch.action[b, t])]))
            delta = abs(y - values[-1])
            deltas.append(delta)
            losses.append(delta**2 if kind == "mse" else delta**2 / 2 if delta <= 1 else delta - 1 / 2)
        found["loss"].append(sum(losses))
        found["terms"].append(len(losses))
        found["priority"].append(eta * max(deltas) + (1 - eta) * sum(deltas) / len(deltas) if deltas else 0.0)
        found["q_values"].append(sum(values) / len(values) if values else 0.0)
    return found
